"""What an answer of Vault means, with every exchange that was recorded from a real server."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.upstreams.vault_answers import Answer, Doing, judge, read_answer

VECTORS = Path(__file__).parents[2] / "vectors" / "openbao"

RECORDED: dict[str, dict[str, Any]] = {
    one["name"]: one for path in sorted(VECTORS.glob("*.json")) for one in json.loads(path.read_text())
}

DENIED, GONE = (Refused, Code.UPSTREAM_DENIED, "refuses"), (Refused, Code.UPSTREAM_DENIED, "cannot be renewed any more")
NOTHING = (Refused, Code.UPSTREAM_DENIED, "has nothing at the place")
OUTAGE = (Unavailable, Code.UPSTREAM_UNAVAILABLE, "try again")
CLOCK = (Unavailable, Code.CLOCK_UNSAFE, "clocks")
ROLE = (Misconfigured, Code.UPSTREAM_CONFIG, "not set up")
TRUST = (Misconfigured, Code.UPSTREAM_CONFIG, "must trust")
SERVER = (Misconfigured, Code.UPSTREAM_CONFIG, "cannot answer as configured")

# Every recorded exchange that is not a success. What is in no row has to be one.
MEANING = {
    "jwt config: no key source": DENIED,
    "jwt config: jwks_url unreachable": DENIED,
    "jwt role: no bound constraint": DENIED,
    "jwt role: no user_claim": DENIED,
    "jwt role: unknown": NOTHING,
    "missing role": ROLE,
    "unknown role": ROLE,
    "oidc role": ROLE,
    "missing token": ROLE,
    "malformed": TRUST,
    "bad signature": TRUST,
    "alg none": TRUST,
    "wrong issuer": TRUST,
    "wrong audience": TRUST,
    "no audience": TRUST,
    "wrong subject": DENIED,
    "audience but role without bound_audiences": ROLE,
    "list audience but role without bound_audiences": ROLE,
    "expired 70 s ago": CLOCK,
    "nbf in the future": CLOCK,
    "iat in the future": CLOCK,
    "no time claims": TRUST,
    "no exp, iat 10 min ago": CLOCK,
    "bound claim differs": DENIED,
    "bound claim missing": DENIED,
    "bound claim of another type": DENIED,
    "mapped claim not a string": ROLE,
    "user claim missing": ROLE,
    "user claim not a string": ROLE,
    "user claim empty": ROLE,
    "not allowed address": DENIED,
    "mount that does not exist": DENIED,
    "body is not JSON": SERVER,
    "empty body": ROLE,
    "jwks: issuer down, unknown kid": OUTAGE,
    "jwks: unknown kid, issuer up": TRUST,
    "kv2 missing": NOTHING,
    "kv2 deleted version": NOTHING,
    "kv2 denied": DENIED,
    "kv2 read without data/ segment": DENIED,
    "kv1 missing": NOTHING,
    "path climbing": OUTAGE,
    "bad token": DENIED,
    "no token": DENIED,
    "unmounted path": DENIED,
    "unmounted path as root": SERVER,
    "unsupported operation": SERVER,
    "namespace that does not exist": SERVER,
    "database creds: denied role": DENIED,
    "database creds: unknown role (root)": NOTHING,
    "lease renew: unknown lease": GONE,
    "lease renew: no id": DENIED,
    "lease renew after revoke": GONE,
    "lease lookup after revoke": GONE,
    "lease revoke: policy lacks it": DENIED,
    "short lease renewed after its end": GONE,
    "leased read on the last use of a token": ROLE,
    "batch: renew-self": ROLE,
    "batch: revoke-self": ROLE,
    "expired token: lookup-self": DENIED,
    "expired token: read": DENIED,
    "expired token: its lease is gone": GONE,
    "revoke-accessor: not allowed by default policy": DENIED,
    "after revoke-self: lookup-self": DENIED,
    "unwrap twice": DENIED,
    "rate limited": OUTAGE,
    "rate limited, response headers enabled": OUTAGE,
    "inline auth: leased read refused": ROLE,
    "inline auth: bad token": TRUST,
    "sealed: login": OUTAGE,
    "sealed: read": OUTAGE,
    "sealed: renew": OUTAGE,
    "sealed: health": OUTAGE,
    "sealed: lookup-self": OUTAGE,
    "database creds: database down": OUTAGE,
    "lease renew: database down": OUTAGE,
    "lease revoke sync: database down": OUTAGE,
    "lease revoke async: database down": OUTAGE,
}
# A 403 of these is the token; of all other 403s, the policy, the mount or the address.
MAYBE_DEAD = {
    "not allowed address",
    "mount that does not exist",
    "bad token",
    "no token",
    "expired token: lookup-self",
    "expired token: read",
    "after revoke-self: lookup-self",
}


def recorded(name: str) -> Answer:
    response = RECORDED[name]["response"]
    content = json.dumps(response["json"]).encode() if "json" in response else response["text"].encode()
    return read_answer(response["status"], response["headers"], content)


def doing(name: str) -> Doing:
    path = RECORDED[name]["request"]["path"]
    ends = {"login": Doing.LOGIN, "renew": Doing.RENEW, "renew-self": Doing.RENEW, "revoke": Doing.REVOKE, "lookup": Doing.LOOKUP}
    return ends.get(path.rsplit("/", 1)[-1], Doing.READ)


def judged(answer: Answer, what: Doing = Doing.READ) -> BrokerError | None:
    return judge(answer, doing=what, upstream="vault", what="grant 'warehouse'", asked="GET kv/data/etl/warehouse")


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_answer_means_what_the_table_says(name: str) -> None:
    """Refused, Unavailable or Misconfigured with code and words; a success is no error."""
    error = judged(recorded(name), doing(name))
    if name not in MEANING:
        assert error is None
        assert 200 <= RECORDED[name]["response"]["status"] < 300
        return
    kind, code, words = MEANING[name]
    assert type(error) is kind
    assert error.code is code
    assert words in error.public
    assert "upstream 'vault'" in error.public or "grant 'warehouse'" in error.public
    assert "GET kv/data/etl/warehouse" in error.detail


def test_the_table_names_no_recording_that_is_gone() -> None:
    assert RECORDED.keys() >= MEANING.keys()
    assert RECORDED.keys() >= MAYBE_DEAD


@pytest.mark.parametrize("name", RECORDED)
def test_only_a_bare_permission_denied_may_mean_a_dead_token(name: str) -> None:
    """A policy's denial has the same status and other words; only the first is worth a look-up."""
    assert recorded(name).may_mean_dead_token is (name in MAYBE_DEAD)


