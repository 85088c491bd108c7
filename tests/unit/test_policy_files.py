"""The policy's files: read and fit, watched, and named by the commit that is checked out there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from broker.errors import Code, Misconfigured
from broker.policy.language import PolicyInvalid
from broker.policy.model import Policy
from broker.policy_files import PolicyFiles
from tests.unit.policy.build import LAKE_JSON, WHOLE


def files(path: Path, **changes: object) -> PolicyFiles:
    fields: dict[str, object] = {"path": path, "issuers": {"gitlab": "gitlab"}, "fits": lambda _: None} | changes
    return PolicyFiles(**fields)  # type: ignore[arg-type]  # the tests know what they change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text(WHOLE)
    (tmp_path / "lake.json").write_text(LAKE_JSON)
    return tmp_path


def test_the_policy_is_read_and_asked_whether_it_fits(folder: Path) -> None:
    asked: list[Policy] = []
    policy = files(folder / "policy.toml", fits=asked.append).read()
    assert asked == [policy]

    def unfit(_: Policy) -> None:
        raise Misconfigured(Code.CONFIG_INVALID, "no upstream for lake")

    with pytest.raises(Misconfigured, match="no upstream"):
        files(folder / "policy.toml", fits=unfit).read()
    with pytest.raises(PolicyInvalid, match=r"no \[\[issuer\]\] is called 'gitlab'"):
        files(folder / "policy.toml", issuers={"other": "gitlab"}).read()


def test_a_bad_policy_has_a_hash_too_and_an_unreadable_one_has_none(folder: Path) -> None:
    policy = folder / "policy.toml"
    policy.write_text("version = 2")
    bad = files(policy).hash()
    assert bad.startswith("sha256:")
    policy.write_text("version = 3")
    assert files(policy).hash() not in (bad, "")
    assert files(folder / "none.toml").hash() == ""


@pytest.mark.parametrize("at", ["policy.toml", "."])
def test_a_file_that_is_written_replaced_added_or_removed_is_seen(folder: Path, at: str) -> None:
    """Also a session policy beside it; not another program's database."""
    watched = files(folder / at)
    seen = [watched.seen()]
    assert watched.seen() == seen[0]
    (folder / "lake.json").write_text(LAKE_JSON + "\n")
    seen.append(watched.seen())
    new = folder / ".new"
    new.write_text(WHOLE)
    new.replace(folder / "policy.toml")
    seen.append(watched.seen())
    (folder / "more.toml").write_text("version = 1")
    seen.append(watched.seen())
    (folder / "more.toml").unlink()
    (folder / "policy.toml").unlink()
    seen.append(watched.seen())
    assert len(set(seen)) == len(seen)
    (folder / "broker.db").write_text("x")
    assert watched.seen() == seen[-1]


def test_a_link_that_leads_nowhere_and_a_folder_that_is_gone_are_no_crash(folder: Path) -> None:
    (folder / "gone.toml").symlink_to(folder / "nowhere")
    assert files(folder).seen() is not None
    assert files(folder / "gone" / "policy.toml").seen() is None


def git(*words: str, at: Path) -> str:
    if shutil.which("git") is None and not os.environ.get("CI"):
        pytest.skip("git is not on this machine")
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *words], cwd=at, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_the_one_that_git_says(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On a branch, packed, detached, and in a worktree; and nothing where there is no commit."""
    policy = files(folder / "policy.toml")
    outside = policy.commit()
    git("init", "-q", at=folder)
    assert policy.commit() == ""
    git("add", ".", at=folder)
    git("commit", "-qm", "x", at=folder)
    assert policy.commit() == git("rev-parse", "HEAD", at=folder) != outside
    git("pack-refs", "--all", at=folder)
    assert policy.commit() == git("rev-parse", "HEAD", at=folder)
    tree = tmp_path_factory.mktemp("trees") / "tree"
    git("worktree", "add", "-q", "-b", "side", str(tree), at=folder)
    assert files(tree).commit() == git("rev-parse", "HEAD", at=folder)
    git("checkout", "-q", "--detach", at=folder)
    assert policy.commit() == git("rev-parse", "HEAD", at=folder)


@pytest.mark.parametrize("head", ["ref: ../../etc/passwd", "ref: refs/../../x", "ref: refs/heads/none", "not a commit", "\xff"])
def test_a_repository_that_is_not_as_expected_has_no_commit(folder: Path, head: str) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_bytes(head.encode("latin-1"))
    assert files(folder).commit() == ""
    (folder / ".git" / "HEAD").unlink()
    assert files(folder).commit() == ""
