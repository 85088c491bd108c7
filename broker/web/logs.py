"""Our own log: JSON lines on stderr, an event name and its fields.

Nothing secret is put into it in the first place. The scrubber is the last net: whatever looks like a token or a handle leaves as
`[withheld]`, also out of a traceback. It cannot know a password; that is what `Secret` is for.
"""

import logging
import re
import sys
import time
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

_TOKENS = re.compile(
    r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){0,4}"  # a JWT, or what is left of one
    r"|cbs_[0-9A-Za-z]{8,}"  # a session handle
    r"|\b(?:hv[sbr]|s)\.[A-Za-z0-9_-]{20,}"  # a Vault token
    r"|glpat-[A-Za-z0-9_-]{8,}|glcbt-[A-Za-z0-9_-]{8,}"  # GitLab's own
)


def scrub(text: str) -> str:
    """The text without anything that looks like a token."""
    return _TOKENS.sub("[withheld]", text)


class _Scrubbing(JsonFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


def to_stderr(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Sends every log of this process to stderr as JSON lines: `time`, `level`, `logger`, `event` and the event's fields."""
    handler = logging.StreamHandler(stream or sys.stderr)
    formatter = _Scrubbing(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "message": "event"},
    )
    formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
    formatter.default_msec_format = "%s.%03dZ"
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("uvicorn", "urllib3", "botocore", "boto3", "asyncio"):  # below this, they write requests down
        logging.getLogger(chatty).setLevel(logging.WARNING)
