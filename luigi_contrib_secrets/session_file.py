"""The job's session, as `credbroker exec` left it in a file (DESIGN section 6). Read at every fetch; only its opener ends it."""

import json
import os
import re
import stat
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from luigi_contrib_secrets.errors import SecretMisconfigured
from luigi_contrib_secrets.instant import parse_instant

_HANDLE = re.compile(r"cbs_[0-9A-Za-z]{49}")
_JOB_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_LONGEST = 16 * 1024
_START = "run the pipeline as `credbroker exec -- luigi …`"


@dataclass(frozen=True)
class Session:
    """Where the broker is, and the handle that the job holds. The handle stays out of repr."""

    url: str
    handle: str = field(repr=False)
    environment: str
    expires_at: datetime


def load() -> Session:
    """The session this job is in. Raises SecretMisconfigured when there is none, or when others could have written it."""
    path = _path()
    folder = _lstat(path.parent)
    if not stat.S_ISDIR(folder.st_mode) or not _ours_alone(folder):
        raise _wrong(f"the folder of the session file {path} must be a directory of this user's with mode 0700")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _wrong(f"the session file {path} cannot be opened ({error.strerror}); {_START}") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not _ours_alone(found):
            # Somebody who writes it could send our requests, with a handle of theirs, to a broker of theirs.
            raise _wrong(f"the session file {path} must be a plain file of this user's with mode 0600")
        text = file.read(_LONGEST)
    try:
        return _parse(json.loads(text))
    except (ValueError, KeyError, TypeError):
        # The chain is cut: a JSON error carries the document, and the document holds the handle.
        raise _wrong(f"the session file {path} is not one that credbroker writes; {_START}") from None


def _parse(unverified: dict[str, object]) -> Session:
    url, handle, environment, expires_at = (unverified[key] for key in ("url", "handle", "environment", "expires_at"))
    if not (isinstance(url, str) and isinstance(handle, str) and isinstance(environment, str) and isinstance(expires_at, str)):
        raise TypeError
    if not _HANDLE.fullmatch(handle):
        raise ValueError
    return Session(url=url, handle=handle, environment=environment, expires_at=parse_instant(expires_at))


def _path() -> Path:
    named = os.environ.get("CREDBROKER_SESSION_FILE", "")
    if named:
        return Path(named)
    job_id = os.environ.get("CI_JOB_ID", "")
    if not _JOB_ID.fullmatch(job_id):
        raise _wrong(f"there is no session: neither CREDBROKER_SESSION_FILE nor CI_JOB_ID says where it is; {_START}")
    for place in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm", "/tmp"):  # noqa: S108  DESIGN section 6 names them; load() checks owner and mode
        if place and Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK):
            return Path(place) / f"credbroker-{os.geteuid()}" / f"{job_id}.json"
    raise _wrong("there is no session: no folder for it can be written (XDG_RUNTIME_DIR, /dev/shm, /tmp)")


def _lstat(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except OSError as error:
        raise _wrong(f"there is no session at {path} ({error.strerror}); {_START}") from None


def _ours_alone(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _wrong(sentence: str) -> SecretMisconfigured:
    return SecretMisconfigured(sentence, code="config_invalid")
