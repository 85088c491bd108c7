"""The OpenBao double answers as the recorded server did.

Every exchange of `tests/vectors/openbao` is replayed in its order against one double whose clock stands where the recording's
stood and whose state is set up through the API. Compared: status, every error and warning word for word, the keys of the body
and the type of each value. Signatures are real: the recorded assertions verify against the recorded public key.
"""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import RSAAlgorithm

from tests.fakes.jwks import JwksServer, jwks_server
from tests.fakes.vault import FakeVault

VECTORS = Path(__file__).parent.parent / "vectors" / "openbao"
BEGIN = 1795411195.9  # 2026-11-23T05:19:55.9Z

# Not replayed, and why. A recording that is in neither list fails `test_every_recording_is_replayed_or_named`.
NOT_REPLAYED = {
    "wrapped kv read": "the double has no response wrapping: the broker never asks for it",
    "wrapping lookup": "no response wrapping",
    "unwrap": "no response wrapping",
    "unwrap twice": "no response wrapping",
    "inline auth: kv read": "the double has no inline auth: the broker never uses it",
    "inline auth: leased read refused": "no inline auth",
    "inline auth: bad token": "no inline auth",
}


class Exchange(NamedTuple):
    file: str
    name: str
    request: dict[str, Any]
    response: dict[str, Any]


def recordings() -> list[Exchange]:
    return [
        Exchange(path.name, one["name"], one["request"], one["response"])
        for path in sorted(VECTORS.glob("*.json"))
        for one in json.loads(path.read_text())
    ]


class Replay:
    """The double, and what in the recordings stands for what in it: tokens, lease ids, accessors, keys."""

    def __init__(self, vault: FakeVault, jwks: JwksServer) -> None:
        self.vault = vault
        self.jwks = jwks
        self.names: dict[str, str] = {}  # recorded -> ours
        self.recorded = {exchange.name: exchange for exchange in recordings()}
        self.second_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = self.recorded["jwt config: ok"].request["json"]["jwt_validation_pubkeys"][0]
        first_key = load_pem_public_key(pem.encode())
        assert isinstance(first_key, rsa.RSAPublicKey)
        self.first_jwk = {**RSAAlgorithm.to_jwk(first_key, as_dict=True), "kid": "broker-1", "alg": "RS256"}
        self.second_jwk = {**RSAAlgorithm.to_jwk(self.second_key.public_key(), as_dict=True), "kid": "broker-2", "alg": "RS256"}
        jwks.keys = [self.first_jwk]

    def at(self, moment: float) -> None:
        self.vault.clock.stand_at(moment)

    def api(self, method: str, path: str, body: object = None, token: str | None = None) -> dict[str, Any]:
        """One call of the set-up, which has to succeed."""
        headers = {"X-Vault-Token": self.vault.root_token if token is None else token}
        status, _, text = self.http(method, f"/v1/{path}", headers, None if body is None else json.dumps(body).encode())
        assert 200 <= status < 300, (path, status, text)
        return json.loads(text) if text else {}

    def http(self, method: str, path: str, headers: dict[str, str], body: bytes | None) -> tuple[int, dict[str, str], str]:
        request = urllib.request.Request(self.vault.url + path, data=body, headers=headers, method=method)
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=10) as response:
                return response.status, dict(response.headers), response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read().decode()

    def login(self, role: str) -> dict[str, Any]:
        """A token of our own for that role, by the recorded assertion that logged in."""
        assertion = self.recorded["login ok"].request["json"]["jwt"]
        auth = self.api("POST", "auth/jwt/login", {"role": role, "jwt": assertion}, token="")["auth"]
        assert isinstance(auth, dict)
        return auth

    def stands_for(self, recorded: str, ours: str) -> None:
        self.names[recorded] = ours

    def run(self, exchange: Exchange) -> tuple[int, dict[str, str], str]:
        text = json.dumps(exchange.request.get("json"))
        headers = json.dumps(exchange.request.get("headers") or {})
        for recorded, ours in self.names.items():
            text, headers = text.replace(recorded, ours), headers.replace(recorded, ours)
        body = json.loads(text)
        if isinstance(body, dict) and "jwt" in body:
            body["jwt"] = self.signed_again(body["jwt"])
        payload = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        return self.http(exchange.request["method"], exchange.request["path"], json.loads(headers), payload)

    def signed_again(self, token: str) -> str:
        """A recorded assertion of the second key, whose public half was not recorded, signed by a second key of ours."""
        if token.count(".") != 2:
            return token
        head, body, _ = token.split(".")
        header = json.loads(base64.urlsafe_b64decode(head + "=="))
        if header.get("kid") != "broker-2":
            return token
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return jwt.encode(claims, self.second_key, algorithm="RS256", headers={"kid": "broker-2"})


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def token_of(replay: Replay, name: str) -> str:
    """The token that the recorded exchange of that name sent."""
    return str(replay.recorded[name].request["headers"]["X-Vault-Token"])


