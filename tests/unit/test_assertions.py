"""The broker as an issuer: what it says about a job, with which key, and what it publishes."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from broker.assertions import AssertionIssuer, role_session_name, session_tags, source_identity
from broker.errors import Code, Misconfigured, Refused
from broker.moment import rfc3339
from broker.secret import Secret
from broker.signing import FileSigner, Keyring, TimedSigner, new_key_file, parse_key_file, thumbprint
from tests.strategies import NOON, ManualClock, identity

URL = "https://broker.example.com"
SESSION = "abcdefghijklmnopqrstuvwxyz"
_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def p256() -> FileSigner:
    return FileSigner(ec.generate_private_key(ec.SECP256R1()))


def issuer(*keys: TimedSigner, clock: ManualClock | None = None) -> AssertionIssuer:
    return AssertionIssuer(URL, Keyring(keys or [TimedSigner(p256(), NOON)]), clock or ManualClock())


def checked(assertion: Secret, of: AssertionIssuer, audience: str, now: datetime = NOON) -> dict[str, Any]:
    """The claims, as PyJWT verifies them against what the issuer publishes."""
    token = assertion.reveal()
    published = jwt.PyJWKSet.from_dict(of.jwks())
    key = published[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        algorithms=["ES256", "RS256"],
        audience=audience,
        issuer=URL,
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )
    assert claims["iat"] == int(now.timestamp())
    return claims


@pytest.mark.parametrize("signer", [p256(), FileSigner(_RSA)], ids=["ES256", "RS256"])
def test_an_assertion_says_what_the_broker_knows_of_the_job(signer: FileSigner) -> None:
    """Exactly the claims of DESIGN 3.2, for a minute, under the key that is published."""
    of = issuer(TimedSigner(signer, NOON))
    assertion = of.for_job(identity(), "production", "warehouse", "https://vault.example.com:8200", session_id=SESSION, aws=False)
    claims = checked(assertion, of, "https://vault.example.com:8200")
    token_id = claims.pop("jti")
    assert token_id.startswith(f"{SESSION}-")
    now = int(NOON.timestamp())
    assert claims == {
        "iss": URL,
        "sub": "environment:production:grant:warehouse:issuer:gitlab:project:4711",
        "aud": "https://vault.example.com:8200",
        "iat": now,
        "nbf": now - 30,
        "exp": now + 60,
        "environment": "production",
        "grant": "warehouse",
        "issuer_name": "gitlab",
        "stable_id": "4711",
        "project_id": "4711",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "job_id": "302",
        "pipeline_id": "574",
    }
    assert jwt.get_unverified_header(assertion.reveal()) == {"alg": signer.algorithm, "kid": signer.kid, "typ": "JWT"}


def test_two_assertions_have_two_token_ids() -> None:
    """Upstreams may refuse a replay."""
    of = issuer()
    said = [of.for_job(identity(), "production", "lake", "a", session_id=SESSION, aws=False) for _ in range(2)]
    assert len({checked(one, of, "a")["jti"] for one in said}) == 2
    assert len({checked(of.maintenance("a"), of, "a")["jti"] for _ in range(2)}) == 2


def test_an_assertion_for_aws_has_tags_and_source_identity() -> None:
    """All six tags, each a list of one text, all transitive."""
    of = issuer()
    claims = checked(
        of.for_job(identity(ref_protected=False), "review", "lake", "sts.amazonaws.com", session_id=SESSION, aws=True),
        of,
        "sts.amazonaws.com",
    )
    assert claims["https://aws.amazon.com/source_identity"] == "gl-4711-302"
    assert claims["https://aws.amazon.com/tags"] == {
        "principal_tags": {
            "environment": ["review"],
            "grant": ["lake"],
            "project_id": ["4711"],
            "pipeline_id": ["574"],
            "job_id": ["302"],
            "ref_protected": ["false"],
        },
        "transitive_tag_keys": ["environment", "grant", "project_id", "pipeline_id", "job_id", "ref_protected"],
    }
    plain = checked(of.for_job(identity(), "review", "lake", "a", session_id=SESSION, aws=False), of, "a")
    assert not [name for name in plain if "aws" in name]


def test_the_maintenance_assertion_is_of_no_job() -> None:
    """Its subject is all that an upkeep role binds to."""
    of = issuer()
    claims = checked(of.maintenance("https://vault"), of, "https://vault")
    assert claims["sub"] == "broker:maintenance"
    assert set(claims) == {"iss", "sub", "aud", "iat", "nbf", "exp", "jti"}


def test_names_at_aws_say_which_job_and_which_session() -> None:
    """The first 8 characters of the session id tell the sessions of one job apart."""
    assert role_session_name(identity(), SESSION) == "gl-4711-302-abcdefgh"
    assert source_identity(identity()) == "gl-4711-302"


@pytest.mark.parametrize("value", ["a b", "a/b", "a:b", "a#b", "é", "", "x" * 60, "a\n"])
def test_a_value_that_does_not_fit_is_refused_and_never_replaced(value: str) -> None:
    """`a#b` and `a_b` must not become one name."""
    for odd in (identity(stable_id=value), identity(job_id=value)) if value else ():
        for name in (lambda job: role_session_name(job, SESSION), source_identity):
            with pytest.raises(Refused, match="does not fit") as caught:
                name(odd)
            assert caught.value.code is Code.TEMPLATE_VALUE
    with pytest.raises(Refused) as caught:
        issuer().for_job(identity(job_id=value + "#"), "production", "lake", "a", session_id=SESSION, aws=True)
    assert caught.value.code is Code.TEMPLATE_VALUE


@pytest.mark.parametrize(
    ("value", "fits"),
    [("", True), ("1" * 256, True), ("a b/c:d=e+f-g@h_i.j", True), ("1#2", False), ("1*", False), ("1\n", False), ("Ü", False),
     ("1" * 257, False)],
)  # fmt: skip
def test_a_tag_is_sent_as_it_is_or_not_at_all(value: str, fits: bool) -> None:
    """`a#b` and `a_b` must not become one."""
    job = identity(pipeline_id=value)
    if fits:
        assert session_tags(job, "production", "lake")["pipeline_id"] == value
        return
    with pytest.raises(Refused, match="session tag pipeline_id") as caught:
        session_tags(job, "production", "lake")
    assert caught.value.code is Code.TEMPLATE_VALUE


@pytest.mark.parametrize("stable_id", ["", "4711:grant:other", "a b", "é", "x" * 300])
def test_a_stable_id_cannot_write_another_subject(stable_id: str) -> None:
    """`:` separates the parts of `sub`, which is what upstreams bind to."""
    with pytest.raises(Refused, match="stable id") as caught:
        issuer().for_job(identity(stable_id=stable_id), "production", "lake", "a", session_id=SESSION, aws=False)
    assert caught.value.code is Code.TEMPLATE_VALUE


_NAME = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)
_STABLE = st.from_regex(r"[A-Za-z0-9_.@-]{1,40}", fullmatch=True)


@given(st.tuples(_NAME, _NAME, _NAME, _STABLE), st.tuples(_NAME, _NAME, _NAME, _STABLE))
def test_two_jobs_never_have_one_subject(one: tuple[str, str, str, str], other: tuple[str, str, str, str]) -> None:
    """Environment, grant, issuer and stable id can be read back from it."""
    of = issuer()
    said = []
    for environment, grant, name, stable_id in (one, other):
        job = identity(issuer_name=name, stable_id=stable_id)
        said.append(checked(of.for_job(job, environment, grant, "a", session_id=SESSION, aws=False), of, "a")["sub"])
    assert (said[0] == said[1]) == (one == other)


# --- keys ----------------------------------------------------------------------------------------------------------------


def test_a_key_is_published_at_once_signs_from_its_time_and_stays_an_hour_longer() -> None:
    """So that whoever caches the published keys always has the one that signs."""
    clock = ManualClock()
    old, new = p256(), FileSigner(_RSA)
    of = issuer(TimedSigner(new, NOON + timedelta(hours=2)), TimedSigner(old, NOON - timedelta(days=1)), clock=clock)

    def signs() -> str:
        return str(jwt.get_unverified_header(of.maintenance("a").reveal())["kid"])

    def published() -> list[str]:
        return [key["kid"] for key in of.jwks()["keys"]]

    assert signs() == old.kid
    assert published() == [old.kid, new.kid]
    assert of.discovery()["id_token_signing_alg_values_supported"] == ["ES256", "RS256"]
    clock.forward(2 * 3600 - 1)
    assert signs() == old.kid
    clock.forward(1)
    assert signs() == new.kid
    clock.forward(3599)
    assert published() == [old.kid, new.kid]
    clock.forward(1)
    assert published() == [new.kid]
    assert of.discovery()["id_token_signing_alg_values_supported"] == ["RS256"]


def test_the_published_keys_are_public_and_named_by_thumbprint() -> None:
    """RFC 7638's own example key, and nothing of a private one."""
    numbers = {
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",  # noqa: E501 - one number
        "e": "AQAB",
    }
    assert (
        thumbprint({"kty": "RSA", "alg": "RS256", "kid": "2011-04-29"} | numbers) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    )
    for key in issuer(TimedSigner(p256(), NOON), TimedSigner(FileSigner(_RSA), NOON + timedelta(1))).jwks()["keys"]:
        assert set(key) in ({"kty", "crv", "x", "y", "kid", "alg", "use"}, {"kty", "n", "e", "kid", "alg", "use"})


