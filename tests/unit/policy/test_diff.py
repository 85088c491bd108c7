"""What one policy allows and another does not: proved, shown by a job, and told for a merge request."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.cli import cli
from broker.identity.claims import ClaimSet, ClaimValue
from broker.policy.decide import decide_claims
from broker.policy.diff import compare
from broker.policy.model import Allow, Policy
from broker.policy.replay import Past, replay
from tests.unit.policy.build import HEAD, LAKE, PRODUCTION, WHOLE, policy

MAIN = 'when.ref_path = "refs/heads/main"'
VAULT = """
[[grant]]
name = "warehouse"
environments = ["production"]
max_ttl = "1h"
[grant.vault]
role = "etl"
path = "database/creds/etl"
"""


def _gets(loaded: Policy, job: ClaimSet) -> dict[str, str]:
    """Grant -> environment, as the evaluator has it."""
    decision = decide_claims(loaded, "gitlab", "gitlab", job, None)
    return dict.fromkeys(decision.grants, decision.environment) if isinstance(decision, Allow) else {}


def test_a_policy_is_the_same_as_itself() -> None:
    found = compare(policy(WHOLE), policy(WHOLE + "# a remark\n"))
    assert (found.gained, found.lost, found.changed, found.widens) == ((), (), (), False)


def test_the_same_said_otherwise_is_proved_to_be_the_same() -> None:
    """No comparing of text: two rules that describe the same jobs are one."""
    one = policy(HEAD + PRODUCTION.replace('= "refs/heads/main"', '= ["refs/heads/*", "refs/heads/a/*"]') + LAKE)
    other = policy(
        HEAD + PRODUCTION.replace('= "refs/heads/main"', '= ["refs/heads/a/*", "refs/heads/*", "refs/heads/main"]') + LAKE
    )
    assert not compare(one, other).gained + compare(one, other).lost


def test_a_guard_that_is_taken_away_widens_and_its_return_narrows() -> None:
    strict, loose = (policy(HEAD + PRODUCTION.replace(line, "") + LAKE) for line in ("", "when.ref_protected = true\n"))
    found = compare(strict, loose)
    assert found.widens
    assert [(g.environment.name, g.grants, g.before, g.job["ref_protected"]) for g in found.gained] == [
        ("production", ("lake",), "no_environment", False)
    ]
    assert not found.lost
    back = compare(loose, strict)
    assert not back.widens
    assert [g.grants for g in back.lost] == [("lake",)]


def test_a_grant_for_one_more_environment_widens_it_alone() -> None:
    more = policy(WHOLE.replace('environments = ["production"]', 'environments = ["production", "review"]'))
    found = compare(policy(WHOLE), more)
    assert [(g.environment.name, g.grants, g.before) for g in found.gained] == [("review", ("warehouse",), "review: lake")]
    assert not found.lost


def test_a_job_that_moves_is_lost_in_one_environment_and_gained_in_the_other() -> None:
    renamed = policy(WHOLE.replace('"review"', '"branches"'))
    found = compare(policy(WHOLE), renamed)
    assert [(g.environment.name, g.before) for g in found.gained] == [("branches", "review: lake")]
    assert [(g.environment.name, g.before) for g in found.lost] == [("review", "branches: lake")]


@pytest.mark.parametrize(
    ("old", "new", "key", "wider"),
    [
        ('max_ttl = "1h"', 'max_ttl = "2h"', "max_ttl", True),
        ('max_ttl = "1h"', 'max_ttl = "30m"', "max_ttl", False),
        ('max_ttl = "1h"', "", "max_ttl", True),
        ('max_ttl = "1h"', 'max_ttl = "1h"\nrate = "3/m"', "rate", False),
        ('max_ttl = "1h"', 'max_ttl = "1h"\nstrict_expiry = true', "strict_expiry", False),
        ('role = "etl"', 'role = "admin"', "vault.role", True),
        ('path = "database/creds/etl"', 'path = "database/creds/admin"', "vault.path", True),
    ],
)
def test_what_a_grant_is_counts_too(old: str, new: str, key: str, wider: bool) -> None:
    text = HEAD + PRODUCTION + VAULT
    found = compare(policy(text), policy(text.replace(old, new)))
    assert [(c.environment, c.grant, c.key, c.wider) for c in found.changed] == [("production", "warehouse", key, wider)]
    assert found.widens is wider
    assert not found.gained + found.lost


@pytest.mark.parametrize(
    ("line", "key", "wider"),
    [
        ('max_session = "2h"', "max_session", False),
        ("max_exchanges = 9", "max_exchanges", True),
        ('hints = "full"', "hints", True),
    ],
)
def test_what_an_environment_allows_beside_grants_counts_too(line: str, key: str, wider: bool) -> None:
    text = HEAD + PRODUCTION + LAKE
    found = compare(policy(text), policy(text.replace(MAIN, f"{MAIN}\n{line}")))
    assert [(c.key, c.wider) for c in found.changed] == [(key, wider)]


def test_another_user_of_a_database_may_be_wider() -> None:
    text = HEAD + PRODUCTION + LAKE + 'rds = {{ host = "db.example.com", user = "{}" }}\n'
    old, new = (policy(text.replace("{environment}", "x").format(user)) for user in ("etl", "admin"))
    found = compare(old, new)
    told = [(one.key, one.old, one.new, one.wider) for one in found.changed]
    assert told == [("aws.rds", "etl@db.example.com:5432", "admin@db.example.com:5432", True)]


def test_another_kind_of_upstream_is_a_change_that_may_widen() -> None:
    found = compare(policy(HEAD + PRODUCTION + LAKE), policy(HEAD + PRODUCTION + VAULT.replace('"warehouse"', '"lake"')))
    assert [(c.key, c.wider) for c in found.changed] == [("max_ttl", False), ("upstream", True)]


def _one(ref: Any, protected: bool | None, sources: Any, forks: bool) -> str:
    lines = [f"when.ref_path = {json.dumps(ref)}", f"when.pipeline_source = {json.dumps(sources)}"]
    lines += [f"when.ref_protected = {str(protected).lower()}"] if protected is not None else []
    lines += ["allow_forks = true"] if forks and protected is not True else []
    return PRODUCTION.split("when.ref_path")[0] + "\n".join(lines) + "\n"


_REFS = st.lists(
    st.sampled_from(["refs/heads/a", "refs/heads/*", "refs/heads/**", "refs/tags/**", "refs/heads/a/*"]), min_size=1, max_size=2
)
_SOURCES = st.lists(st.sampled_from(["push", "web", "merge_request_event"]), min_size=1, max_size=2, unique=True)
_POLICIES = st.builds(_one, _REFS, st.sampled_from([True, False, None]), _SOURCES, st.booleans()).map(
    lambda text: policy(HEAD + text + LAKE)
)
_OWN: tuple[dict[str, ClaimValue], ...] = ({}, {"job_project_id": "4711"}, {"job_project_id": "1"})
_JOBS = [
    ClaimSet({"project_id": "4711", "ref_path": ref, "ref_protected": p, "pipeline_source": s, **own})
    for ref in ("refs/heads/a", "refs/heads/z", "refs/heads/a/z", "refs/heads/z/z", "refs/heads/a/z/z", "refs/tags/a")
    for p in (True, False)
    for s in ("push", "web", "merge_request_event", "other")
    for own in _OWN
]


@settings(max_examples=100, deadline=None)
@given(_POLICIES, _POLICIES)
def test_a_difference_agrees_with_counting_every_job(old: Policy, new: Policy) -> None:
    """Something is gained exactly when some job of the universe has more; each witness has it in one and not in the other."""
    found = compare(old, new)
    assert bool(found.gained) is any(_gets(new, job).items() - _gets(old, job).items() for job in _JOBS)
    assert bool(found.lost) is any(_gets(old, job).items() - _gets(new, job).items() for job in _JOBS)
    for sides, mine, theirs in ((found.gained, new, old), (found.lost, old, new)):
        for one in sides:
            assert _gets(mine, one.job)["lake"] == "production"
            assert "lake" not in _gets(theirs, one.job)


# --- the command ----------------------------------------------------------------------------------------------------------


def _files(folder: Path, *texts: str) -> list[str]:
    paths = [folder / f"{n}.toml" for n in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return list(map(str, paths))


def test_the_command_writes_markdown_and_fails_on_widening(tmp_path: Path) -> None:
    text = HEAD + PRODUCTION + LAKE
    old, new = _files(tmp_path, text, text.replace("when.ref_protected = true\n", ""))
    ran = CliRunner().invoke(cli, ["policy", "diff", old, new])
    assert ran.exit_code == 1
    assert "**this widens what jobs may do**" in ran.stdout
    assert '| production | lake | `{"pipeline_source"' in ran.stdout
    assert CliRunner().invoke(cli, ["policy", "diff", old, new, "--allow-widening"]).exit_code == 0
    back = CliRunner().invoke(cli, ["policy", "diff", new, old])
    assert (back.exit_code, "nothing widens" in back.stdout, "#### Lost" in back.stdout) == (0, True, True)
    record = json.loads(CliRunner().invoke(cli, ["policy", "diff", old, new, "--json"]).stdout)
    assert (record["widens"], record["gained"][0]["grants"], record["lost"]) == (True, ["lake"], [])
    same = CliRunner().invoke(cli, ["policy", "diff", old, old])
    assert "Proved: every job is decided as before" in same.stdout


def test_a_policy_that_is_not_taken_is_not_compared(tmp_path: Path) -> None:
    old, new = _files(tmp_path, HEAD + PRODUCTION + LAKE, "version = 2\n")
    ran = CliRunner().invoke(cli, ["policy", "diff", old, new])
    assert ran.exit_code == 78
    assert "1.toml:1: version is 2" in ran.stderr


# --- replay ---------------------------------------------------------------------------------------------------------------


def _past(ref: str, environment: str = "", grants: tuple[str, ...] = (), code: str = "", job_id: str = "302") -> Past:
    claims: dict[str, ClaimValue] = {
        "project_id": "4711",
        "ref_path": ref,
        "pipeline_source": "push",
        "ref_protected": True,
        "environment": "production",
    }
    return Past(
        issuer="gitlab", profile="gitlab", claims=ClaimSet(claims), project="acme/data", ref=ref, job_id=job_id,
        environment=environment, grants=grants, code=code,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("past", "outcome"),
    [
        (_past("refs/heads/main", "production", ("lake",)), "same"),
        (_past("refs/heads/main", "production", ("lake", "gone")), "lost"),
        (_past("refs/heads/x", "production", ("lake",)), "moved"),
        (_past("refs/tags/v1", "production", ("lake",)), "lost"),
        (_past("refs/heads/x", code="no_environment"), "gained"),
        (_past("refs/tags/v1", code="no_environment"), "same"),
        (_past("refs/heads/x", grants=("lake",), code="grant_denied"), "gained"),
        (_past("refs/heads/x", grants=("warehouse",), code="grant_denied"), "same"),
        (_past("refs/heads/x", code="grant_denied"), "unclear"),
    ],
)
def test_a_job_that_came_is_decided_again(past: Past, outcome: str) -> None:
    assert [case.outcome for case in replay(policy(WHOLE), [past])] == [outcome]


def test_jobs_of_one_ref_with_one_outcome_are_counted_together() -> None:
    found = replay(policy(WHOLE), [_past("refs/heads/x", code="no_environment", job_id=str(n % 2)) for n in range(5)])
    assert [(counted.decisions, list(counted.jobs)) for counted in found.values()] == [(5, ["0", "1"])]


def test_what_hangs_on_a_person_cannot_be_decided_again() -> None:
    """The log keeps no login: it would look absent."""
    text = HEAD + PRODUCTION.replace(MAIN, f'{MAIN}\nwhen.user_login = "ada"') + LAKE
    assert [case.outcome for case in replay(policy(text), [_past("refs/heads/main", "production", ("lake",))])] == ["unclear"]
