"""Several files as one policy: whose projects, whose grants, whose guards; and what must never be."""

from pathlib import Path
from typing import Any

import pytest

from broker.errors import Code
from broker.policy.check import shared, warnings
from broker.policy.decide import decide
from broker.policy.language import PolicyInvalid, load, parse_files
from broker.policy.model import Allow, Deny, Policy
from tests.unit.policy.build import HEAD, LAKE, LAKE_JSON, PRODUCTION, WHOLE, job, policy, refusals, templates

GOOD = HEAD + PRODUCTION + LAKE
ONE = GOOD
TWO = GOOD.replace("4711", "41").replace("etl-", "other-")
SHARED = HEAD + LAKE.replace('"lake"', '"wiki"').replace('["production"]', '["production"]\nshared = true')
GUARD = """
[guards.protected]
when.ref_protected = true
unless.pipeline_source = "api"
"""
GUARDED = PRODUCTION.replace("when.ref_protected = true\n", 'use = ["protected"]\n')


def _folder(**files: str) -> Policy:
    return parse_files({f"{name}.toml": text for name, text in files.items()}, templates)


def _refusals(**files: str) -> list[str]:
    try:
        _folder(**files)
    except PolicyInvalid as invalid:
        return [str(problem) for problem in invalid.problems]
    return []


def _allowed(rules: Policy, **claims: Any) -> Allow:
    decision = decide(rules, job(**claims), None)
    assert isinstance(decision, Allow), decision
    return decision


# --- folders ----------------------------------------------------------------------------------------------------------


def test_two_files_with_the_same_names_are_one_policy_and_neither_has_the_others_grants() -> None:
    rules = _folder(one=ONE, two=TWO)
    for project, file, role in (("4711", "one.toml", "etl-"), ("41", "two.toml", "other-")):
        decision = _allowed(rules, project_id=project, job_project_id=project)
        assert (decision.environment, decision.rule.file, decision.grants) == ("production", file, ("lake",))
        assert role in str(decision.definitions[0].target)


def test_a_grant_of_another_file_is_unknown_and_not_only_denied() -> None:
    """That there is one is not the stranger's business."""
    rules = _folder(one=ONE, two=TWO.replace('"lake"', '"pond"'))
    denial = decide(rules, job(), ["pond"])
    assert isinstance(denial, Deny)
    assert denial.code is Code.GRANT_UNKNOWN
    assert isinstance(decide(rules, job(project_id="41", job_project_id="41"), ["pond"]), Allow)


def test_adding_project_forty_one_changes_nothing_for_anybody_else() -> None:
    before, after = _folder(one=ONE), _folder(one=ONE, two=TWO)
    for claims in ({}, {"ref_protected": False}, {"project_id": "5"}):
        for wants in (None, ["lake"], ["pond"]):
            first, second = decide(before, job(**claims), wants), decide(after, job(**claims), wants)
            assert type(first) is type(second)
            assert getattr(first, "grants", None) == getattr(second, "grants", None)


