"""Keeps this process's memory and environment, which has the job token, from other processes of the same user."""

import ctypes
import sys

_PR_SET_DUMPABLE = 4


def keep_private() -> None:
    """From now on no process of this user reads our `/proc/<pid>/environ` or memory, or attaches to us; no core is dumped.

    The command that `exec` starts is as open as any: the kernel resets this at execve. Not covered: what was read before, and
    readers with CAP_SYS_PTRACE, root on a host above all.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
