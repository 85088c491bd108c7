"""Key files: read only when nobody else could touch them, written whole or not at all."""

import os
from pathlib import Path

import pytest

from broker.errors import Code, Misconfigured
from broker.keyfiles import format_symmetric, read_private, read_symmetric, write_private, write_public


def refusal(path: Path) -> str:
    with pytest.raises(Misconfigured) as caught:
        read_private(path)
    assert caught.value.code is Code.CONFIG_INVALID
    assert str(path) in caught.value.public
    return caught.value.public


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_what_was_written_is_read_back_and_is_its_owners_alone(tmp_path: Path) -> None:
    """Mode 0600, and no draft is left beside it."""
    path = tmp_path / "a key.pem"
    write_private(path, b"secret\x00\xff")
    assert read_private(path) == b"secret\x00\xff"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["a key.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666])
def test_a_file_open_to_anybody_else_is_refused(tmp_path: Path, mode: int) -> None:
    """Reading by the group is enough to make the key no secret."""
    path = tmp_path / "key"
    write_private(path, b"x")
    path.chmod(mode)
    assert f"mode {mode:04o}" in refusal(path)
    path.chmod(0o400)
    assert read_private(path) == b"x"


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """It could be pointed at another key between two looks."""
    write_private(tmp_path / "key", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    assert "symbolic link" in refusal(tmp_path / "link")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A named pipe in the way does not stop the start, either."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "not a regular file" in refusal(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "missing")
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))


def test_a_file_of_another_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could change it."""
    path = tmp_path / "key"
    write_private(path, b"x")
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:  # only root can give a file away; anybody can be somebody else to it
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert "belongs to uid" in refusal(path)


def test_a_file_that_cannot_be_a_key_is_refused(tmp_path: Path) -> None:
    """Somebody named the wrong file."""
    path = tmp_path / "key"
    write_private(path, b"x" * (64 * 1024))
    assert len(read_private(path)) == 64 * 1024
    path.write_bytes(b"x" * (64 * 1024 + 1))
    assert "larger than 64 KiB" in refusal(path)


def test_a_key_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    """A key replaced by accident is a key lost."""
    path = tmp_path / "key"
    write_private(path, b"first")
    with pytest.raises(Misconfigured, match="is there already"):
        write_private(path, b"second")
    assert read_private(path) == b"first"
    assert names(tmp_path) == ["key"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Both kinds of file say so."""
    for write in (write_private, write_public):
        with pytest.raises(Misconfigured, match="cannot be written") as caught:
            write(tmp_path / "missing" / "key", b"x")
        assert caught.value.code is Code.CONFIG_INVALID


def test_a_public_file_is_replaced_whole(tmp_path: Path) -> None:
    """Everybody may read it, and nobody ever sees half of it."""
    path = tmp_path / "jwks"
    write_public(path, b"old")
    with path.open("rb") as reader:
        write_public(path, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(tmp_path) == ["jwks"]


def test_a_symmetric_key_is_32_bytes_of_text(tmp_path: Path) -> None:
    """43 base64url characters, with or without a newline."""
    key = bytes(range(224, 256))
    write_private(tmp_path / "a", format_symmetric(key))
    assert (tmp_path / "a").read_bytes() == b"4OHi4-Tl5ufo6err7O3u7_Dx8vP09fb3-Pn6-_z9_v8\n"
    assert read_symmetric(tmp_path / "a") == key
    write_private(tmp_path / "b", format_symmetric(key).strip())
    assert read_symmetric(tmp_path / "b") == key


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b"!" * 43,
        format_symmetric(b"x" * 31),
        format_symmetric(b"x" * 33),
        format_symmetric(b"x" * 32).strip() + b"=",
        format_symmetric(b"\xff" * 32).replace(b"_", b"/"),
        format_symmetric(b"\x00" * 32).strip()[:-1] + b"B",  # other spare bits
    ],
)
def test_anything_else_is_no_symmetric_key(tmp_path: Path, text: bytes) -> None:
    """A short key would be a weak one, and one key has one spelling."""
    write_private(tmp_path / "key", text)
    with pytest.raises(Misconfigured, match="is not 32 bytes in base64url"):
        read_symmetric(tmp_path / "key")
