"""The schema for editors: in step with the parser, and no stricter than it."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomllib

from broker.identity.profile import Profile
from broker.identity.profiles import PROFILES
from broker.policy.claims_model import model_of
from broker.policy.reading import Table
from broker.policy.schema import schema
from tests.unit.policy.build import GOOD_OF_EVERY_KEY, HEAD, LAKE, PRODUCTION, WHOLE, policy, refusals

ROOT = Path(__file__).parents[3]
FILE = ROOT / "deploy/policy/policy.schema.json"
GOOD = HEAD + PRODUCTION + LAKE


def _takes(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(schema()).is_valid(tomllib.loads(text)))


def test_the_file_that_is_shipped_is_the_one_that_is_made() -> None:
    assert json.loads(FILE.read_text()) == schema(), "run: python -m tests.unit.policy.test_schema"
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("text", [WHOLE, GOOD, GOOD_OF_EVERY_KEY, (ROOT / "deploy/policy/policy.toml").read_text()])
def test_what_the_parser_takes_the_schema_takes(text: str) -> None:
    assert _takes(text)


@pytest.mark.parametrize(
    ("take", "put"),
    [
        ("version = 1", "version = 2"),
        ('name = "production"', "name = 3"),
        ('name = "production"', 'name = "Production"'),
        ('name = "production"\n', ""),
        ('name = "production"', 'name = "production"\nmax_sesion = "1h"'),
        ('name = "production"', 'name = "production"\nmax_session = "1 hour"'),
        ('name = "production"', 'name = "production"\nmax_exchanges = 0'),
        ('name = "production"', 'name = "production"\nhints = "some"'),
        ('name = "production"', 'name = "production"\nuse = "guard"'),
        ('when.issuer = "gitlab"\n', ""),
        ("when.ref_path =", "when.ref_pat ="),
        ("when.ref_path =", "when.sub ="),
        ('"refs/heads/main"', "[]"),
        ('"refs/heads/main"', '""'),
        ("ref_protected = true", 'ref_protected = "true"'),
        ('"4711"', "4711"),
        ('"4711"', '"47*"'),
        ('name = "lake"', 'name = "lake"\nrate = "30"'),
        ('environments = ["production"]', "environments = []"),
        ("role_arn =", "role_arm ="),
        ("role_arn =", 'rds = "x"\nrole_arn ='),
        ("role_arn =", 'rds = { host = "a.b" }\nrole_arn ='),
        ("role_arn =", 'rds = { host = "a.b", user = "u", port = 0 }\nrole_arn ='),
        ("role_arn =", 'rds = { host = "a.b", user = "u", db = "x" }\nrole_arn ='),
        ("[grant.aws]", '[grant.vault]\nrole = "x"\npath = "a/b"\n[grant.aws]'),
        ("[grant.aws]", "[grant.awz]"),
    ],
)
def test_what_has_the_wrong_shape_both_refuse(take: str, put: str) -> None:
    assert take in GOOD
    assert _takes(GOOD)
    bad = GOOD.replace(take, put, 1)
    assert refusals(bad)
    assert not _takes(bad)


def _asked(text: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Every key that the parser knows, by the table that it stands in."""
    found: dict[str, set[str]] = {}
    refuse = Table.refuse_others

    def watched(table: Table) -> None:
        path = "/".join("*" if table.place.path[:1] == ("guards",) and n == 1 else str(part)
                        for n, part in enumerate(table.place.path) if not isinstance(part, int))  # fmt: skip
        found.setdefault(path, set()).update(table._asked)
        refuse(table)

    monkeypatch.setattr(Table, "refuse_others", watched)
    policy(text)
    return found


def test_every_key_that_the_parser_knows_is_in_the_schema_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    top = schema()["properties"]
    environment, grant = top["environment"]["items"], top["grant"]["items"]
    invariant = top["invariant"]["items"]
    known: dict[str, Any] = {
        "": schema(),
        "environment": environment,
        "grant": grant,
        "grant/aws": grant["properties"]["aws"],
        "grant/aws/rds": grant["properties"]["aws"]["properties"]["rds"],
        "grant/vault": grant["properties"]["vault"],
        "guards/*": top["guards"]["additionalProperties"],
        "invariant": invariant,
        "invariant/never": invariant["properties"]["never"],
    }
    asked = _asked(GOOD_OF_EVERY_KEY, monkeypatch)
    assert asked == {path: set(table["properties"]) for path, table in known.items()}


def test_the_reference_names_every_key_and_every_claim() -> None:
    """docs/policy.md, by the tables of the schema."""
    text = (ROOT / "docs/policy.md").read_text()
    named = set(re.findall(r"`([a-z_0-9./]+)`", text))

    def keys(table: dict[str, Any]) -> set[str]:
        found = set(table.get("properties", {}))
        for inner in (*table.get("properties", {}).values(), table.get("items"), table.get("additionalProperties")):
            found |= keys(inner) if isinstance(inner, dict) else set()
        return found

    assert keys(schema()) - named == set()


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: str(profile.name))
def test_the_reference_has_a_table_of_each_issuers_claims_and_of_those_that_are_never_absent(profile: Profile) -> None:
    text = (ROOT / "docs/policy.md").read_text()
    kind = {"gitlab": "GitLab", "github": "GitHub"}.get(profile.name, profile.name.capitalize())
    table = re.search(rf"^\| claims of an? {kind} token \|.*?\n\n", text, re.DOTALL | re.MULTILINE | re.IGNORECASE)
    assert table is not None
    named = re.findall(r"`([a-z_0-9./]+)`", table[0])
    assert set(named) == set(profile.claims)
    assert named[0 if named[0] in profile.claims else 1] == profile.stable_id
    always = re.search(rf"^\| {kind} \| \|\n\|---\|---\|\n\| always there \|(.*)\|$", text, re.MULTILINE)
    assert always is not None
    assert set(re.findall(r"`([a-z_0-9./]+)`", always[1])) == model_of(profile.name).total


_OF_OTHERS = {
    "github": 'when.repository_id = "74"\nwhen.ref = "refs/heads/*"\nwhen.ref_protected = true\n',
    "okta": 'when.cid = "0oa2"\nwhen.sub = "0oa2"\nwhen.scp = ["etl.run"]\nwhen.ver = 1\n',
    "kubernetes": 'when."/kubernetes.io/serviceaccount/uid" = "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"\n',
    "generic": 'when.sub = "pipeline-7"\nwhen.roles = "etl"\nwhen."/org/name" = "acme"\nwhen.organization_slug = "acme"\n',
}


@pytest.mark.parametrize(("issuer", "claims"), _OF_OTHERS.items())
def test_claims_of_every_kind_of_issuer_are_taken_by_both(issuer: str, claims: str) -> None:
    text = f'{HEAD}[[environment]]\nname = "production"\nwhen.issuer = "{issuer}"\n{claims}{LAKE}'
    assert policy(text).environments[0].profile == issuer
    assert _takes(text)
    foreign = text.replace("when.issuer", "when.project_id = '1'\nwhen.issuer")
    if issuer != "generic":  # which may have a claim of any name
        assert refusals(foreign)
        assert not _takes(foreign)


def main() -> None:
    FILE.write_text(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
