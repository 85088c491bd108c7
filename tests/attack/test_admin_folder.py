"""The admin socket's folder, made by somebody else before the broker starts: they could put their own socket in its place."""

import os
from pathlib import Path

import pytest

from broker.errors import Misconfigured
from broker.web.sockets import AdminAt, bound

NOBODY = 65534


def test_a_link_is_not_the_admin_socket_s_folder(tmp_path: Path) -> None:
    """Its mode is that of what it points to, and what it points to can change."""
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / "admin").symlink_to(tmp_path / "theirs")
    with pytest.raises(Misconfigured, match="is a link"), bound(AdminAt(path=tmp_path / "admin" / "a.sock", uids=frozenset({0}))):
        pass


def test_a_folder_of_somebody_else_is_not_the_admin_socket_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mode 0700 says nothing when it is another user's 0700."""
    folder = tmp_path / "admin"
    folder.mkdir(mode=0o700)
    at = AdminAt(path=folder / "a.sock", uids=frozenset({0}))
    with bound(at):
        assert at.path.exists()
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    else:  # who cannot give a folder away can be somebody else for a moment
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with pytest.raises(Misconfigured, match="belongs to uid"), bound(at):
        pass
