"""Every row of gitlab-tokens.md section 5 (1 to 73), and the tests that hold it. The list is complete, and its tests exist."""

import ast
from pathlib import Path

import pytest

from tests.attack.corpus import base_mint, corpus
from tests.attack.test_policy import DENIED, SHIPPED_CASES

ROOT = Path(__file__).parents[2]

_TOKENS = "tests/attack/test_tokens.py::"
_POLICY = "tests/attack/test_policy.py::"
_MUTATIONS = "tests/attack/test_mutations.py::"
_JWKS = "tests/contract/test_jwks.py::"
_KEYSET = "tests/unit/identity/test_keyset.py::"
_GATE = "tests/unit/identity/test_gate.py::"
_ISSUING = "tests/unit/test_issuing.py::"
_LEDGER = "tests/contract/test_ledger.py::"
_WIRE = "tests/contract/test_wire.py::"
_STORY = "tests/story/test_attacks.py::"
CORPUS = _TOKENS + "test_an_attack_by_token_is_refused_with_its_reason"
DOOR = _STORY + "test_an_attack_is_refused_at_the_door_with_the_same_code"
RULE = _POLICY + "test_a_job_that_the_rule_does_not_mean_is_in_no_environment"
EXAMPLE = _POLICY + "test_merge_requests_and_forks_against_the_shipped_example"

