"""Key material on disk: read only when nobody else could have read or written it; written whole or not at all."""

import base64
import binascii
import errno
import os
import stat
from pathlib import Path

from broker.errors import Code, Misconfigured

_MAX_BYTES = 64 * 1024  # a key file is a few hundred bytes; anything larger is the wrong file
SYMMETRIC_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_private(path: Path) -> bytes:
    """The bytes of a file that only its owner, the user this process runs as (or root), can read or write.

    What is checked is what was opened, so a file swapped in between is checked too. Not checked: the folders above, and ACLs.
    Raises Misconfigured(config_invalid) when the file is missing, unreadable, a symbolic link, not a regular file, of another
    owner, open to its group or to others, or larger than a key can be.
    """
    try:
        # O_NONBLOCK: a named pipe laid in the way must not stop the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _refused(path, _why_not_opened(error)) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(path, "is not a regular file")
        if found.st_uid not in (os.geteuid(), 0):
            raise _refused(path, f"belongs to uid {found.st_uid}, not to the user the broker runs as; `chown` it")
        if found.st_mode & _OTHERS:
            raise _refused(path, f"is open to others (mode {stat.S_IMODE(found.st_mode):04o}); `chmod 600` it")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(_MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_BYTES:
        raise _refused(path, f"is larger than {_MAX_BYTES // 1024} KiB and cannot be a key")
    return content


def read_symmetric(path: Path) -> bytes:
    """A key of 32 bytes, written as 43 base64url characters. Raises Misconfigured(config_invalid), as `read_private` does."""
    text = read_private(path).strip()
    try:
        key = base64.b64decode(text + b"=", altchars=b"-_", validate=True)
    except binascii.Error:
        key = b""
    if len(key) != SYMMETRIC_BYTES or format_symmetric(key).strip() != text:
        raise _refused(path, f"is not {SYMMETRIC_BYTES} bytes in base64url; `credbroker keygen` makes one")
    return key


def format_symmetric(key: bytes) -> bytes:
    """The text of a key file that `read_symmetric` reads."""
    return base64.urlsafe_b64encode(key).rstrip(b"=") + b"\n"


def write_private(path: Path, content: bytes) -> None:
    """A new file, mode 0600, durable before this returns; readers see all of it or no file. Never replaces one that is there.

    Raises Misconfigured(config_invalid) when something is there already or the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.link(draft, path)  # unlike rename, fails when the name is taken: a key replaced by accident is a key lost
        finally:
            draft.unlink()
        _sync_folder(path.parent)
    except FileExistsError:
        raise _refused(path, "is there already and is not replaced; move it away first") from None
    except OSError as error:
        raise _refused(path, f"cannot be written ({os.strerror(error.errno or 0)})") from None


def write_public(path: Path, content: bytes) -> None:
    """A file for everybody, in place of the one that was there: readers see all of the old or all of the new, after a crash too.

    Raises Misconfigured(config_invalid) when the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o644)
        draft.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise Misconfigured(Code.CONFIG_INVALID, f"{path} cannot be written ({os.strerror(error.errno or 0)})") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why_not_opened(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "is a symbolic link; name the file itself"
    if error.errno == errno.ENOENT:
        return "does not exist; `credbroker keygen` makes a broker's keys"
    return f"cannot be read ({os.strerror(error.errno or 0)})"


def _refused(path: Path, why: str) -> Misconfigured:
    return Misconfigured(Code.CONFIG_INVALID, f"key file {path} {why}")
