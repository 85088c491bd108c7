"""`secret://<grant>[/<subpath>][#<field>]`, strictly."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_contrib_secrets import Reference, ReferenceInvalid, SecretError
from luigi_contrib_secrets.instant import parse_instant, parse_length

SEGMENT = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True).filter(lambda text: text not in {".", ".."})
REFERENCES = st.builds(
    Reference,
    grant=st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True),
    subpath=st.lists(SEGMENT, max_size=3).map("/".join),
    field=st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True)),
)


@pytest.mark.parametrize(
    ("text", "grant", "subpath", "field"),
    [
        ("secret://warehouse", "warehouse", "", ""),
        ("secret://warehouse#password", "warehouse", "", "password"),
        ("secret://kv/team/app#api.key-1_x", "kv", "team/app", "api.key-1_x"),
        ("secret://0/a", "0", "a", ""),
    ],
)
def test_what_is_a_reference(text: str, grant: str, subpath: str, field: str) -> None:
    assert Reference.parse(text) == Reference(grant, subpath, field)
    assert str(Reference.parse(text)) == repr(Reference.parse(text)) == text


@given(REFERENCES)
def test_a_reference_is_written_as_it_is_read(reference: Reference) -> None:
    """In every spelling that Luigi may carry it through: text, and a pickle."""
    assert Reference.parse(str(reference)) == reference
    assert pickle.loads(pickle.dumps(reference)) == reference
    assert copy.deepcopy(reference) == reference
    assert hash(Reference.parse(str(reference))) == hash(reference)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "secret:/warehouse#hunter2",
        "SECRET://warehouse#hunter2",
        " secret://warehouse#hunter2",
        "secret://warehouse#hunter2\n",
        "secret://warehouse#",
        "secret://warehouse##hunter2",
        "secret://warehouse#hunter2#x",
        "secret://#hunter2",
        "secret:///hunter2",
        "secret://Warehouse#hunter2",
        "secret://ware_house#hunter2",
        "secret://-warehouse#hunter2",
        "secret://" + "w" * 33 + "#hunter2",
        "secret://kv//hunter2",
        "secret://kv/hunter2/",
        "secret://kv/../hunter2",
        "secret://kv/./hunter2",
        "secret://kv/%2e%2e/hunter2",
        "secret://kv/a?hunter2",
        "secret://kv/a b#hunter2",
        "secret://kv/ünï#hunter2",
        "secret://kv/" + "hunter2" * 200,
        b"secret://warehouse#hunter2",
        None,
        5,
    ],
)
def test_what_is_none_is_refused_and_not_repeated(text: object) -> None:
    """What stands there may be the secret itself."""
    with pytest.raises(ReferenceInvalid, match=r"config_invalid") as refused:
        Reference.parse(text)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@given(st.text())
def test_no_other_text_is_ever_taken_for_one(text: str) -> None:
    try:
        found = Reference.parse("secret://" + text)
    except ReferenceInvalid:
        return
    assert str(found) == "secret://" + text


def test_our_errors_are_none_that_luigi_or_hasattr_swallow() -> None:
    """A KeyError or a NoOptionError would silently become the parameter's default, an AttributeError a missing attribute."""
    from configparser import Error

    from luigi_contrib_secrets import SecretMisconfigured, SecretRefused, SecretUnavailable

    for kind in (SecretError, SecretRefused, SecretUnavailable, SecretMisconfigured, ReferenceInvalid):
        assert issubclass(kind, RuntimeError)
        assert not issubclass(kind, KeyError | AttributeError | Error | OSError)


def test_an_error_survives_the_way_to_another_process() -> None:
    from luigi_contrib_secrets import SecretUnavailable

    error = SecretUnavailable("away", code="broker_unreachable", grant="warehouse", correlation_id="c1", retry_after=3)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code, again.grant) == (type(error), str(error), error.code, error.grant)
    assert str(error) == "secret://warehouse: away [broker_unreachable] (correlation id c1)"
    invalid = ReferenceInvalid("none")
    assert str(pickle.loads(pickle.dumps(invalid))) == str(invalid) == "none [config_invalid]"


@pytest.mark.parametrize(("given", "seconds"), [(None, 0), ("90s", 90), ("30m", 1800), ("3h", 10800), ("1d", 86400), (5, 5)])
def test_lengths(given: str | int | None, seconds: int) -> None:
    assert parse_length(given) == seconds


def test_a_length_is_rounded_up_so_that_it_is_never_less_than_asked() -> None:
    from datetime import timedelta

    assert parse_length(timedelta(milliseconds=1)) == 1
    assert parse_length(timedelta(hours=3)) == 10800


@pytest.mark.parametrize("given", ["3", "3 h", "h", "-3h", "1.5h", -1, "3H"])
def test_what_is_no_length(given: str | int) -> None:
    with pytest.raises(ValueError, match="a length is"):
        parse_length(given)


def test_instants() -> None:
    assert parse_instant("2026-11-23T08:00:00Z").isoformat() == "2026-11-23T08:00:00+00:00"
    assert parse_instant("2026-11-23T08:00:00.123456789Z") == parse_instant("2026-11-23T08:00:00Z")


@pytest.mark.parametrize("text", ["", "2026-11-23", "2026-11-23T08:00:00+00:00", "2026-11-23 08:00:00Z", "2026-13-23T08:00:00Z"])
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(ValueError):
        parse_instant(text)