def lease_of(replay: Replay, name: str) -> str:
    return str(replay.recorded[name].request["json"]["lease_id"])


# What has to be so before an exchange: by its name.


def before_config(replay: Replay) -> None:
    for mount in ("jwt", "jwks"):
        replay.api("POST", f"sys/auth/{mount}", {"type": "jwt"})
    replay.stands_for("http://127.0.0.1:36285", replay.jwks.url)


def before_login(replay: Replay) -> None:
    base = dict(replay.recorded["jwt role: create (jwt)"].request["json"])
    claims: dict[str, Any] = {"bound_claims": {}, "claim_mappings": {}}
    roles: dict[str, dict[str, Any]] = {
        "oidc-kind": {"role_type": "oidc", "allowed_redirect_uris": ["http://127.0.0.1/"]},
        "sub": {**claims, "bound_subject": "somebody-else"},
        "no-aud": {"bound_audiences": []},
        "mapint": {**claims, "claim_mappings": {"runner_id": "runner_id"}},
        "usermail": {**claims, "user_claim": "user_email"},
        "cidr": {"token_bound_cidrs": ["10.1.2.0/24"]},
        "batch": {"token_type": "batch", "token_explicit_max_ttl": 0},
        "norevoke": {"token_policies": ["norevoke"]},
        "short-lease": {"token_policies": ["short"]},
        "one-use": {"token_num_uses": 1},
        "short-token": {"token_ttl": "3s", "token_max_ttl": "3s", "token_explicit_max_ttl": "3s"},
    }
    for name, changes in roles.items():
        replay.api("POST", f"auth/jwt/role/{name}", {**base, **changes})


