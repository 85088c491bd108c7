"""Running the command: signals, its end, and its output."""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import IO

from broker.errors import Code, Misconfigured
from broker.job.masking import Masker
from broker.job.rotations import Rotations

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_GATHERED = 1024 * 1024  # output held back at most while the broker may not be asked again yet
_QUIET_SECONDS = 2.0  # how long output of a process that the command left behind is waited for

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as shells say it


class Signals:
    """TERM, INT and HUP while this block runs: without a command they end `exec`, with one they go to the command."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
        self._ending = False

    def __enter__(self) -> "Signals":  # noqa: PYI034 - Self is not in Python 3.10
        for number in _FORWARDED:
            # What our caller ignores stays ignored (nohup, a shell's background job).
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def to(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def hold(self) -> None:
        """From now on signals are ignored: what was opened is being given back, which takes seconds at most."""
        self._ending = True

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if self._ending:
            return
        if self._child is None:
            raise SystemExit(128 + number)
        # From a terminal the whole foreground group has had its INT already; two would make Luigi stop without cleaning up.
        if self._child.poll() is None and not (number == signal.SIGINT and _in_foreground()):
            self._child.send_signal(number)


def run_command(
    command: Sequence[str],
    environment: Mapping[str, str],
    signals: Signals,
    *,
    masker: Masker | None,
    rotations: Rotations | None,
    on_start: Callable[[], None],
) -> int:
    """The command's exit code, 128+n when signal n ended it; its output masked when there is a masker.

    Call from the main thread while there is no other: the fork is then safe, and the kernel's promise that the command dies with
    `exec` is bound to the thread that forked. `on_start` is called as soon as the command runs.
    Raises Misconfigured(config_invalid) whose `exit_code` a shell would give, when there is no such command.
    """
    streams = subprocess.PIPE if masker is not None else None
    try:
        child = subprocess.Popen(  # noqa: S603 - running the caller's command is what `exec` is for
            list(command),
            env=dict(environment),
            stdout=streams,
            stderr=streams,
            bufsize=0,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one thread
        )
    except (FileNotFoundError, NotADirectoryError):
        raise NoSuchCommandError(f"there is no command {command[0]!r}", NOT_FOUND) from None
    except OSError as error:
        # A folder in PATH that we may not look into counts as not having it, as in shells.
        if shutil.which(command[0], os.F_OK, environment.get("PATH", os.defpath)) is None:
            raise NoSuchCommandError(f"there is no command {command[0]!r}", NOT_FOUND) from None
        raise NoSuchCommandError(f"{command[0]!r} cannot be run: {error.strerror}", NOT_EXECUTABLE) from None
    signals.to(child)
    on_start()
    pumps: list[_Pump] = []
    if masker is not None:
        assert child.stdout is not None
        assert child.stderr is not None
        pumps = [_Pump(child.stdout, 1, masker, rotations), _Pump(child.stderr, 2, masker, rotations)]
        for pump in pumps:
            pump.start()
    code = child.wait()
    for pump in pumps:
        pump.finish()
    return 128 - code if code < 0 else code


class NoSuchCommandError(Misconfigured):
    """The command cannot be started; `exit_code` is what a shell would exit with."""

    def __init__(self, public: str, exit_code: int) -> None:
        super().__init__(Code.CONFIG_INVALID, public)
        self.exit_code = exit_code


class _Pump(threading.Thread):
    """One stream of the command, masked on its way. Binary-safe; stdout and stderr stay apart."""

    def __init__(self, source: IO[bytes], target: int, masker: Masker, rotations: Rotations | None) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._target = target
        self._masker = masker
        self._rotations = rotations
        self._waiting_since: float | None = None
        self._held = b""

    def run(self) -> None:
        try:
            while piece := self._gather():
                out, self._held = self._masker.split(self._held + piece)
                self._write(out)
            out, self._held = self._held, b""
            self._write(self._masker.mask(out))
        except OSError:
            pass  # nobody reads our output any more: the command learns it the usual way, from its closed pipe
        finally:
            self._source.close()

    def finish(self) -> None:
        """All that the command wrote is out. A process it left behind, silent on the same pipe, is not waited for."""
        while self.is_alive():
            self.join(0.05)
            since = self._waiting_since
            if since is not None and time.monotonic() - since > _QUIET_SECONDS:
                out, self._held = self._held, b""
                self._write(self._masker.mask(out))
                return

    def _gather(self) -> bytes:
        """What the command wrote, after every value that it could have written is known; empty at the end."""
        self._waiting_since = time.monotonic()
        piece = self._source.read(65536)
        self._waiting_since = None
        if not piece or self._rotations is None:
            return piece or b""
        gathered = bytearray(piece)
        while len(gathered) < _GATHERED:
            ready, _, _ = select.select([self._source], [], [], self._rotations.due_in())
            if not ready:
                break
            piece = self._source.read(65536)
            if not piece:
                break
            gathered += piece
            if self._rotations.due_in() == 0:
                break
        self._rotations.catch_up()
        return bytes(gathered)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._target, view) :]


def _die_with_parent() -> Callable[[], None]:
    """What the child does before it becomes the command: ask the kernel to be killed when `exec` is.

    Everything is looked up before the fork. The parent may have died between the fork and the question; then its id has changed.
    """
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    parent = os.getpid()

    def ask() -> None:  # pragma: no cover - runs between fork and exec, where coverage does not
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return ask


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