def test_a_shared_grant_is_for_every_file_s_environment_of_that_name_and_check_lists_who_reaches_it() -> None:
    rules = _folder(common=SHARED, one=ONE, two=TWO)
    assert _allowed(rules).grants == ("wiki", "lake")
    assert _allowed(rules, project_id="41", job_project_id="41").grants == ("wiki", "lake")
    assert shared(rules) == {
        "wiki": ("production (one.toml: project_id 4711)", "production (two.toml: project_id 41)"),
    }
    assert shared(_folder(one=ONE, two=TWO)) == {}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"one": ONE, "two": ONE}, "two.toml:3: environments 'production' (one.toml) and 'production' can both match one job"),
        ({"one": ONE, "two": ONE}, "environment 'production' stands in one.toml too, and the two can have a project in common"),
        (
            {"one": ONE, "two": ONE.replace("refs/heads/main", "refs/heads/other")},
            "two.toml:5: environment 'production' stands in one.toml too",
        ),
        (
            {"one": ONE, "two": TWO.replace("project_id", "namespace_id").replace("main", "other")},
            "pin them to different ids of the same claim, or give one another name",
        ),
        (
            {"common": SHARED.replace("shared = true", ""), "one": ONE},
            "common.toml:5: environment 'production' is another file's",
        ),
        (
            {"common": SHARED.replace('["production"]', '["prod"]'), "one": ONE},
            "there is no environment 'prod'; known are production",
        ),
        (
            {"common": SHARED.replace('"wiki"', '"lake"'), "one": ONE},
            "one.toml:11: environment 'production' would have two grants 'lake': common.toml shares one of that name",
        ),
        ({"common": SHARED, "one": ONE, "other": SHARED}, "would have two grants 'wiki': common.toml shares one of that name"),
        ({"one": ONE, "two": HEAD}, "two.toml:1: the file says nothing"),
        ({"one": ONE, "two": TWO.replace("version = 1", "")}, "two.toml:1: version is missing"),
        ({"one": ONE, "two": "version ="}, "two.toml:1: this is not TOML"),
        ({"common": HEAD + GUARD}, "common.toml:1: there is no [[environment]]"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(files: dict[str, str], said: str) -> None:
    found = _refusals(**files)
    assert [problem for problem in found if said in problem], found


def test_the_same_name_with_other_pins_and_other_claims_is_taken() -> None:
    """The allowed twins of the refusals above."""
    assert _refusals(one=ONE, two=TWO) == []
    assert _refusals(common=SHARED, one=ONE) == []


def test_a_problem_is_in_the_file_that_has_it() -> None:
    assert _refusals(one=ONE.replace("role_arn", "role_arm"), two=TWO.replace("true", "1")) == [
        "one.toml:13: role_arn is missing in [grant.aws]; add role_arn = …",
        "one.toml:14: unknown key 'role_arm'; did you mean 'role_arn'?",
        "two.toml:8: when.ref_protected is a boolean and 1 is none; write when.ref_protected = true or false, without quotes",
    ]


def test_the_hash_is_over_every_file_its_name_and_the_templates() -> None:
    first = _folder(one=ONE, two=TWO)
    assert _folder(one=ONE, two=TWO).hash == first.hash
    assert _folder(one=ONE, three=TWO).hash != first.hash
    assert _folder(one=ONE, two=TWO + "# x\n").hash != first.hash
    assert ONE in first.text
    assert TWO in first.text


def test_no_file_s_text_passes_for_another_file() -> None:
    """Two folders are not one policy because somebody writes the line between files as a comment."""
    end = f"#: file two.toml {len(TWO)}\n"
    assert _folder(one=ONE, two=TWO, zero=HEAD + GUARD).hash != _folder(one=ONE + end, two=TWO, zero=HEAD + GUARD).hash


def test_a_folder_is_loaded_with_its_templates_and_without_cases_and_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(WHOLE)
    (tmp_path / "two.toml").write_text(WHOLE.replace("4711", "41"))
    (tmp_path / "one.cases.toml").write_text("no policy")
    (tmp_path / ".backup.toml").write_text("no policy")
    (tmp_path / "lake.json").write_text(LAKE_JSON)
    (tmp_path / "rendered").mkdir()
    (tmp_path / "rendered" / "role.json").write_text("{}")
    assert list(load(tmp_path).sources) == ["one.toml", "two.toml"]
    (tmp_path / "rendered" / "more.toml").write_text(WHOLE)
    with pytest.raises(PolicyInvalid, match=r"rendered is a folder with \*\.toml files in it, and they would not be read"):
        load(tmp_path)


def test_a_folder_that_may_not_be_read_is_a_problem_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(PolicyInvalid, match=r"the folder cannot be read \(Permission denied\)"):
        load(tmp_path)


# --- guards -----------------------------------------------------------------------------------------------------------


def test_a_guard_s_conditions_are_the_environment_s_own() -> None:
    """Of the file, or of another file of the folder."""
    for rules in (policy(HEAD + GUARD + GUARDED + LAKE), _folder(common=HEAD + GUARD, one=HEAD + GUARDED + LAKE)):
        assert _allowed(rules).environment == "production"
        for claims in ({"ref_protected": False}, {"ref_protected": None}, {"pipeline_source": "api"}):
            denial = decide(rules, job(**claims), None)
            assert isinstance(denial, Deny)
            assert {step.clause for step in denial.trail if not step.met} & {"guards.protected.when", "guards.protected.unless"}


def test_a_guard_that_lists_sources_lists_them_for_the_environment() -> None:
    guard = GUARD.replace('unless.pipeline_source = "api"', 'when.pipeline_source = "parent_pipeline"')
    rules = policy(HEAD + guard + GUARDED + LAKE)
    assert _allowed(rules, pipeline_source="parent_pipeline").environment == "production"
    assert isinstance(decide(rules, job(), None), Deny)


def test_a_guard_may_pin_the_project() -> None:
    guard = '[guards.own]\nwhen.project_id = ["4711", "5"]\n'
    rules = policy(HEAD + guard + PRODUCTION.replace('when.project_id = "4711"', 'use = ["own"]') + LAKE)
    assert rules.environments[0].pinned_to == {"4711", "5"}


def test_a_file_s_own_guard_comes_before_another_file_s() -> None:
    strict = HEAD + GUARD.replace("ref_protected = true", 'ref_path = "refs/heads/none"')
    rules = _folder(common=strict, one=HEAD + GUARD + GUARDED + LAKE)
    assert _allowed(rules).environment == "production"


@pytest.mark.parametrize(
    ("take", "put", "said"),
    [
        ('use = ["protected"]', 'use = ["protect"]', "policy.toml:12: there is no guard 'protect'; did you mean 'protected'?"),
        ('use = ["protected"]', 'use = "protected"', "policy.toml:12: use is text in quotes"),
        ('use = ["protected"]', "use = []", "policy.toml:12: use is not a list of one or more texts"),
        ("[guards.protected]", "[guards.Protected]", "policy.toml:3: 'Protected' is not a name"),
        ('when.ref_protected = true\nunless.pipeline_source = "api"', "", "policy.toml:3: guard 'protected' asks for nothing"),
        ("when.ref_protected = true", "when = {}", "policy.toml:4: when is empty"),
        ("when.ref_protected = true", 'when.issuer = "gitlab"', "policy.toml:4: when.issuer: gitlab tokens have no such claim"),
        ("when.ref_protected = true", "when.ref_protcted = true", "policy.toml:4: when.ref_protcted: gitlab tokens have no such"),
        ("when.ref_protected = true", 'use = ["x"]', "policy.toml:4: unknown key 'use'"),
        ("[guards.protected]", "[guards]\nprotected = 3\n[guards.two]", "policy.toml:4: protected is a whole number"),
        ("[guards.protected]", "guards = 3\n[x]", "policy.toml:3: guards is a whole number"),
    ],
)
def test_a_guard_that_is_wrong_is_refused(take: str, put: str, said: str) -> None:
    text = HEAD + GUARD + GUARDED + LAKE
    assert refusals(text) == []
    assert take in text
    found = refusals(text.replace(take, put, 1))
    assert [problem for problem in found if said in problem], found


def test_a_guard_of_two_other_files_is_ambiguous_and_one_without_guards_is_told_to_write_one() -> None:
    found = _refusals(a=HEAD + GUARD, b=HEAD + GUARD, one=HEAD + GUARDED + LAKE)
    assert "one.toml:8: guard 'protected' stands in several files: a.toml, b.toml; give this file one of its own" in found[0]
    assert "there is no guard 'protected'; write [guards.protected]" in refusals(HEAD + GUARDED + LAKE)[0]


def test_allow_forks_and_a_guard_on_protection_exclude_each_other() -> None:
    found = refusals(HEAD + GUARD + GUARDED.replace("use =", "allow_forks = true\nuse =") + LAKE)
    assert "allow_forks together with when.ref_protected" in found[0]


def test_a_guard_that_nobody_uses_is_read_and_remarked() -> None:
    rules = policy(HEAD + GUARD + PRODUCTION + LAKE)
    assert [str(w) for w in warnings(rules)] == [
        "policy.toml:3: guard 'protected' guards nothing; name it in the `use` of an environment"
    ]
    assert refusals(HEAD + GUARD.replace("ref_protected", "ref_protcted") + PRODUCTION + LAKE)
    assert not warnings(policy(HEAD + GUARD + GUARDED + LAKE))


def test_a_guard_that_is_a_second_lock_is_no_reason_to_warn() -> None:
    """An environment's own `unless` that keeps nobody out is one."""
    listed = GUARDED + 'when.pipeline_source = "push"\n'
    assert not warnings(policy(HEAD + GUARD + listed + LAKE))
    assert warnings(policy(HEAD + GUARD + listed + 'unless.pipeline_source = "api"\n' + LAKE))


def test_a_shared_grant_that_one_file_alone_reaches_is_remarked() -> None:
    assert ["shared" in str(w) for w in warnings(_folder(common=SHARED, one=ONE))] == [True]
    assert not warnings(_folder(common=SHARED, one=ONE, two=TWO))


# --- invariants, as they are written ----------------------------------------------------------------------------------

INVARIANT = """
[[invariant]]
name = "no unprotected ref reaches production"
never.environment = "production"
never.claim.ref_protected = false
"""


def test_an_invariant_becomes_a_value() -> None:
    (invariant,) = policy(GOOD + INVARIANT).invariants
    assert (invariant.name, invariant.environments, invariant.grants) == (
        "no unprotected ref reaches production", frozenset({"production"}), frozenset(),
    )  # fmt: skip
    (claim,) = invariant.claims
    assert (claim.condition.claim, claim.absent) == ("ref_protected", True)
    assert [claim.holds(value) for value in (None, False, "true", True)] == [True, True, True, False]


def test_a_claim_with_a_value_is_forbidden_where_it_is_present() -> None:
    text = GOOD + INVARIANT.replace("ref_protected = false", 'ref_path = ["refs/tags/**", "refs/heads/x"]')
    (claim,) = policy(text).invariants[0].claims
    assert [claim.holds(value) for value in (None, "refs/tags/a/b", "refs/heads/x", "refs/heads/main")] == [
        False, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("take", "put", "said"),
    [
        ('name = "no unprotected ref reaches production"\n', "", ":16: name is missing"),
        ('never.environment = "production"\nnever.claim.ref_protected = false\n', "", ":16: never is missing"),
        ("never.claim.ref_protected = false\n", "never.claims.ref_protected = false\n", ":19: unknown key 'claims'"),
        ("never.claim.ref_protected = false\n", "never.claim = {}\n", ":19: never.claim is empty"),
        ("never.claim.ref_protected", "never.claim.ref_protcted", ":19: never.claim.ref_protcted: gitlab tokens have no such"),
        ("ref_protected = false", 'ref_protected = "false"', ":19: never.claim.ref_protected is a boolean"),
        ("ref_protected = false", 'ref_path = "**"', ":19: never.claim.ref_path: '**' matches everything"),
        ('environment = "production"', 'environment = "prod"', ":18: never.environment: there is no environment 'prod'"),
        ('environment = "production"', 'grant = "lack"', ":18: never.grant: there is no grant 'lack'; did you mean 'lake'?"),
        ('environment = "production"', "environment = []", ":18: environment is not a list of one or more texts"),
        ('environment = "production"', "environment = 3", ":18: environment is a whole number"),
        ("never.environment", "severity = 3\nnever.environment", ":18: unknown key 'severity'"),
    ],
)
def test_an_invariant_that_says_nothing_clear_is_refused(take: str, put: str, said: str) -> None:
    assert take in INVARIANT
    assert refusals(GOOD + INVARIANT) == []
    found = refusals(GOOD + INVARIANT.replace(take, put, 1))
    assert [problem for problem in found if f"policy.toml{said}" in problem], found


def test_an_invariant_stands_once_and_says_something() -> None:
    assert "invariant 'no unprotected ref reaches production' stands twice" in refusals(GOOD + INVARIANT + INVARIANT)[0]
    assert "never says nothing" in refusals(GOOD + '[[invariant]]\nname = "x"\nnever = {}\n')[0]
    assert "never is text" in refusals(GOOD + '[[invariant]]\nname = "x"\nnever = "y"\n')[0]
