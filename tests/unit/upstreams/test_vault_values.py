"""From an answer to fields and an end."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BrokerError, Misconfigured, Refused, Unavailable
from broker.policy.target import VaultTarget
from broker.upstreams.vault_answers import Answer
from broker.upstreams.vault_values import Read, read_secret, url_path

ASKED = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def target(path: str = "kv/etl/x", engine: Literal["lease", "kv1", "kv2"] = "lease") -> VaultTarget:
    return VaultTarget(role="etl", path=path, engine=engine, upstream=None)


def read(data: Any, engine: Literal["lease", "kv1", "kv2"] = "lease", **answer: Any) -> Read:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    made = Answer(status=200, data=raw, **answer)
    return read_secret(made, target(engine=engine), asked=ASKED, upstream="vault", what="grant 'warehouse'")


def texts(made: Read) -> dict[str, str]:
    return {name: value.reveal() for name, value in made.fields.items()}


def test_values_are_text_exactly_as_they_were_written() -> None:
    """A number keeps its digits, since it is often an id; nested values stay JSON; a null is no field."""
    raw = b'{"a":"\\u00e9","n":12345678901234567890,"f":1.50,"t":true,"o":{"k": [1]},"z":null}'
    assert texts(read(raw, "kv1")) == {"a": "é", "n": "12345678901234567890", "f": "1.50", "t": "true", "o": '{"k": [1]}'}


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=30), min_size=1, max_size=5))
def test_text_fields_come_back_as_they_were_stored(data: dict[str, str]) -> None:
    """Whatever characters a secret has."""
    assert texts(read(data, "kv1")) == data
    assert texts(read({"data": data, "metadata": {"version": 3}}, "kv2")) == data


def test_a_kv2_version_is_named() -> None:
    assert read({"data": {"a": "b"}, "metadata": {"version": 3}}, "kv2").kv_version == 3
    assert read({"data": {"a": "b"}, "metadata": None}, "kv2").kv_version is None
    assert read({"data": {"a": "b"}}, "kv2").kv_version is None


@pytest.mark.parametrize(
    ("data", "engine", "kind", "words"),
    [
        ({"a": "b"}, "kv2", Misconfigured, "another shape"),
        ([1], "kv1", Misconfigured, "another shape"),
        (None, "lease", Misconfigured, "another shape"),
        ({}, "kv1", Refused, "has no field"),
        ({"a": None}, "kv1", Refused, "has no field"),
        ({"a": "b"}, "lease", Misconfigured, "without a lease"),
        ({"a": "b", "ttl": "30m"}, "lease", Misconfigured, "without a lease"),
        ({"a": "b", "ttl": True}, "lease", Misconfigured, "without a lease"),
        ({"a": "b", "ttl": 0}, "lease", Unavailable, "is being rotated"),
    ],
)
def test_what_is_no_credential_is_none(data: Any, engine: Any, kind: type[BrokerError], words: str) -> None:
    """Never an empty credential, never one at its end, never one of another engine."""
    with pytest.raises(kind) as caught:
        read(data, engine)
    assert words in caught.value.public
    assert "kv/etl/x" not in caught.value.public
    assert "kv/etl/x" in caught.value.detail


def test_a_rotation_that_is_due_asks_for_a_second_of_patience() -> None:
    with pytest.raises(Unavailable) as caught:
        read({"a": "b", "ttl": 0})
    assert caught.value.retry_after == 1.0


def test_a_leased_answer_ends_with_its_lease() -> None:
    made = read({"username": "u", "password": "p"}, lease_id="database/creds/x/1", lease_duration=600, renewable=True)
    assert made.expires_at == ASKED + timedelta(seconds=600)
    assert (made.renewable, made.revocable, made.lease_id) == (True, "lease", "database/creds/x/1")


def test_a_lease_without_a_duration_falls_back_to_the_stated_ttl() -> None:
    """Vault 1.13.0 answered STS so (vault#19513)."""
    made = read({"access_key": "AKIA", "ttl": 900}, lease_id="aws/creds/x/1", lease_duration=0)
    assert made.expires_at == ASKED + timedelta(seconds=900)


def test_an_sts_session_is_not_called_revocable() -> None:
    """Vault forgets the lease; AWS keeps the session. A key without a session token can be taken back."""
    sts = {"access_key": "ASIA", "secret_key": "s", "security_token": "t"}
    assert read(sts, lease_id="aws/sts/x/1", lease_duration=900).revocable == "none"
    assert read({**sts, "security_token": None}, lease_id="aws/creds/x/1", lease_duration=900).revocable == "lease"


def test_a_static_credential_ends_at_its_rotation_and_has_no_rotation_data() -> None:
    data = {"username": "u", "password": "p", "ttl": 30, "rotation_period": 30, "last_vault_rotation": "2026-11-23T05:19:56Z"}
    made = read(data)
    assert texts(made) == {"username": "u", "password": "p"}
    assert made.expires_at == ASKED + timedelta(seconds=30)
    assert (made.renewable, made.revocable) == (False, "none")


@pytest.mark.parametrize(
    ("path", "engine", "url"),
    [
        ("kv/etl/x", "kv2", "kv/data/etl/x"),
        ("kv/etl/x", "kv1", "kv/etl/x"),
        ("database/creds/etl", "lease", "database/creds/etl"),
        ("kv/data/x", "kv2", "kv/data/data/x"),
    ],
)
def test_a_path_is_the_apis(path: str, engine: Any, url: str) -> None:
    """Only KV v2 gets its `data/`, once, behind the mount."""
    assert url_path(target(path, engine)) == url


@given(st.text(min_size=1, max_size=30))
def test_no_path_climbs_or_carries_a_query(path: str) -> None:
    """Whatever a template is filled with: a segment is never empty, dotted, or read as another part of a URL."""
    try:
        url = url_path(target("kv/" + path, "kv1"))
    except Refused:
        return
    assert all(segment not in ("", ".", "..") for segment in url.split("/"))
    assert not set(url) & set("%?#\\\r\n\0")