# Row: what it is, and its tests. CORPUS, RULE and EXAMPLE are checked to have a case whose name starts with the row's number.
ROWS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("alg none", (CORPUS, DOOR)),
    2: ("HS256 with the public key as secret", (CORPUS, DOOR)),
    3: ("an algorithm that is not the issuer's", (CORPUS, DOOR)),
    4: ("a header member twice", (CORPUS, DOOR)),
    5: ("jku, x5u, jwk, x5c, and no connection", (CORPUS, DOOR)),
    6: ("kid that is a path, SQL, huge, a list", (CORPUS, DOOR)),
    7: ("no kid", (CORPUS, DOOR)),
    8: ("crit", (CORPUS, DOOR)),
    9: (
        "keys for encryption, symmetric, private, short",
        (
            _TOKENS + "test_rows_9_and_10_a_key_that_must_not_verify_does_not",
            _TOKENS + "test_row_9_a_1024_bit_key_verifies_nothing",
            _KEYSET + "test_a_key_that_must_not_verify_is_left_out_with_its_reason",
        ),
    ),
    10: (
        "two keys of one kid",
        (
            _TOKENS + "test_rows_9_and_10_a_key_that_must_not_verify_does_not",
            _KEYSET + "test_a_document_that_cannot_be_used_is_refused_whole",
        ),
    ),
    11: ("a claim twice", (CORPUS, DOOR)),
    12: ("a name that folds onto a claim's", (CORPUS, DOOR, _GATE + "test_a_name_that_folds_onto_a_known_claim_is_refused")),
    13: ("exp of another type or out of range", (CORPUS, DOOR)),
    14: ("no exp, iat, jti", (CORPUS, DOOR)),
    15: ("ten years", (CORPUS, DOOR)),
    16: ("hours and leeway to the second", (CORPUS, DOOR, _GATE + "test_the_hours_have_exact_ends")),
    17: ("UTF-16, a byte order mark", (CORPUS, DOOR, _MUTATIONS + "test_no_other_encoding_is_read")),
    18: ("deep, large, many", (CORPUS, DOOR)),
    19: ("surrogates, NUL, newlines, ANSI, direction marks", (CORPUS, DOOR)),
    20: ("JWE, JSON serialization, nested", (CORPUS, DOOR)),
    21: ("typ of another kind of token", (CORPUS, DOOR)),
    22: ("iss that is somebody else's address", (CORPUS, DOOR, _JWKS + "test_an_unknown_issuer_causes_no_network_call")),
    23: (
        "redirects and addresses elsewhere",
        (
            _JWKS + "test_an_answer_that_is_no_key_document_is_refused",
            _JWKS + "test_a_discovery_document_leads_nowhere_else",
            _JWKS + "test_keys_come_from_https_or_from_loopback",
        ),
    ),
    24: (
        "discovery of another issuer",
        (
            _JWKS + "test_a_discovery_document_leads_nowhere_else",
            _JWKS + "test_a_discovery_that_changes_its_issuer_changes_no_keys",
        ),
    ),
    25: (
        "a flood of made-up kids",
        (
            _TOKENS + "test_rows_25_to_28_against_a_real_issuer",
            _JWKS + "test_made_up_key_names_cause_one_fetch_in_a_cool_down",
        ),
    ),
    26: ("a flood of wrong signatures", (_JWKS + "test_a_flood_under_a_known_key_name_fetches_nothing",)),
    27: ("the issuer is down", (_JWKS + "test_an_outage_changes_nothing_until_the_keys_are_an_hour_old",)),
    28: (
        "a key is replaced, or withdrawn",
        (_JWKS + "test_a_rotation_without_overlap_is_followed_at_once", _JWKS + "test_a_withdrawn_key_is_gone_within_its_age"),
    ),
    29: (
        "keys without end, or by the byte",
        (_JWKS + "test_an_answer_that_is_no_key_document_is_refused", _JWKS + "test_a_slow_answer_ends_at_the_time_limit"),
    ),
    30: (
        "a replay in another spelling",
        (
            CORPUS,
            DOOR,
            _TOKENS + "test_row_30_the_token_id_and_not_the_spelling_is_what_a_replay_is_known_by",
            _STORY + "test_the_token_that_they_are_made_of_is_accepted",
            _MUTATIONS + "test_no_part_has_a_second_spelling",
        ),
    ),
    31: (
        "fifty exchanges at once",
        (
            _ISSUING + "test_of_fifty_clients_with_one_token_exactly_one_gets_a_session",
            _LEDGER + "test_of_fifty_exchanges_of_one_token_one_opens_a_session",
        ),
    ),
    32: (
        "a replay after a restart",
        (
            _LEDGER + "test_state_and_entry_survive_reopening",
            _LEDGER + "test_the_count_outlives_the_session_and_not_the_token",
        ),
    ),
    33: ("aud that is a list, empty, or nearly ours", (CORPUS, DOOR)),
    34: ("a token for another service", (CORPUS, DOOR)),
    35: ("a rule without a project", (_POLICY + "test_row_35_a_rule_without_a_project_is_not_loaded",)),
    36: ("a rule for any project", (_POLICY + "test_row_36_a_wildcard_for_everything_is_not_loaded",)),
    37: ("a prefix without a slash", (RULE,)),
    38: (
        "expressions",
        (
            _POLICY + "test_row_38_there_are_no_expressions",
            _POLICY + "test_row_38_wildcards_of_other_languages_are_refused",
            "tests/unit/policy/test_glob.py::test_the_whole_value_is_compared_to_its_last_newline",
        ),
    ),
    39: ("a glob across slashes", (_POLICY + "test_row_39_a_glob_stops_at_a_slash_and_no_glob_is_on_sub",)),
    40: ("a branch and a tag of one name", (CORPUS, DOOR, RULE)),
    41: ("a tag that is named like a path", (RULE,)),
    42: ("an unprotected ref", (RULE,)),
    43: ("types", (CORPUS, DOOR)),
    44: ("a fork's merge request on an old GitLab", (RULE, EXAMPLE)),
    45: ("a fork's merge request on a new GitLab", (RULE, EXAMPLE)),
    46: ("a protected merge request", (RULE, EXAMPLE)),
    47: ("a child pipeline", (RULE, EXAMPLE)),
    48: ("who started it", (RULE, EXAMPLE)),
    49: ("a feature branch that names production", (RULE, EXAMPLE)),
    50: ("the environment's name, exactly", (RULE,)),
    51: ("stop, access", (RULE,)),
    52: ("environment_protected on the Free tier", (RULE,)),
    53: ("no environment", (RULE,)),
    54: ("a path that changed hands", (RULE, EXAMPLE)),
    55: ("a path in another case", (_POLICY + "test_what_nothing_is_decided_on_changes_nothing",)),
    56: ("sub in another shape", (_POLICY + "test_what_nothing_is_decided_on_changes_nothing",)),
    57: ("a login token", (CORPUS, DOOR, _JWKS + "test_a_login_token_verifies_and_is_no_job")),
    58: ("CI_JOB_TOKEN", (CORPUS, DOOR)),
    59: ("the owner of a fork", (RULE, EXAMPLE)),
    60: ("no groups_direct", (RULE,)),
    61: ("a self-hosted runner", (RULE,)),
    62: ("the configuration of another project", (RULE,)),
    63: ("an environment without a ref", (_POLICY + "test_row_63_an_environment_without_a_ref_is_warned_about",)),
    64: ("two rules for one job", (_POLICY + "test_row_64_two_rules_for_one_job_are_not_loaded",)),
    65: (
        "a branch in a backend's name",
        (
            _POLICY + "test_row_65_no_branch_name_becomes_part_of_a_role_a_path_or_a_session",
            "tests/unit/policy/test_templates.py::test_a_value_that_could_mean_more_than_itself_is_refused_in_every_target",
        ),
    ),
    66: ("ids and names joined", (_POLICY + "test_row_66_ids_are_joined_by_what_no_id_has",)),
    67: ("the broker's address from a variable", ("tests/unit/job/test_job_token.py::test_a_token_goes_nowhere_else",)),
    68: (
        "two headers, a token in the URL, a field twice",
        (
            _WIRE + "test_exactly_one_authorization_header",
            _WIRE + "test_no_token_travels_in_a_url",
            _WIRE + "test_a_form_is_read_strictly",
        ),
    ),
    69: (
        "what an error tells",
        (
            "tests/unit/policy/test_decide.py::test_a_hint_never_shows_the_policys_side",
            "tests/unit/policy/test_decide.py::test_a_stranger_learns_nothing",
            _WIRE + "test_every_error_has_its_shape_at_the_token_endpoint",
        ),
    ),
    70: (
        "rates",
        (
            "tests/unit/web/test_limits.py::test_only_a_verified_token_takes_its_project_s_turn",
            "tests/contract/test_wire_limits.py::test_requests_in_flight_are_bounded",
            _ISSUING + "test_signed_denials_past_the_rate_are_counted",
        ),
    ),
    71: (
        "a token after its job",
        (_ISSUING + "test_a_closed_session_lets_the_token_open_another_up_to_max_exchanges",),
    ),
    72: (
        "nothing past the token's end",
        (
            _ISSUING + "test_a_session_ends_with_the_token_or_with_the_policy_whichever_is_first",
            "tests/unit/leases/test_ending.py::test_a_session_past_its_end_is_ended_without_anybody_asking",
            "tests/story/test_bad_input.py::test_a_token_s_lifetime_bounds_what_it_opens",
        ),
    ),
    73: (
        "tokens in logs",
        (
            _STORY + "test_nothing_of_a_token_is_in_the_broker_s_log",
            "tests/unit/web/test_logs.py::test_what_looks_like_a_token_does_not_get_out",
        ),
    ),
}  # fmt: skip

