"""The table of codes holds together."""

import pytest

from broker.errors import Broken, BrokerError, Code, Misconfigured, Refused, Unavailable

SYSEXITS = {64, 65, 69, 70, 77, 78}


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.word)
def test_every_code_has_a_word_a_status_and_an_exit(code: Code) -> None:
    assert code.word == code.name.lower()
    assert code.exit_code in SYSEXITS
    assert Code.of(code.word) is code
    travels = bool(code.oauth_error)
    assert travels == (400 <= code.http_status < 600)


def test_no_two_codes_share_a_row() -> None:
    """Two members with equal values would silently be one in an Enum."""
    assert len({code.word for code in Code}) == len(Code.__members__)


@pytest.mark.parametrize("family", [Refused, Unavailable, Misconfigured])
def test_an_error_shows_its_public_sentence_and_keeps_its_detail(family: type[BrokerError]) -> None:
    """`str()` is what an accident would print."""
    error = family(Code.UPSTREAM_DENIED, "the upstream refused", detail="role etl-prod: 403 permission denied")
    assert str(error) == "the upstream refused"
    assert "403" not in repr(error)


def test_a_bug_tells_the_caller_nothing_but_where_to_look() -> None:
    error = Broken("KeyError in decide")
    assert error.code is Code.INTERNAL
    assert "KeyError" not in error.public
