"""Policy text to a policy, or to every problem in it."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.policy.language import PolicyInvalid, load, parse
from broker.policy.model import Rate
from broker.policy.target import AwsGrant, Rds, VaultGrant
from broker.toml_source import SourceInvalid
from tests.unit.policy.build import GOOD_OF_EVERY_KEY, HEAD, LAKE, LAKE_JSON, PRODUCTION, WHOLE, policy, refusals, templates

HOST = '"db.example.eu-central-1.rds.amazonaws.com"'
GOOD = HEAD + PRODUCTION + LAKE


def _refused(text: str, line: int, what: str, instead: str = "", **options: object) -> None:
    """Exactly one problem, at that line, in these words."""
    found = refusals(text, **options)
    assert len(found) == 1, found
    assert found[0].startswith(f"policy.toml:{line}: ")
    assert what in found[0]
    assert instead in found[0]


# --- what is taken --------------------------------------------------------------------------------------------------------


def test_the_policy_of_the_design_is_taken_whole() -> None:
    loaded = policy(WHOLE)
    production, review = loaded.environments
    assert (production.name, production.issuer, production.profile) == ("production", "gitlab", "gitlab")
    assert (production.pinned_by, production.pinned_to) == ("project_id", frozenset({"4711"}))
    assert (production.max_session, production.max_exchanges, production.hints) == (timedelta(hours=12), 8, "own")
    assert (review.max_session, review.allow_forks, review.order) == (None, False, 1)
    lake, warehouse = loaded.grants
    assert lake.target == AwsGrant(
        role_arn="arn:aws:iam::111122223333:role/etl-{environment}",
        session_policy=LAKE_JSON,
        policy_arns=(),
        external_id=None,
        region=None,
        ttl=timedelta(hours=1),
        upstream=None,
    )
    assert warehouse.target == VaultGrant(
        role="etl-{environment}", path="database/creds/etl-{environment}", engine="lease", upstream=None
    )
    assert (warehouse.max_ttl, warehouse.rate) == (timedelta(hours=1), Rate(count=30, per=timedelta(minutes=1)))
    assert (lake.rate, lake.max_ttl, lake.strict_expiry) == (None, None, False)
    assert loaded.granted(production) == {"lake": lake, "warehouse": warehouse}
    assert loaded.granted(review) == {"lake": lake}


@pytest.mark.parametrize(
    ("put", "meant"),
    [
        ("4711", '["4711"]'),
        ('"4711"', '["4711"]'),
        ("[4711, 12]", '["4711", "12"]'),
        ("[]", '["…"]'),
        ("0x" + "f" * 5000, "a list"),
    ],
)
def test_an_id_without_its_quotes_or_brackets_is_one_problem_that_says_what_to_write(put: str, meant: str) -> None:
    """And not a second one, that nothing is pinned."""
    good = GOOD.replace("version = 1", 'version = 1\nproject_id = ["4711"]').replace('when.project_id = "4711"\n', "")
    assert refusals(good) == []
    found = refusals(good.replace('["4711"]', put, 1))
    assert found[0].startswith("policy.toml:2: project_id is ")
    assert meant in found[0]
    if "…" not in meant and "a list" not in meant:
        assert len(found) == 1, found


def test_every_key_that_there_is_can_be_written() -> None:
    loaded = policy(GOOD_OF_EVERY_KEY)
    assert loaded.environments[0].pinned_by == "project_id"
    assert loaded.environments[0].hints == "full"
    assert loaded.grants[0].strict_expiry
    assert [grant.target.upstream for grant in loaded.grants] == ["aws-two", "vault-two", None]


def test_the_hash_covers_the_text_and_the_templates() -> None:
    """Another session policy is another policy, though the TOML is the same; line endings are none."""
    first = policy(WHOLE)
    assert first.hash.startswith("sha256:")
    assert len(first.hash) == 71
    assert policy(WHOLE.replace("\n", "\r\n")).hash == first.hash
    assert policy(WHOLE + "# a comment\n").hash != first.hash
    assert parse(WHOLE, "policy.toml", lambda _: LAKE_JSON.replace("Get", "Put")).hash != first.hash
    assert LAKE_JSON in first.text
    assert policy(first.text).environments == first.environments


def test_a_policy_is_loaded_with_the_templates_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(WHOLE)
    with pytest.raises(PolicyInvalid, match=r"policy\.toml:25: session_policy 'lake\.json': the file cannot be read \(No"):
        load(file)
    (tmp_path / "lake.json").write_text(LAKE_JSON)
    assert load(str(file)).hash == policy(WHOLE).hash
    with pytest.raises(PolicyInvalid, match="cannot be read"):
        load(tmp_path / "none.toml")


def test_a_template_outside_the_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(WHOLE.replace("lake.json", "../lake.json"))
    with pytest.raises(PolicyInvalid, match="is not a plain file name"):
        load(file)


def test_issuers_are_those_of_the_configuration_where_it_is_known() -> None:
    assert refusals(GOOD, issuers={"gitlab": "gitlab"}) == []
    assert refusals(GOOD.replace('"gitlab"', '"internal"'), issuers={"internal": "gitlab"}) == []
    asked = "when.issuer: no [[issuer]] is called 'gitlab'"
    _refused(GOOD, 5, asked, "did you mean 'gitlab-one'?", issuers={"gitlab-one": "gitlab"})


# --- what is refused, each beside what is taken ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("take", "put", "line", "what", "instead"),
    [
        # the document
        ("version = 1\n", "", 1, "version is missing", "write version = 1"),
        ("version = 1", "version = 2", 1, "version is 2", "write version = 1"),
        ("version = 1", "version = true", 1, "version is True", "write version = 1"),
        ("version = 1", "version = 1\ngrants = 3", 2, "unknown key 'grants'", "did you mean 'grant'?"),
        ("version = 1", "version = 1\nproject_id = []", 2, "project_id is not a list of one or more texts", 'project_id = ["…"]'),
        ("version = 1", "version = 1\nproject_id = [4711]", 2, "project_id is not a list of one or more texts", ""),
        ("version = 1", 'version = 1\nproject_id = ["1", "1"]\n', 2, "project_id names something twice", "once"),
        ("version = 1", 'version = 1\nproject_id = "4711"', 2, "project_id is text in quotes", "it is a list"),
        ("version = 1", 'version = 1\nproject_id = ["*"]', 2, "'*'", "exactly"),
        ("[[environment]]", "[environment]", 3, "environment is a table", "[[environment]] with two brackets"),
        # an environment
        ('name = "production"\n', "", 3, "name is missing", "add name"),
        ('name = "production"', 'name = "Production"', 4, "'Production' is not a name", "lower-case"),
        ('name = "production"', "name = 3", 4, "name is a whole number", "it is text in quotes"),
        (
            'name = "production"',
            'name = "production"\nmax_sesion = "1h"',
            5,
            "unknown key 'max_sesion'",
            "did you mean 'max_session'?",
        ),
        ('name = "production"', 'name = "production"\nmax_session = "1 hour"', 5, "'1 hour' is not a length of time", '"1h"'),
        ('name = "production"', 'name = "production"\nmax_session = 3600', 5, "max_session is a whole number", '"1h"'),
        ('name = "production"', 'name = "production"\nmax_session = "8d"', 5, "max_session is '8d'", "between 1m and 7d"),
        ('name = "production"', 'name = "production"\nmax_exchanges = 0', 5, "max_exchanges is 0", "between 1 and 1000"),
        (
            'name = "production"',
            'name = "production"\nmax_exchanges = true',
            5,
            "max_exchanges is true or false",
            "a whole number",
        ),
        ('name = "production"', 'name = "production"\nhints = "ful"', 5, "hints is 'ful'", "did you mean 'full'?"),
        ('name = "production"', 'name = "production"\nallow_forks = "no"', 5, "allow_forks is text", "true or false"),
        (
            'name = "production"',
            'name = "production"\nallow_forks = true',
            5,
            "allow_forks together with when.ref_protected",
            "own",
        ),
        # what it is pinned to
        ('when.issuer = "gitlab"\n', "", 5, "issuer is missing", "add issuer"),
        ('when.issuer = "gitlab"', 'when.issuer = ["gitlab"]', 5, "issuer is a list", "text"),
        ('when.issuer = "gitlab"', 'when.issuer = "git*"', 5, "'git*' is not a name", ""),
        ('when.project_id = "4711"', 'when.project_path = "acme/x"', 5, "the environment pins no project", "when.project_id or"),
        ('when.project_id = "4711"', 'unless.project_id = "4711"', 5, "the environment pins no project", "when.project_id or"),
        ('when.project_id = "4711"', "when.project_id = 4711", 6, "4711 is a number, and this claim is text", 'write "4711"'),
        ('when.project_id = "4711"', 'when.project_id = "47*"', 6, "an id is compared exactly", "list the ids"),
        ('when.project_id = "4711"', 'when.project_id = ["4711", "*"]', 6, "an id is compared exactly", "list the ids"),
        # conditions
        ("when.ref_path =", "when.ref_pat =", 7, "when.ref_pat: gitlab tokens have no such claim", "did you mean 'ref_path'?"),
        ("when.ref_path =", "when.sub =", 7, "shapes sub", "decide on its parts"),
        ("when.ref_path =", "when.aud =", 7, "when.aud: nothing is decided on this claim", "known are"),
        ('"refs/heads/main"', '""', 7, "the value is empty", "leave the condition out"),
        ('"refs/heads/main"', "[]", 7, "an empty list, which nothing can meet", "list at least"),
        ('"refs/heads/main"', '["refs/heads/main", ""]', 7, "the value is empty", ""),
        ('"refs/heads/main"', '["a", ["b"]]', 7, "['b'] is not text", "no nesting"),
        ('"refs/heads/main"', '{ any = "a" }', 7, "{'any': 'a'} is not text", "no nesting"),
        ('"refs/heads/main"', "1979-05-27", 7, "is not text", "in quotes"),
        ('"refs/heads/main"', "true", 7, "True is not text", "in quotes"),
        ('"refs/heads/main"', '" refs/heads/main"', 7, "has blanks at its ends", "no claim's value has"),
        ('"refs/heads/main"', '"refs/heads/main\\n"', 7, "has blanks at its ends or control characters", ""),
        ('"refs/heads/main"', '"**"', 7, "'**' matches everything", "has to start with"),
        ('"refs/heads/main"', '"*/*"', 7, "'*/*' matches everything", ""),
        ('"refs/heads/main"', '"refs/heads/***"', 7, "`***` means nothing", "wildcards"),
        ('"refs/heads/main"', '"refs/heads/r?*"', 7, "`?` is no wildcard", "wildcards"),
        ('"refs/heads/main"', '"refs/heads/r-?"', 7, "can never match", "wildcards"),
        ('"refs/heads/main"', '"refs/heads/[ab]"', 7, "can never match", "wildcards"),
        (
            "when.ref_protected = true",
            'when.ref_protected = "true"',
            8,
            "is a boolean and 'true' is none",
            "when.ref_protected = true,",
        ),
        ("when.ref_protected = true", "when.ref_protected = 1", 8, "is a boolean and 1 is none", "true or false"),
        ("when.ref_protected = true", "when.ref_protected = [true]", 8, "is a boolean", "true or false"),
        ("when.ref_protected = true", 'when.runner_id = "7"', 8, "'7' is not a whole number", "without quotes"),
        ("when.ref_protected = true", "when.runner_id = true", 8, "True is not a whole number", "without quotes"),
        ("when.ref_protected = true", 'when.ref_type = "br*"', 8, "wildcards are for claims with segments", "exact values"),
        ("when.ref_protected = true", 'when.sha = "ab*"', 8, "an id is compared exactly", "list the ids"),
        ("when.ref_protected = true", "unless = {}", 8, "unless is empty", "name a claim"),
        ("when.ref_protected = true", 'unless = "x"', 8, "unless is text in quotes", "a table"),
        ("when.ref_protected = true", 'unless.issuer = "gitlab"', 8, "unless.issuer: gitlab tokens have no such claim", ""),
        # a grant
        ('name = "lake"', 'name = "la ke"', 11, "'la ke' is not a name", ""),
        ('environments = ["production"]\n', "", 10, "environments is missing", "add environments"),
        ('["production"]', "[]", 12, "environments is not a list of one or more texts", ""),
        ('["production"]', '["prodution"]', 12, "there is no environment 'prodution'", "did you mean 'production'?"),
        ('["production"]', '["production", "production"]', 12, "environments names something twice", ""),
        ('["production"]', '["production"]\nmax_ttl = "0s"', 13, "is no time at all", ""),
        ('["production"]', '["production"]\nrate = "30"', 13, "'30' is not a rate", '"30/m"'),
        ('["production"]', '["production"]\nrate = "0/m"', 13, "'0/m' is not a rate", ""),
        ('["production"]', '["production"]\nrate = "1/d"', 13, "'1/d' is not a rate", ""),
        ('["production"]', '["production"]\nshared = "yes"', 13, "shared is text", "true or false"),
        ("[grant.aws]", "[grant.awz]", 10, "a grant comes from an upstream", "[grant.aws] or [grant.vault]"),
        ("[grant.aws]", "vault = 3\n[grant.aws]", 13, "vault is a whole number", "it is a table"),
        # AWS
        ("arn:aws:iam::111122223333:role/etl", "arn:aws:iam::1:role/etl", 14, "is not the ARN of a role", "12 digits"),
        ("etl-{environment}", "etl-{ref}", 14, "{ref} is no placeholder", "placeholders are {environment}"),
        ("etl-{environment}", "etl-{environment", 14, "a brace stands alone", ""),
        ("etl-{environment}", "etl-*", 14, "is not the ARN of a role", ""),
        ("etl-{environment}", "e" * 65, 14, "is not the ARN of a role", "64"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line_and_what_to_write(
    take: str, put: str, line: int, what: str, instead: str
) -> None:
    assert take in GOOD
    assert refusals(GOOD) == []
    found = refusals(GOOD.replace(take, put, 1))
    matching = [
        problem for problem in found if problem.startswith(f"policy.toml:{line}: ") and what in problem and instead in problem
    ]
    assert matching, found


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ('session_policy = "none.json"', "session_policy 'none.json': the file cannot be read"),
        ('policy_arns = ["arn:aws:iam::1:policy/x"]', "is not the ARN of a managed policy"),
        ('policy_arns = ["arn:aws:iam::444455556666:policy/x"]', "is in another account than the role"),
        (f"policy_arns = {[f'arn:aws:iam::aws:policy/p{n}' for n in range(11)]}", "STS takes at most 10"),
        ('external_id = "x"', "is no external id"),
        ('external_id = "a b"', "is no external id"),
        ('region = "Frankfurt"', "is not a region"),
        ('ttl = "5m"', "it must be between 15m and 12h"),
        ('ttl = "13h"', "it must be between 15m and 12h"),
        ('upstream = "A"', "'A' is not a name"),
        ('rds = "x"', "rds is text in quotes"),
        ('rds = { user = "etl" }', "host is missing in [grant.aws.rds]"),
        (f"rds = {{ host = {HOST} }}", "user is missing in [grant.aws.rds]"),
        (f'rds = {{ host = {HOST}, user = "etl", database = "x" }}', "unknown key 'database'"),
        (f'rds = {{ host = {HOST}, user = "etl", port = 0 }}', "it must be between 1 and 65535"),
        (f'rds = {{ host = {HOST}, user = "etl", port = 65536 }}', "it must be between 1 and 65535"),
        (f'rds = {{ host = {HOST}, user = "etl", port = "5432" }}', "port is text in quotes"),
        (f'rds = {{ host = {HOST}, user = "" }}', "user is empty"),
        (f'rds = {{ host = {HOST}, user = "etl_{{ref_path}}" }}', "{ref_path} is no placeholder"),
        (f'rds = {{ host = {HOST}, user = "etl/*" }}', "user 'etl/*' is not a database user"),
        (f'rds = {{ host = {HOST}, user = "é" }}', "user 'é' is not a database user"),
        (f'rds = {{ host = {HOST}, user = "{"e" * 64}" }}', "is not a database user (1 to 63"),
        ('rds = { host = "db", user = "etl" }', "host 'db' is not a DNS name"),
        ('rds = { host = "10.0.0.1", user = "etl" }', "host '10.0.0.1' is not a DNS name"),
        ('rds = { host = "Db.example.com", user = "etl" }', "host 'Db.example.com' is not a DNS name"),
        ('rds = { host = "db.example.com:5432", user = "etl" }', "is not a DNS name"),
        ('rds = { host = "{environment}.example.com", user = "etl" }', "is not a DNS name"),
        ('rds = { host = "db.example.com/x?y", user = "etl" }', "is not a DNS name"),
        (f'rds = {{ host = "{"a." * 126}aa", user = "etl" }}', "is not a DNS name"),
    ],
)
def test_an_aws_grant_that_sts_would_refuse_is_refused_at_load(lines: str, what: str) -> None:
    found = refusals(GOOD + lines + "\n")
    assert len(found) == 1, found
    assert what in found[0]
    assert found[0].startswith("policy.toml:15: ")


def test_a_life_beside_rds_is_refused_for_a_token_has_its_own() -> None:
    lines = f'rds = {{ host = {HOST}, user = "etl" }}\n'
    assert refusals(GOOD + lines) == []
    _refused(GOOD + 'ttl = "1h"\n' + lines, 15, "ttl changes nothing beside rds", "leave it out")


@pytest.mark.parametrize(
    "table",
    [f'rds = {{ host = {HOST}, user = "etl_{{environment}}" }}', f'[grant.aws.rds]\nhost = {HOST}\nuser = "etl_{{environment}}"'],
)
def test_a_grant_of_a_database_is_taken(table: str) -> None:
    (grant,) = policy(GOOD + table + "\n").grants
    assert isinstance(grant.target, AwsGrant)
    assert grant.target.rds == Rds(host=HOST.strip('"'), port=5432, user="etl_{environment}")
    assert grant.target.ttl == timedelta(minutes=15)


@pytest.mark.parametrize(
    ("lines", "line", "what"),
    [
        ('role = "etl"', 13, "path is missing"),
        ('path = "secret/x"', 13, "role is missing"),
        ('role = "a b"\npath = "secret/x"', 14, "is not a role name"),
        ('role = "etl-{ref_path}"\npath = "secret/x"', 14, "{ref_path} is no placeholder"),
        ('role = "etl"\npath = "/secret/x"', 15, "is not a path from a mount on"),
        ('role = "etl"\npath = "secret//x"', 15, "is not a path from a mount on"),
        ('role = "etl"\npath = "secret/../x"', 15, "is not a path from a mount on"),
        ('role = "etl"\npath = "secret/%2e"', 15, "is not a path from a mount on"),
        ('role = "etl"\npath = "secret/x/"', 15, "is not a path from a mount on"),
        ('role = "etl"\npath = "secret"', 15, "is not a path from a mount on"),
        ('role = "etl"\npath = "secret/*/x"', 15, "a wildcard that is not its last segment"),
        ('role = "etl"\npath = "secret/x*"', 15, "a wildcard that is not its last segment"),
        ('role = "etl"\npath = "secret/x"\nengine = "kv"', 16, "engine is 'kv'"),
        ('role = "etl"\npath = "secret/x"\nmount = "kv"', 16, "unknown key 'mount'"),
    ],
)
def test_a_vault_grant_that_cannot_work_is_refused_at_load(lines: str, line: int, what: str) -> None:
    grant = LAKE.partition("[grant.aws]")[0] + "[grant.vault]\n"
    assert refusals(HEAD + PRODUCTION + grant + 'role = "etl"\npath = "secret/x"\n') == []
    _refused(HEAD + PRODUCTION + grant + lines + "\n", line, what)


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("", "the file is not JSON"),
        ("[" * 100_000, "the file is not JSON"),
        ('{"Statement": NaN}', "NaN is not JSON"),
        ("[]", 'it has no "Statement"'),
        ('{"Statement": []}', 'it has no "Statement"'),
        ('{"Statement": [1], "Statement": [2]}', "a member stands twice"),
        ('{"Statement": [{"a": 1, "a": 2}]}', "a member stands twice"),
        ('{"Statement": ["{ref}"]}', "{ref} is no placeholder"),
        ('{"Statement": ["a{"]}', "a brace stands alone"),
        ('{"Statement": ["${environment}"]}', "${environment} is neither a variable of IAM nor a placeholder"),
        ('{"Statement": [{"{environment}": 1}]}', "a placeholder in the member name"),
        ('{"Statement": ["' + "x" * 2048 + '"]}', "STS takes 2048"),
    ],
)
def test_a_session_policy_that_sts_would_refuse_is_refused_at_load(template: str, what: str) -> None:
    text = GOOD + 'session_policy = "lake.json"\n'
    assert parse(text, "policy.toml", templates).grants[0].name == "lake"
    with pytest.raises(PolicyInvalid) as caught:
        parse(text, "policy.toml", lambda _: template)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].line == 15
    assert what in caught.value.problems[0].what


def test_a_policy_without_environments_or_grants_is_refused() -> None:
    """Nothing is empty by accident."""
    assert refusals("") == [
        "policy.toml:1: there is no [[environment]]; a policy has at least one [[environment]]",
        "policy.toml:1: there is no [[grant]]; a policy has at least one [[grant]]",
        "policy.toml:1: version is missing; write version = 1",
    ]


def test_an_environment_without_when_is_refused() -> None:
    found = refusals(HEAD + '[[environment]]\nname = "production"\n' + LAKE)
    assert len(found) == 1
    assert "an environment without `when` would take every job" in found[0]
    assert "when is a whole number" in refusals(HEAD + '[[environment]]\nname = "production"\nwhen = 3\n' + LAKE)[0]


def test_a_name_stands_once() -> None:
    _refused(HEAD + PRODUCTION + PRODUCTION.replace("true", "false") + LAKE, 11, "environment 'production' stands twice")
    _refused(HEAD + PRODUCTION + LAKE + LAKE, 17, "grant 'lake' stands twice")


def test_a_grant_has_one_upstream() -> None:
    _refused(GOOD + '[grant.vault]\nrole = "etl"\npath = "secret/x"\n', 10, "a grant comes from one upstream, not two")


def test_an_environment_stays_within_its_files_projects() -> None:
    own = 'version = 1\nproject_id = ["1", "2"]\n' + PRODUCTION
    assert policy(own.replace("4711", "2") + LAKE).environments[0].pinned_to == {"2"}
    _refused(own + LAKE, 6, "when.project_id names none of the file's own project_id", "the file is for 1, 2 alone")


def test_every_problem_is_reported_at_once_in_the_order_of_lines() -> None:
    text = GOOD.replace('"gitlab"', '"Git Lab"').replace("when.ref_protected = true", "when.ref_protectd = true")
    found = refusals(text.replace("version = 1", "version = 3") + "tll = 1\n")
    assert [problem.split(":")[1] for problem in found] == ["1", "5", "15"]
    found = refusals(GOOD.replace("when.ref_path", "when.ref_pat").replace("when.ref_protected", "when.ref_protectd"))
    assert [problem.split(":")[1] for problem in found] == ["7", "8"]


def test_a_pair_that_meets_is_reported_beside_other_problems() -> None:
    found = refusals(HEAD + PRODUCTION + PRODUCTION.replace('"production"', '"second"') + LAKE + "tll = 1\n")
    assert len(found) == 2
    assert "can both match one job" in found[0]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_no_text_is_anything_but_a_policy_or_problems(text: str) -> None:
    refusals(text)


_LINES = [line for line in (WHOLE + GOOD).splitlines() if line]
_ODD = r""" "" | [] | {} | 3 | -1 | true | "*" | "**" | ["a"] | 1.5 | 1979-05-27 | "\u0000" | [{a=1}] """
_VALUES = st.sampled_from(_ODD.strip().split(" | "))


@st.composite
def _damaged(draw: st.DrawFn) -> str:
    """The policy of the design with lines left out, doubled, moved, and values exchanged."""
    lines = WHOLE.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        key, equals, _ = lines[at].partition(" = ")
        match draw(st.integers(0, 3)):
            case 0:
                lines[at] = ""
            case 1 if equals:
                lines[at] = f"{key} = {draw(_VALUES)}"
            case 2:
                lines.insert(at, draw(st.sampled_from(_LINES)))
            case _:
                lines[at] = lines[at][: draw(st.integers(0, 10))]
    return "\n".join(lines)


@settings(max_examples=300, deadline=None)
@given(_damaged())
def test_no_damage_makes_the_parser_crash(text: str) -> None:
    for problem in refusals(text):
        assert problem.startswith("policy.toml:")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_no_bytes_make_loading_crash(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "random.toml"
    file.write_bytes(raw)
    with pytest.raises(SourceInvalid):
        load(file)
