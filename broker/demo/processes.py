"""What every process beside the demo needs: a port on loopback, an end with its parent's, and an end by its id."""

import contextlib
import os
import signal
import socket
import subprocess

_STOP_SECONDS = 5.0


def free_port() -> int:
    """Free at this moment: whoever binds it next may be somebody else, so a process that ends at once gets another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> None:
    """PR_SET_PDEATHSIG: a parent that is killed cannot stop anything. "Parent" is the thread that started the process."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def stop_group(process: "subprocess.Popen[bytes]") -> None:
    """The process, which leads a group of its own, is gone with what it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
            break