def test_the_discovery_document_leads_to_the_keys() -> None:
    """What Vault and AWS read first."""
    of = AssertionIssuer(URL + "/path/", Keyring([TimedSigner(p256(), NOON)]), ManualClock())
    document = of.discovery()
    assert document["issuer"] == URL + "/path/"
    assert document["jwks_uri"] == URL + "/path/jwks"
    assert document["id_token_signing_alg_values_supported"] == ["ES256"]
    assert json.dumps(document)


def pem(key: Any, activate_at: str = "2026-11-23T12:00:00Z", encryption: Any = None) -> bytes:
    body: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return f"activate_at: {activate_at}\n".encode() + body


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "issuer"
    folder.mkdir(mode=0o700)
    return folder


def put(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    (folder / name).chmod(0o600)


def test_a_folder_of_key_files_is_a_keyring(folder: Path) -> None:
    """Each with its time; what is no `.pem` is left alone."""
    put(folder, "old.pem", new_key_file(NOON - timedelta(days=30)))
    put(folder, "new.pem", pem(_RSA))
    put(folder, "notes.txt", b"not a key")
    ring = Keyring.load(folder, NOON)
    assert ring.signer(NOON).algorithm == "RS256"
    assert ring.signer(NOON - timedelta(seconds=1)).algorithm == "ES256"
    assert len(ring.published(NOON)) == 2


def test_a_new_key_file_is_read_back_with_its_time() -> None:
    """To the second."""
    timed = parse_key_file(new_key_file(NOON), "x")
    assert timed.activate_at == NOON
    assert timed.signer.algorithm == "ES256"
    assert repr(timed.signer) == f"FileSigner(kid={timed.signer.kid!r}, algorithm='ES256')"
    assert new_key_file(NOON).startswith(f"activate_at: {rfc3339(NOON)}\n-----BEGIN PRIVATE KEY-----\n".encode())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "has to start with one line"),
        (b"activate_at: 2026-11-23T12:00:00Z\n", "has to start with one line"),
        (pem(_RSA).partition(b"\n")[2], "has to start with one line"),
        (b"note: x\n" + pem(_RSA), "has to start with one line"),
        (pem(_RSA, "2026-11-23"), "has to start with one line"),
        (pem(_RSA, "2026-11-23T12:00:00+00:00"), "has to start with one line"),
        (pem(_RSA, "2026-13-45T12:00:00Z"), "no time that exists"),
        (pem(_RSA, encryption=BestAvailableEncryption(b"x")), "without a password"),
        (pem(_RSA)[:200], "no private key"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "neither a P-256 key nor"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "neither a P-256 key nor"),
        (pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)), "neither a P-256 key nor"),
    ],
)
def test_a_key_file_that_is_not_one_is_named(folder: Path, content: bytes, why: str) -> None:
    """Before the broker starts, with what to do."""
    put(folder, "good.pem", new_key_file(NOON))
    put(folder, "odd.pem", content)
    with pytest.raises(Misconfigured, match=why) as caught:
        Keyring.load(folder, NOON)
    assert caught.value.code is Code.CONFIG_INVALID
    assert "odd.pem" in caught.value.public
    assert "PRIVATE" not in caught.value.public


