"""One running broker that trusts a GitLab, GitHub, Okta, a Kubernetes cluster and an issuer of no known kind, all at once."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from broker.demo.issuer import ABSENT
from broker.errors import Code
from broker.identity.profiles import PROFILES
from tests.attack.test_issuers import CONFIGURED, OTHER, POLICY
from tests.contract.test_serve import CONFIG, Serving, credbroker
from tests.contract.test_wire import EXCHANGE, FORM, body_of, refused
from tests.fakes.forge import job_token, jwks_file
from tests.fakes.running_broker import Answer, Wire
from tests.fakes.workloads import ISSUERS, workload_token

AUDIENCE = "https://broker.example.com"
_ISSUER = """
[[issuer]]
name = "{name}"
profile = "{profile}"
issuer = "{issuer}"
jwks_file = "jwks.json"
"""
_VAULT = """
[[upstream]]
name = "vault"
kind = "vault"
url = "https://127.0.0.1:1"
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """From its own files, with the keys of all five in one: nothing but `iss` tells them apart."""
    home = tmp_path_factory.mktemp("home")
    (home / "run").mkdir(mode=0o755)
    made = credbroker("keygen", "keys", "--origin", "broker.example.com/log", cwd=home)
    assert made.returncode == 0, made.stderr
    jwks_file(home)
    issuers = {"gitlab": "https://gitlab.com", "other-gitlab": OTHER} | {
        f"our-{kind}": issuer for kind, issuer in ISSUERS.items()
    }
    config = CONFIG[: CONFIG.index("[[issuer]]")] + "".join(
        _ISSUER.format(name=name, profile=CONFIGURED[name], issuer=url) for name, url in issuers.items()
    )
    (home / "broker.toml").write_text(config + _VAULT)
    (home / "policy.toml").write_text(POLICY)
    one = Serving(home)
    yield one
    one.stop()


def fresh(kind: str, **changes: Any) -> str:
    """A token of that kind for this broker, minted now, with an id of its own."""
    now = int(time.time())
    audience: Any = [AUDIENCE] if kind == "kubernetes" else AUDIENCE
    own = {"iat": now, "nbf": now, "exp": now + 300, "aud": audience, "jti": f"AT.{kind}-{time.monotonic_ns()}"} | changes
    return job_token(**own) if kind == "gitlab" else workload_token(kind, **own)


def exchange(serving: Serving, token: str) -> Answer:
    with Wire(f"unix://{serving.socket}") as wire:
        return wire.request("POST", "/v1/token", [FORM], urlencode(EXCHANGE | {"subject_token": token}).encode())


@pytest.mark.parametrize("kind", PROFILES)
def test_a_job_of_each_kind_opens_a_session_once(serving: Serving, kind: str) -> None:
    """In the environment that names its issuer; the second time it is another holder of the token."""
    token = fresh(kind)
    assert body_of(exchange(serving, token), "Token")["environment"] == f"{kind}-production"
    refused(exchange(serving, token), Code.SESSION_EXISTS)


@pytest.mark.parametrize("kind", ["kubernetes", "generic"])
def test_a_token_without_a_jti_opens_a_session_once_too(serving: Serving, kind: str) -> None:
    """By the digest of what it says; another one of the same job, minted a second earlier, is another."""
    now = int(time.time())
    for minted in (now - 1, now):
        token = fresh(kind, jti=ABSENT, iat=minted, nbf=minted, exp=minted + 300)
        body_of(exchange(serving, token), "Token")
        refused(exchange(serving, token), Code.SESSION_EXISTS)


@pytest.mark.parametrize("kind", PROFILES)
def test_a_token_for_another_service_is_refused_in_the_words_of_its_platform(serving: Serving, kind: str) -> None:
    """And nothing of it is a fact but its own audience."""
    other: Any = ["https://other.example"] if kind == "kubernetes" else "https://other.example"
    refused(exchange(serving, fresh(kind, aud=other)), Code.TOKEN_AUDIENCE, "https://other.example")
    body_of(exchange(serving, fresh(kind)), "Token")


def test_a_token_of_no_issuer_is_refused(serving: Serving) -> None:
    refused(exchange(serving, fresh("github", iss="https://evil.example")), Code.TOKEN_ISSUER)
