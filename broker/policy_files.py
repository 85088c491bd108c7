"""The policy as files on this machine: read whole, watched, and named by the commit that they were checked out from."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.policy.language import load, text_hash
from broker.policy.model import Policy

_WATCHED = (".toml", ".json")  # the policy's own files, and the session policies beside them
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MOST_BYTES = 16 * 1024 * 1024
_MOST_LINKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFiles:
    """`path` is a file or a folder. `fits` raises Misconfigured for a policy that this broker's upstreams cannot serve."""

    path: Path
    issuers: Mapping[str, str]
    fits: Callable[[Policy], None]

    def read(self) -> Policy:
        """Raises Misconfigured (PolicyInvalid with every problem)."""
        policy = load(self.path, issuers=self.issuers)
        self.fits(policy)
        return policy

    def hash(self) -> str:
        """Of the files' texts as they are now, good or bad; `""` when they cannot be read."""
        return text_hash(self.path)

    def seen(self) -> object:
        """Name, size, time and inode of every file that a policy here can consist of: differs when one is written or replaced."""
        folder = self.path if self.path.is_dir() else self.path.parent
        try:
            names = sorted(entry for entry in folder.iterdir() if entry.suffix in _WATCHED or entry == self.path)
        except OSError:
            return None
        return tuple(_state(name) for name in names if not name.name.startswith("."))

    def commit(self) -> str:
        """The commit that is checked out where the policy stands; `""` without a repository, or one of a kind not known here.

        Read from git's files, without git. Says nothing about files that were changed since.
        """
        for folder in [self.path.absolute(), *self.path.absolute().parents]:
            git = folder / ".git"
            try:
                if git.is_dir():
                    return _head(git)
                if git.is_file():  # a worktree or a submodule
                    return _head((folder / _text(git).removeprefix("gitdir:").strip()).resolve())
            except (OSError, ValueError):
                return ""
        return ""


def _state(path: Path) -> tuple[str, int, int, int] | tuple[str]:
    try:
        found = path.stat()
    except OSError:
        return (path.name,)
    return path.name, found.st_size, found.st_mtime_ns, found.st_ino


def _head(git: Path) -> str:
    shared = git / _text(git / "commondir").strip() if (git / "commondir").is_file() else git
    value = _text(git / "HEAD").strip()
    for _ in range(_MOST_LINKS):
        if not value.startswith("ref:"):
            break
        value = _ref(value.removeprefix("ref:").strip(), (git, shared))
    return value if _COMMIT.fullmatch(value) else ""


def _ref(name: str, folders: tuple[Path, Path]) -> str:
    if not name.startswith("refs/") or ".." in name.split("/"):
        return ""
    for folder in folders:
        if (folder / name).is_file():
            return _text(folder / name).strip()
    return next((value for value, packed in _packed(folders[1]) if packed == name), "")


def _packed(folder: Path) -> Iterator[tuple[str, str]]:
    if (folder / "packed-refs").is_file():
        for line in _text(folder / "packed-refs").splitlines():
            value, _, name = line.partition(" ")
            yield value, name


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES).decode("utf-8")
