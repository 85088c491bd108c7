"""A secret has one door."""

import copy
import json
import logging
import pickle
import traceback

import pytest

from broker.secret import Secret
from tests.rig import exchange_request, read_request

MARKER = "hunter2-MARKER"


@pytest.mark.parametrize(
    "show", [repr, str, "{}".format, "%s".__mod__, lambda s: f"{s!r:>40}", lambda s: str([s]), lambda s: str({"a": s})]
)
def test_no_way_of_writing_a_secret_shows_it(show: object) -> None:
    """repr, str, format and containers all say `Secret(***)`."""
    assert callable(show)
    assert MARKER not in str(show(Secret(MARKER)))


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps])
def test_a_secret_is_not_taken_along(take: object) -> None:
    """Pickle, copy and JSON refuse, and their refusal does not hold the value."""
    assert callable(take)
    with pytest.raises(TypeError) as caught:
        take(Secret(MARKER))
    assert MARKER not in str(caught.value)


def test_a_traceback_and_a_log_record_do_not_hold_it(caplog: pytest.LogCaptureFixture) -> None:
    """Locals are not printed by Python; what is printed of an argument is its repr."""
    secret = Secret(MARKER)
    try:
        raise ValueError(secret)
    except ValueError:
        text = traceback.format_exc()
        logging.getLogger("test").exception("failed with %s", secret)
    assert MARKER not in text
    assert MARKER not in caplog.text


def test_secrets_are_compared_by_same_as_alone() -> None:
    """`==` would leak by timing and invite a secret as a key."""
    assert Secret("a").same_as(Secret("a"))
    assert not Secret("a").same_as(Secret("b"))
    with pytest.raises(TypeError, match="same_as"):
        assert Secret("a") == Secret("a")
    with pytest.raises(TypeError):
        hash(Secret("a"))


def test_the_door_opens() -> None:
    """The allowed twin."""
    assert Secret(MARKER).reveal() == MARKER


def test_what_a_door_hands_on_shows_no_token_handle_or_key() -> None:
    """A request that ends in a traceback or a log line by accident must not carry what it was made with."""
    asked = exchange_request("the-token", resume_key="the-resume-key")
    read = read_request("the-handle")
    shown = repr(asked) + repr(read)
    assert "grant='lake'" in shown
    assert [word for word in ("the-token", "the-resume-key", "the-handle") if word in shown] == []