def before_kv(replay: Replay) -> None:
    replay.api("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
    replay.api("POST", "sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}})
    replay.api("POST", "sys/mounts/database", {"type": "database"})
    common = {
        "kv/data/etl/*": {"capabilities": ["read"]},
        "kv1/etl/*": {"capabilities": ["read"]},
        "database/creds/etl-production": {"capabilities": ["read"]},
        "database/static-creds/etl": {"capabilities": ["read"]},
    }
    revoke = {"sys/leases/revoke": {"capabilities": ["update"]}}
    short = {"database/creds/etl-short": {"capabilities": ["read"]}}
    for name, paths in {"etl-production": {**common, **revoke}, "norevoke": common, "short": short}.items():
        replay.api("POST", f"sys/policies/acl/{name}", {"policy": json.dumps({"path": paths})})
    replay.api("POST", "kv/data/etl/warehouse", {"data": {"host": "db.internal", "token": "kv-secret-1"}})
    replay.api("POST", "kv/data/etl/gone", {"data": {"a": "b"}})
    replay.api("DELETE", "kv/data/etl/gone")
    replay.api("POST", "kv1/etl/plain", {"a": "b", "ttl": "30m"})
    replay.stands_for(token_of(replay, "kv2 read"), replay.login("etl-production")["client_token"])


def after_creds(recorded_in: str) -> Callable[[Replay, dict[str, Any]], None]:
    """The lease that this answer brought stands for the one that the named exchange speaks of."""

    def bind(replay: Replay, body: dict[str, Any]) -> None:
        replay.stands_for(lease_of(replay, recorded_in), body["lease_id"])

    return bind


def creds(replay: Replay, token: str, role: str = "etl-production") -> str:
    return str(replay.api("GET", f"database/creds/{role}", token=token)["lease_id"])


def before_sync_revoke(replay: Replay) -> None:
    token = replay.names[token_of(replay, "kv2 read")]
    replay.stands_for(lease_of(replay, "lease revoke sync"), creds(replay, token))


def before_denied_revoke(replay: Replay) -> None:
    token = replay.login("norevoke")["client_token"]
    replay.stands_for(token_of(replay, "lease revoke: policy lacks it"), token)
    replay.stands_for(lease_of(replay, "lease revoke: policy lacks it"), creds(replay, token))


def before_short(replay: Replay) -> None:
    role = dict(replay.recorded["database role"].request["json"])
    replay.api("POST", "database/roles/etl-short", {**role, "default_ttl": "4s", "max_ttl": "6s"})
    replay.stands_for(token_of(replay, "short lease"), replay.login("short-lease")["client_token"])


def before_last_use(replay: Replay) -> None:
    replay.stands_for(token_of(replay, "leased read on the last use of a token"), replay.login("one-use")["client_token"])


def before_batch(replay: Replay) -> None:
    replay.stands_for(token_of(replay, "database creds with batch token"), replay.login("batch")["client_token"])


def before_batch_lookup(replay: Replay) -> None:
    replay.stands_for(token_of(replay, "batch: lookup-self"), replay.login("batch")["client_token"])


SHORT_TOKEN_LEASE = "lease of a short token: its own expire_time is not capped, yet it ends with the token (two below)"


def before_short_token(replay: Replay) -> None:
    token = replay.login("short-token")["client_token"]
    replay.stands_for(token_of(replay, "expired token: read"), token)
    replay.stands_for(lease_of(replay, SHORT_TOKEN_LEASE), creds(replay, token))


def before_accessor(replay: Replay) -> None:
    recorded = replay.recorded["lookup-accessor as root"].request["json"]["accessor"]
    replay.stands_for(recorded, replay.login("etl-production")["accessor"])
    replay.stands_for(token_of(replay, "revoke-self"), replay.login("etl-production")["client_token"])


def before_quota(replay: Replay) -> None:
    replay.api("GET", "kv/data/etl/warehouse")


def before_quota_headers(replay: Replay) -> None:
    replay.api("POST", "sys/quotas/config", {"enable_rate_limit_response_headers": True})


def before_health(replay: Replay) -> None:
    replay.api("DELETE", "sys/quotas/rate-limit/one")


def before_database_down(replay: Replay) -> None:
    for recorded in ("database creds: database down", "database creds: database back"):
        replay.stands_for(token_of(replay, recorded), replay.login("etl-production")["client_token"])
    token = replay.names[token_of(replay, "database creds: database down")]
    for recorded in ("lease renew: database down", "lease revoke async: database down"):
        replay.stands_for(lease_of(replay, recorded), creds(replay, token))
    replay.vault.database().away = True


def seal(replay: Replay) -> None:
    replay.vault.sealed = True


def unseal(replay: Replay) -> None:
    replay.vault.sealed = False


def jwks_down(replay: Replay) -> None:
    replay.jwks.down = True


def jwks_up(replay: Replay) -> None:
    replay.jwks.down = False


def jwks_rotated(replay: Replay) -> None:
    replay.jwks.keys = [replay.second_jwk]


def jwks_withdrawn(replay: Replay) -> None:
    replay.jwks.keys = [replay.first_jwk]


def database_back(replay: Replay) -> None:
    replay.vault.database().away = False


BEFORE: dict[str, tuple[Callable[[Replay], None] | None, float]] = {
    # name: (state, seconds since the beginning)
    "jwt config: no key source": (before_config, 0),
    "login ok": (before_login, 0),
    "jwks: issuer down, cached key": (jwks_down, 0),
    "jwks: unknown kid, issuer up": (jwks_up, 0),
    "jwks: rotated key is fetched on demand": (jwks_rotated, 0),
    "jwks: withdrawn key still accepted from cache": (jwks_withdrawn, 0),
    "kv2 read": (before_kv, 0),
    "lease revoke sync": (before_sync_revoke, 0),
    "lease revoke: policy lacks it": (before_denied_revoke, 0),
    "short lease": (before_short, 1),
    "short lease renewed once": (None, 2),
    "short lease renewed near max: remaining time only": (None, 4),
    "short lease renewed after its end": (None, 10),
    "leased read on the last use of a token": (before_last_use, 11),
    "database creds with batch token": (before_batch, 11),
    "batch: lookup-self": (before_batch_lookup, 11),
    SHORT_TOKEN_LEASE: (before_short_token, 11),
    "expired token: lookup-self": (None, 21),
    "lookup-accessor as root": (before_accessor, 21),
    "rate limited": (before_quota, 22),
    "rate limited, response headers enabled": (before_quota_headers, 22),
    "health": (before_health, 22),
    "sealed: login": (seal, 24),
    "unsealed again: lookup-self": (unseal, 24),
    "database creds: database down": (before_database_down, 24),
    "database creds: database back": (database_back, 24),
}
AFTER = {
    "database creds": after_creds("lease lookup"),
    "short lease": after_creds("short lease renewed once"),
}


@pytest.fixture(scope="module")
def replayed() -> dict[tuple[str, str], tuple[int, dict[str, str], str]]:
    """Every answer of the double, by file and name. The recordings depend on each other, so they are replayed once."""
    root = next(one for one in recordings() if one.name == "jwt config: ok").request["headers"]["X-Vault-Token"]
    answers: dict[tuple[str, str], tuple[int, dict[str, str], str]] = {}
    with FakeVault(root_token=root) as vault, jwks_server() as jwks:
        replay = Replay(vault, jwks)
        replay.at(BEGIN)
        for exchange in recordings():
            if exchange.name in NOT_REPLAYED:
                continue
            prepare, seconds = BEFORE.get(exchange.name, (None, None))
            if seconds is not None:
                replay.at(BEGIN + seconds)
            if prepare is not None:
                prepare(replay)
            answers[exchange.file, exchange.name] = replay.run(exchange)
            if exchange.name in AFTER:
                AFTER[exchange.name](replay, json.loads(answers[exchange.file, exchange.name][2]))
    return answers


def shape(value: Any) -> Any:
    """The keys of a body and the type of each value."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value).__name__


@pytest.mark.parametrize(
    "exchange",
    [pytest.param(one, id=f"{one.file[:2]} {one.name}") for one in recordings() if one.name not in NOT_REPLAYED],
)
def test_the_double_answers_as_the_recorded_server(
    exchange: Exchange, replayed: dict[tuple[str, str], tuple[int, dict[str, str], str]]
) -> None:
    """Same status, same words in errors and warnings, same keys, same types."""
    status, headers, text = replayed[exchange.file, exchange.name]
    recorded = exchange.response
    assert status == recorded["status"], text
    if "json" not in recorded:
        assert text == recorded["text"]
    else:
        body = json.loads(text)
        assert body.get("errors") == recorded["json"].get("errors")
        assert body.get("warnings") == recorded["json"].get("warnings")
        assert shape(body) == shape(recorded["json"])
    for name, value in recorded["headers"].items():
        assert headers.get(name) == value


def test_every_recording_is_replayed_or_named() -> None:
    """No recording is left out in silence, and no name here is of a recording that is gone."""
    names = {one.name for one in recordings()}
    assert names >= NOT_REPLAYED.keys()
    assert names >= BEFORE.keys()
    assert names >= AFTER.keys()
    assert len(recordings()) == len({(one.file, one.name) for one in recordings()})
    assert len(recordings()) == 137