_LAST_ROW = 73
_CASES = {
    CORPUS: [case.name for case in corpus(base_mint())],
    DOOR: [case.name for case in corpus(base_mint())],
    RULE: [case[0] for case in DENIED],
    EXAMPLE: [case[0] for case in SHIPPED_CASES],
}


def functions(path: str) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_no_row_is_left_out() -> None:
    """1 to 73, each with at least one test."""
    assert list(ROWS) == list(range(1, _LAST_ROW + 1))
    assert all(tests for _, tests in ROWS.values())


@pytest.mark.parametrize("row", ROWS)
def test_every_test_of_a_row_is_there(row: int) -> None:
    """Under the very name, and with a case of that row where it has many."""
    for test in ROWS[row][1]:
        path, _, name = test.partition("::")
        assert name in functions(path), test
        if test in _CASES:
            assert any(case.startswith(f"{row} ") for case in _CASES[test]), test


def test_no_case_belongs_to_a_row_that_does_not_list_it() -> None:
    """The other way round: a case under a wrong number would make its row look held."""
    for test, names in _CASES.items():
        for name in names:
            assert test in ROWS[int(name.partition(" ")[0])][1], (test, name)


def test_rows_about_merge_requests_and_forks_are_held_by_the_shipped_example_too() -> None:
    assert {row for row, (_, tests) in ROWS.items() if EXAMPLE in tests} >= {44, 45, 46, 47, 48, 49, 54, 59}
