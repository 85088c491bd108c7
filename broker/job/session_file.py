"""Where the processes of one job find their session (DESIGN section 6).

Three files in a folder of our own (0700), each 0600: the session file, which everybody joins; beside it `.state`, what the next
opener has to know; `.lock`, held while either changes; and `.users`, on which each running `exec` holds a shared lock. The kernel
lets go of a lock when its holder dies, however it dies, in whichever container: no process id is ever believed.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from broker.errors import Code, Misconfigured
from broker.job.answers import format_moment, parse_moment
from broker.job.retry import Patience
from broker.job.settings import SESSION_FILE_VARIABLE, JobSettings
from broker.secret import Secret

_MAX_BYTES = 64 * 1024
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CANDIDATES = (Path("/dev/shm"), Path("/tmp"))  # noqa: S108 - a folder of our own is made there, and checked
_LOCK_PAUSE = 0.05
_WEEK = 7 * 86400.0  # no job token lives so long

Opener = Literal["exec", "get"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSession:
    """What the session file holds."""

    url: str
    handle: Secret
    session_id: str
    environment: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What outlives a killed opener. Written before the exchange is sent, so that its session can be had back."""

    jti: str = ""  # of the token that all of this is about
    resume_key: str = ""  # of an exchange whose answer has not reached the session file; "" for none
    asked_at: float = 0.0  # when that exchange was first sent, unix seconds
    opener: Opener = "exec"  # of the session in the file, or of the pending exchange
    left: int | None = None  # how many more sessions the token may open, at most; None before the broker said so
    heartbeat: bool = True  # whether the session in the file ends when it falls silent


def find_session_file(settings: JobSettings, job_id_of_token: Callable[[], str | None]) -> Path:
    """The path of this job's session file. Makes nothing. Raises Misconfigured(config_invalid)."""
    if settings.session_file is not None:
        return settings.session_file.absolute()
    job_id = settings.ci_job_id or job_id_of_token()
    if job_id is None or not _JOB_ID.fullmatch(job_id):
        raise Misconfigured(
            Code.CONFIG_INVALID,
            f"neither CI_JOB_ID nor {SESSION_FILE_VARIABLE} says where this job keeps its session; "
            f"outside GitLab set {SESSION_FILE_VARIABLE} to a file in a folder of your own (mode 0700)",
        )
    bases = [settings.runtime_dir] if settings.runtime_dir is not None else []
    for base in (*bases, *_CANDIDATES):
        if base.is_dir() and os.access(base, os.W_OK | os.X_OK):
            return base / f"credbroker-{os.geteuid()}" / f"{job_id}.json"
    raise Misconfigured(
        Code.CONFIG_INVALID,
        f"none of XDG_RUNTIME_DIR, /dev/shm and /tmp can be written to; set {SESSION_FILE_VARIABLE} to a file in your own folder",
    )


class SessionPlace:
    """The session file and what stands beside it, in a folder that was checked."""

    def __init__(self, path: Path) -> None:
        """Makes the folder (0700) when it is missing. Raises Misconfigured(config_invalid) when it is not ours alone."""
        self.path = path
        self.folder = path.parent
        try:
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
            found = self.folder.lstat()
        except OSError as error:
            raise _unsafe(self.folder, f"the folder cannot be made: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode):
            raise _unsafe(self.folder, "it is not a folder (a symbolic link is not followed)")
        if found.st_uid != os.geteuid():
            raise _unsafe(self.folder, f"it belongs to user {found.st_uid}")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise _unsafe(self.folder, f"others may look into it (mode {stat.S_IMODE(found.st_mode):04o}, 0700 is needed)")

    @contextlib.contextmanager
    def locked(self, patience: Patience) -> Iterator[None]:
        """Nobody else changes the session file or the state in this block."""
        descriptor = self._open(self._beside("lock"), os.O_RDWR | os.O_CREAT)
        try:
            while not _flock(descriptor, fcntl.LOCK_EX):
                late = patience.time_is_up("another credbroker command of this job is still busy opening or closing its session")
                if late is not None:
                    raise late
                time.sleep(_LOCK_PAUSE)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> KeptSession | None:
        """The session that is there. Raises Misconfigured(config_invalid) for a file that is a symlink, not ours or nonsense."""
        raw = self._read(self.path)
        if raw is None:
            return None
        try:
            document = json.loads(raw)
            return KeptSession(
                url=_text(document, "url"),
                handle=Secret(_text(document, "handle")),
                session_id=_text(document, "session_id"),
                environment=_text(document, "environment"),
                expires_at=parse_moment(_text(document, "expires_at")),
            )
        except (ValueError, TypeError, KeyError):
            raise _unsafe(self.path, "it is not a session file of credbroker; remove it") from None

    def write(self, session: KeptSession) -> None:
        """Readers see the old file or the new one, never half."""
        self._write(
            self.path,
            {
                "url": session.url,
                "handle": session.handle.reveal(),
                "session_id": session.session_id,
                "environment": session.environment,
                "expires_at": format_moment(session.expires_at),
            },
        )

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def state(self) -> State:
        """What the last opener left; a fresh State when there is none, or none that can be read."""
        raw = self._read(self._beside("state"))
        try:
            return State() if raw is None else State(**json.loads(raw))
        except (ValueError, TypeError):
            return State()

    def write_state(self, state: State) -> None:
        """Durable in the kernel when this returns: a kill of this process cannot lose it."""
        self._write(self._beside("state"), asdict(state))

    def sweep(self, now: float) -> None:
        """Removes what jobs of more than a week ago left: on a shell runner the folder outlives them, and is memory.

        Only in a folder that is named as ours; never fails.
        """
        if self.folder.name != f"credbroker-{os.geteuid()}":
            return
        for entry in os.scandir(self.folder):
            with contextlib.suppress(OSError):
                if now - entry.stat(follow_symlinks=False).st_mtime < _WEEK:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink()

    def join_users(self) -> "UserLock":
        """Counts this process among the users, until it dies or leaves. Call under `locked`."""
        descriptor = self._open(self._beside("users"), os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return UserLock(descriptor)

    def _beside(self, what: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{what}")

    def _open(self, path: Path, flags: int) -> int:
        """A regular file of our own that nobody else can read, and no symlink."""
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unsafe(path, f"it cannot be opened ({error.strerror}; a symbolic link is not followed)") from None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            os.close(descriptor)
            raise _unsafe(path, "it must be a regular file of this user with mode 0600")
        return descriptor

    def _read(self, path: Path) -> bytes | None:
        try:
            descriptor = self._open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_MAX_BYTES)

    def _write(self, path: Path, document: dict[str, Any]) -> None:
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=self.folder)  # 0600, and nobody's symlink
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


class UserLock:
    """One running `exec` among the users of a session."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def is_last(self) -> bool:
        """No other user is left. Call under `locked`, or a new one could come in between."""
        return _flock(self._descriptor, fcntl.LOCK_EX)

    def release(self) -> None:
        os.close(self._descriptor)


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _text(document: Any, name: str) -> str:
    value = document[name]
    if not isinstance(value, str) or not value:
        raise ValueError(name)
    return value


def _unsafe(path: Path, why: str) -> Misconfigured:
    return Misconfigured(Code.CONFIG_INVALID, f"{str(path)!r} cannot hold this job's session: {why}")