def test_a_keyring_that_could_not_sign_or_not_know_with_what_is_refused(folder: Path) -> None:
    """No key, none active yet, one twice, two at one moment."""
    with pytest.raises(Misconfigured, match="there is no issuer key"):
        Keyring.load(folder, NOON)
    put(folder, "a.pem", new_key_file(NOON + timedelta(hours=1)))
    with pytest.raises(Misconfigured, match="from 2026-11-23T13:00:00Z"):
        Keyring.load(folder, NOON)
    same = pem(_RSA)
    put(folder, "b.pem", same)
    put(folder, "c.pem", same.replace(b"12:00", b"11:00"))
    with pytest.raises(Misconfigured, match="there twice"):
        Keyring.load(folder, NOON)
    put(folder, "c.pem", new_key_file(NOON))
    with pytest.raises(Misconfigured, match="one activate_at"):
        Keyring.load(folder, NOON)
    (folder / "c.pem").unlink()
    assert Keyring.load(folder, NOON).signer(NOON).algorithm == "RS256"


def test_a_folder_that_others_can_write_is_refused(folder: Path) -> None:
    """Whoever can add a key can be any job, after the next start."""
    put(folder, "a.pem", new_key_file(NOON))
    for mode in (0o770, 0o707, 0o777):
        folder.chmod(mode)
        with pytest.raises(Misconfigured, match="others may write"):
            Keyring.load(folder, NOON)
    folder.chmod(0o755)
    assert len(Keyring.load(folder, NOON).published(NOON)) == 1  # others may list it: the files are closed
    (folder / "a.pem").chmod(0o640)
    with pytest.raises(Misconfigured, match="open to others"):
        Keyring.load(folder, NOON)
    with pytest.raises(Misconfigured, match="cannot be read"):
        Keyring.load(folder / "missing", NOON)
    with pytest.raises(Misconfigured, match="not a folder"):
        Keyring.load(folder / "a.pem", NOON)
