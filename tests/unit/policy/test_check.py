"""What deserves a second look: each warning beside the policy that has none."""

import pytest

from broker.policy import automata
from broker.policy.check import warnings
from tests.unit.policy.build import HEAD, LAKE, PRODUCTION, WHOLE, policy

GOOD = HEAD + PRODUCTION + LAKE
KV = LAKE.partition("[grant.aws]")[0] + '[grant.vault]\nrole = "etl"\npath = "secret/app/x"\nengine = "kv2"\n'


def _warnings(text: str) -> list[str]:
    return [str(warning) for warning in warnings(policy(text))]


def test_the_policy_of_the_design_has_no_warnings() -> None:
    assert _warnings(WHOLE) == []
    assert _warnings(GOOD) == []
    assert _warnings(HEAD + PRODUCTION + KV) == []


@pytest.mark.parametrize(
    ("take", "put", "line", "what"),
    [
        (
            "when.ref_protected = true\n",
            'unless.ref_path = "refs/heads/**"\n',
            3,
            "no job can ever be in environment 'production'",
        ),
        ("when.ref_protected = true\n", 'unless.ref_path = "refs/heads/**"\n', 10, "grant 'lake' cannot be had"),
        ("when.ref_protected = true\n", 'unless.ref_path = "refs/tags/**"\n', 8, "unless.ref_path keeps nobody out"),
        ("when.ref_protected = true\n", "allow_forks = true\n", 8, "takes merge requests of forks"),
        (
            "when.ref_protected = true\n",
            'when.environment = "production"\n',
            8,
            "environment is what the writer of the pipeline says",
        ),
        ('when.ref_path = "refs/heads/main"\nwhen.ref_protected = true\n', "", 3, "does not look at the ref"),
        ('when.ref_path = "refs/heads/main"', 'when.ref = "main"', 7, "a branch and a tag of the same name have the same `ref`"),
        ('"refs/heads/main"', '"refs/heads/release*"', 7, "takes every name that starts like it, 'refs/heads/release-evil' too"),
        ('"refs/heads/main"', '"refs/**"', 7, "takes tags as well as branches"),
        ('"refs/heads/main"', '"**/main"', 7, "starts with a wildcard"),
        ('"refs/heads/main"', '["refs/heads/*", "refs/heads/main"]', 7, "'refs/heads/main' is hidden: 'refs/heads/*' matches it"),
        ("when.ref_protected = true\n", "allow_forks = true\n", 8, "allow_forks changes nothing"),
        ("when.ref_protected = true\n", 'when.user_login = "alice"\n', 8, "user_login names a person"),
        ("when.project_id", "when.namespace_id", 3, "takes every project of namespace_id 4711, later ones too"),
        ("when.ref_protected = true\n", 'when.pipeline_source = ["push", "scheduled"]\n', 8, "did you mean 'schedule'?"),
    ],
)
def test_what_is_allowed_and_risky_is_said(take: str, put: str, line: int, what: str) -> None:
    assert take in GOOD
    found = _warnings(GOOD.replace(take, put))
    assert [w for w in found if w.startswith(f"policy.toml:{line}: ") and what in w], found


def test_an_environment_without_a_grant_is_said() -> None:
    second = PRODUCTION.replace('"production"', '"second"').replace("true", "false")
    found = _warnings(HEAD + PRODUCTION + second + LAKE)
    assert found == ["policy.toml:10: environment 'second' has no grant; name 'second' in the `environments` of a grant"]


def test_a_kv2_path_with_data_is_said() -> None:
    found = _warnings(HEAD + PRODUCTION + KV.replace("secret/app", "secret/data/app"))
    assert len(found) == 1
    assert found[0].startswith("policy.toml:15: the path of a kv2 secret is written without data/")
    assert found[0].endswith("write secret/app/x")


DATABASE = 'rds = {{ host = "{}", user = "etl" }}\n'
ENDPOINT = "db.example.eu-central-1.rds.amazonaws.com"


@pytest.mark.parametrize(
    ("lines", "line", "what"),
    [
        (DATABASE.format("db.example.com"), 15, "'db.example.com' is not named as RDS names its endpoints"),
        (DATABASE.format("x.eu-central-1.rds.amazonaws.com.evil.example"), 15, "is not named as RDS names its endpoints"),
        (
            'region = "eu-west-1"\n' + DATABASE.format(ENDPOINT),
            15,
            "in eu-central-1, and a token signed for eu-west-1 is refused",
        ),
        ('session_policy = "lake.json"\n' + DATABASE.format(ENDPOINT), 15, "does not allow rds-db:connect"),
    ],
)
def test_a_token_that_no_database_would_take_is_said(lines: str, line: int, what: str) -> None:
    assert _warnings(GOOD + DATABASE.format(ENDPOINT)) == []
    assert _warnings(GOOD + 'region = "eu-central-1"\n' + DATABASE.format("db.x.cn-north-1.rds.amazonaws.com.cn")) != []
    assert _warnings(GOOD + 'region = "cn-north-1"\n' + DATABASE.format("db.x.cn-north-1.rds.amazonaws.com.cn")) == []
    (found,) = _warnings(GOOD + lines)
    assert found.startswith(f"policy.toml:{line}: ")
    assert what in found


def test_a_source_that_is_no_slip_is_not_said() -> None:
    listed = 'when.pipeline_source = ["parent_pipeline", "merge_request_event", "ondemand_dast_scan"]\n'
    assert _warnings(GOOD.replace("when.ref_protected = true\n", "when.ref_protected = true\n" + listed)) == []


def test_what_cannot_be_followed_is_not_called_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = policy(
        GOOD.replace('"refs/heads/main"', '"refs/heads/*a*/**b"').replace(
            "when.ref_protected", 'unless.ref_path = "refs/heads/*b*"\nwhen.ref_protected'
        )
    )
    monkeypatch.setattr(automata, "_MAX_STATES", 3)
    assert not [w for w in warnings(rules) if "no job" in w.what or "nobody" in w.what]
