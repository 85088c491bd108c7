"""Our own log: JSON lines, and the last net under them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.secret import Secret
from broker.session import new_handle
from broker.web.logs import scrub, to_stderr


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    chatty = {name: logging.getLogger(name).level for name in ("uvicorn", "urllib3", "botocore", "boto3", "asyncio")}
    root.handlers.clear()
    to_stderr(stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    for name, was in chatty.items():
        logging.getLogger(name).setLevel(was)


def test_an_event_is_one_line_of_json_with_its_fields(lines: io.StringIO) -> None:
    """Time in UTC, name, fields."""
    logging.getLogger("credbroker.web").info("request.refused", extra={"correlation_id": "abc", "status": 403})
    (line,) = lines.getvalue().splitlines()
    event = json.loads(line)
    assert event["event"] == "request.refused"
    assert (event["level"], event["logger"], event["correlation_id"], event["status"]) == ("INFO", "credbroker.web", "abc", 403)
    assert event["time"].endswith("Z")


def test_what_looks_like_a_token_does_not_get_out(lines: io.StringIO) -> None:
    """Not in a field, not in a message, not out of a traceback."""
    handle = new_handle().reveal()
    job_token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2lnbmF0dXJl"
    log = logging.getLogger("credbroker.web")
    log.warning("oops %s", handle, extra={"detail": f"token {job_token} refused", "nested": {"vault": "hvs." + "a" * 30}})
    try:
        raise ValueError(f"bad {handle} and {job_token}")
    except ValueError:
        log.exception("request.failed")
    text = lines.getvalue()
    for secret in (handle, job_token, "c2lnbmF0dXJl", "hvs.aaaa"):
        assert secret not in text
    assert text.count("[withheld]") >= 5
    assert all(json.loads(line) for line in text.splitlines())


def test_a_secret_shows_nothing(lines: io.StringIO) -> None:
    """`Secret` needs no net."""
    logging.getLogger("credbroker").info("it is %s", Secret("hunter2"), extra={"value": Secret("hunter2")})
    assert "hunter2" not in lines.getvalue()


def test_libraries_do_not_write_down_requests(lines: io.StringIO) -> None:
    """urllib3 and botocore do, at DEBUG and INFO."""
    logging.getLogger("urllib3.connectionpool").info("GET /secret")
    logging.getLogger("uvicorn.error").info("Started")
    assert lines.getvalue() == ""


@pytest.mark.parametrize(
    "plain",
    ["no tokens here", "eyJ", "cbs_x", "https://vault/v1/s.txt", "the session cbs of 4711", "database/creds/x"],
)
def test_ordinary_text_is_left_alone(plain: str) -> None:
    """Or the log would be of no use."""
    assert scrub(plain) == plain


@given(st.text(), st.text())
def test_a_handle_never_survives(before: str, after: str) -> None:
    """Wherever it stands."""
    handle = new_handle().reveal()
    assert handle not in scrub(before + handle + after)