@pytest.mark.parametrize("name", ["lease renew: unknown lease", "lease lookup after revoke", "expired token: its lease is gone"])
def test_a_lease_that_is_gone_is_known_as_gone(name: str) -> None:
    assert recorded(name).lease_is_gone


@pytest.mark.parametrize("name", ["lease renew: database down", "lease revoke: policy lacks it", "sealed: renew", "kv2 missing"])
def test_a_lease_that_may_live_is_not_known_as_gone(name: str) -> None:
    assert not recorded(name).lease_is_gone


def test_an_unknown_accessor_is_gone_in_both_spellings() -> None:
    """OpenBao answers well with a warning, other calls and servers with a 400."""
    assert recorded("revoke-accessor: unknown").accessor_is_gone
    assert read_answer(400, {}, b'{"errors":["invalid accessor"]}').accessor_is_gone
    assert not recorded("revoke-self").accessor_is_gone


# Texts and statuses of HashiCorp Vault and of what stands before it, from reference/vault.md 1.5 and 2.4.


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (307, b"", OUTAGE),
        (301, b"<html>moved</html>", SERVER),
        (302, b"", SERVER),
        (400, b'{"errors":["error validating token: ambiguous claim: key \\"ISS\\" collides"]}', TRUST),
        (400, b'{"errors":["lease is not renewable"]}', GONE),
        (400, b'{"errors":["lease is expired and has failed previous revocation attempts"]}', GONE),
        (400, b'{"errors":["tokens cannot be renewed through this endpoint"]}', GONE),
        (400, b'{"errors":["something that nobody has recorded"]}', DENIED),
        (401, b"", SERVER),
        (404, b"<html>404 page not found</html>", SERVER),
        (405, b'{"errors":["1 error occurred:\\n\\t* unsupported operation\\n\\n"]}', SERVER),
        (408, b"<html>time-out</html>", OUTAGE),
        (412, b'{"errors":["required index state not present"]}', OUTAGE),
        (412, b'{"errors":["missing \\"X-Vault-Request\\" header"]}', SERVER),
        (413, b'{"errors":["request body too large"]}', SERVER),
        (429, b"<html>slow down</html>", OUTAGE),
        (472, b"", OUTAGE),
        (473, b"", OUTAGE),
        (500, b'{"errors":["1 error occurred:\\n\\t* internal error\\n\\n"]}', OUTAGE),
        (501, b'{"errors":["Vault is not initialized"]}', SERVER),
        (502, b"<html>bad gateway</html>", OUTAGE),
        (503, b"", OUTAGE),
        (504, b"<html>gateway time-out</html>", OUTAGE),
        (200, b"<html>log in to the Wi-Fi</html>", SERVER),
        (200, b'["a list"]', SERVER),
    ],
)
def test_statuses_that_were_not_recorded(status: int, body: bytes, meaning: tuple[type[BrokerError], Code, str]) -> None:
    """Every status of the reference, and bodies that are not Vault's: a success in somebody else's words is none."""
    error = judged(read_answer(status, {}, body))
    assert error is not None
    assert (type(error), error.code) == meaning[:2]
    assert meaning[2] in error.public


def test_a_login_at_an_address_that_knows_no_such_path_is_a_configuration_error() -> None:
    """A 404 of a read is a missing secret; of a login, a wrong address or mount."""
    answer = read_answer(404, {}, b'{"errors":[]}')
    assert isinstance(judged(answer, Doing.LOGIN), Misconfigured)
    assert isinstance(judged(answer, Doing.READ), Refused)


def test_newer_vaults_words_for_a_dead_token_count() -> None:
    body = b'{"errors":["2 errors occurred:\\n\\t* permission denied\\n\\t* invalid token\\n\\n"]}'
    assert read_answer(403, {}, body).may_mean_dead_token


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0", 0.0), ("99999", 300.0), ("Mon, 23 Nov 2026", None), ("", None)]
)
def test_retry_after_is_taken_over_and_bounded(header: str, seconds: float | None) -> None:
    """A server may ask for patience, not for a day of it."""
    error = judged(read_answer(429, {"Retry-After": header}, b""))
    assert error is not None
    assert error.retry_after == seconds


def test_a_redirect_says_in_our_log_where_to() -> None:
    """A standby that names its active node: an operator needs to see it, the caller does not."""
    error = judged(read_answer(307, {"Location": "https://active.example.com/v1/x"}, b""))
    assert error is not None
    assert "https://active.example.com/v1/x" in error.detail
    assert "active" not in error.public


def test_what_a_stranger_wrote_into_an_error_stays_one_line_of_our_log() -> None:
    """Vault echoes what a JWKS server answered; that is anybody's text."""
    echoed = json.dumps({"errors": ["fetching keys oidc: get keys failed: 404 \n\x1b[31mforged log line" + "x" * 5000]}).encode()
    error = judged(read_answer(400, {}, echoed))
    assert error is not None
    assert error.detail.isprintable()
    assert len(error.detail) <= 600
    assert "forged" not in error.public


def test_an_answer_shows_no_token() -> None:
    """Neither the answer nor its `auth` has a repr with the token in it."""
    answer = recorded("login ok")
    assert answer.auth is not None
    token = answer.auth.client_token
    assert token not in repr(answer)
    assert token not in repr(answer.auth)
    assert "data" not in repr(recorded("kv2 read"))


@given(st.integers(100, 599), st.binary(max_size=200))
def test_any_answer_at_all_is_read_and_judged(status: int, content: bytes) -> None:
    """Nothing that a server, a proxy or a stranger sends makes the reading raise, and only a 2xx of Vault's is a success."""
    answer = read_answer(status, {}, content)
    assert (judged(answer) is None) == (200 <= status < 300 and answer.shaped)
