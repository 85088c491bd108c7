"""A policy that changes under a running broker: all of it or nothing, both written down, and every session decided again."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import Code, Misconfigured, Refused, Unavailable
from broker.leases import policing as module
from broker.leases.policing import InForce, Policing
from broker.policy.language import parse
from broker.policy.model import Policy
from tests.rig import POLICY, Rig, rig

NARROWER = POLICY.replace('when.ref_path = "refs/heads/main"', 'when.ref_path = "refs/heads/trunk"').replace(
    'unless.ref_path = "refs/heads/main"', 'unless.ref_path = ["refs/heads/main", "refs/heads/trunk"]'
)


class Files:
    """Files in memory: `text` is what they say, `touched` counts writes."""

    def __init__(self, text: str = POLICY) -> None:
        self.text = text
        self.touched = 0

    def write(self, text: str) -> None:
        self.text = text
        self.touched += 1

    def read(self) -> Policy:
        return parse(self.text, "policy.toml", lambda _: "")

    def seen(self) -> object:
        return self.touched

    def hash(self) -> str:
        return "sha256:bad"

    def commit(self) -> str:
        return "c0ffee" * 6 + "c0ff"


class FollowedRig:
    """A rig whose policy follows `files`."""

    def __init__(self, broker: Rig) -> None:
        self.files = Files()
        self.in_force = InForce(broker.policy)
        self.asked = asyncio.Event()
        self._broker = broker
        self.policing = Policing(
            in_force=self.in_force,
            files=self.files,
            table=broker.table,
            ending=broker.ending,
            refusing=broker.refusing,
            ledger=broker.ledger,
            journal=broker.journal,
            clock=broker.clock,
            asked=self.asked,
        )

    async def reload(self) -> bool:
        taken = await self.policing.reload()
        self._broker.policy = self.in_force.policy
        await self._broker.ending.drain()
        return taken


async def test_a_new_policy_is_in_force_whole_and_its_entry_names_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        await followed.policing.begin()
        old = followed.in_force.policy.hash
        followed.files.write(POLICY + "# another\n")
        assert await followed.reload()
        assert followed.in_force.policy.hash != old
        assert [entry["policy_hash"] for entry in broker.entries("policy_loaded")] == [old, followed.in_force.policy.hash]
        assert broker.entries("policy_loaded")[1]["git_commit"] == followed.files.commit()


async def test_the_same_text_again_writes_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        await followed.policing.begin()
        followed.files.touched += 1
        assert await followed.reload()
        assert broker.kinds() == ["policy_loaded"]


async def test_a_bad_policy_changes_nothing_and_is_written_down_with_its_problems(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        await followed.policing.begin()
        handle = await broker.open()
        old = followed.in_force.policy
        followed.files.write(NARROWER.replace("version = 1", "version = 2"))
        assert not await followed.reload()
        assert followed.in_force.policy is old
        assert (await broker.read(handle)).grant == "lake"
        (refused,) = broker.entries("policy_refused")
        assert refused["policy_hash"] == old.hash
        assert refused["refused_hash"] == "sha256:bad"
        assert refused["problems"] == ["policy.toml:2: version is 2; write version = 1"]
        assert (refused["problem_count"], refused["git_commit"]) == (1, followed.files.commit())
        followed.files.write(POLICY + "# mended\n")
        assert await followed.reload()


async def test_a_session_that_the_new_policy_answers_otherwise_is_revoked_and_the_denial_carries_its_hash(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        handle = await broker.open()
        await broker.read(handle, "warehouse")
        followed.files.write(NARROWER)
        assert await followed.reload()
        assert broker.vault.live == {}
        (denied,) = broker.entries("denied")
        assert (denied["code"], denied["policy_hash"]) == ("no_environment", followed.in_force.policy.hash)
        assert {step["claim"] for step in denied["trail"] if not step["met"]} == {"ref_path"}
        assert broker.entries("session_closed")[0]["reason"] == "the policy no longer gives this job what it had"
        with pytest.raises(Refused) as caught:
            await broker.read(handle)
        assert caught.value.code is Code.SESSION_REVOKED


async def test_a_session_that_the_new_policy_answers_alike_lives_on(tmp_path: Path) -> None:
    """The allowed twin: also when the environment's rule is another one."""
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        handle = await broker.open()
        lease = await broker.read(handle, "warehouse")
        followed.files.write(POLICY.replace('"refs/heads/main"', '["refs/heads/main", "refs/heads/trunk"]'))
        assert await followed.reload()
        assert (await broker.read(handle, "warehouse")).lease_id == lease.lease_id
        assert not broker.entries("denied")


async def test_a_grant_that_is_taken_away_or_moved_to_another_environment_ends_the_session(tmp_path: Path) -> None:
    for number, (take, put) in enumerate(
        (('name = "production"', 'name = "other"'), ('[[grant]]\nname = "warehouse"', '[[grant]]\nname = "store"'))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with rig(folder) as broker:
            followed = FollowedRig(broker)
            await broker.open()
            text = POLICY.replace(take, put).replace('["production"', '["other"' if number == 0 else '["production"')
            assert text != POLICY
            followed.files.write(text)
            assert await followed.reload(), broker.entries("policy_refused")
            assert broker.entries("session_closed")[0]["state"] == "revoked"


async def test_a_session_of_the_store_is_decided_again_at_start(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        await broker.open()
        broker.change_policy(NARROWER)
        await broker.restart()
        followed = FollowedRig(broker)
        await followed.policing.begin()
        await broker.ending.drain()
        assert broker.entries("session_closed")[0]["state"] == "revoked"


async def test_a_policy_whose_entry_cannot_be_written_is_not_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry, no decision under it: it is tried again."""
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        old = followed.in_force.policy
        followed.files.write(POLICY + "# new\n")
        commit = broker.ledger.commit

        async def full(*_: object) -> None:
            raise Unavailable(Code.LOG_UNAVAILABLE, "the disk is full")

        monkeypatch.setattr(broker.ledger, "commit", full)
        with pytest.raises(Unavailable):
            await followed.policing.reload()
        assert followed.in_force.policy is old
        monkeypatch.setattr(broker.ledger, "commit", commit)
        assert await followed.reload()


async def test_the_sessions_end_although_the_denial_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        handle = await broker.open()
        followed.files.write(NARROWER)

        async def unwritten(*_: object) -> Refused:
            raise Unavailable(Code.LOG_UNAVAILABLE, "the disk is full")

        monkeypatch.setattr(type(broker.refusing), "denied", unwritten)
        assert await followed.reload()
        with pytest.raises(Refused):
            await broker.read(handle)


async def test_a_policy_that_changed_while_a_session_was_opened_is_asked_before_the_handle_is_given(tmp_path: Path) -> None:
    async with rig(tmp_path) as broker:
        write = broker.ledger.commit

        async def slow(changes: object, entries: object) -> None:
            await write(changes, entries)  # type: ignore[arg-type]  # as it was called
            broker.change_policy(NARROWER)

        broker.ledger.commit = slow  # type: ignore[method-assign]  # the policy changes while the session is written
        with pytest.raises(Refused) as caught:
            await broker.open()
        broker.ledger.commit = write  # type: ignore[method-assign]
        assert caught.value.code is Code.NO_ENVIRONMENT
        await broker.ending.drain()
        assert broker.entries("session_closed")[0]["state"] == "revoked"


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def test_files_are_taken_when_they_are_still_and_at_once_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who writes a file in pieces is not caught in the middle; an asked reload reads what is there."""
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.02)
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        await followed.policing.begin()
        task = asyncio.create_task(followed.policing.run())
        try:
            followed.files.write(POLICY + "# seen\n")
            await _until(lambda: followed.in_force.policy.text.endswith("# seen\n"))
            followed.files.text = POLICY + "# asked\n"
            followed.asked.set()
            await _until(lambda: followed.in_force.policy.text.endswith("# asked\n"))
            followed.files.write("version = 2")
            await _until(lambda: "policy_refused" in broker.kinds())
            await asyncio.sleep(0.1)
            assert broker.kinds().count("policy_refused") == 1
        finally:
            task.cancel()


async def test_files_that_changed_while_the_broker_started_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After they were read and before anybody watched them."""
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.02)
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        followed.files.write(POLICY + "# early\n")
        await followed.policing.begin()
        task = asyncio.create_task(followed.policing.run())
        try:
            await _until(lambda: followed.in_force.policy.text.endswith("# early\n"))
        finally:
            task.cancel()


async def test_a_look_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.02)
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        await followed.policing.begin()
        faults: list[Exception] = [RuntimeError("a bug"), Unavailable(Code.LOG_UNAVAILABLE, "full")]
        read = followed.files.read

        def failing() -> Policy:
            if faults:
                raise faults.pop()
            return read()

        monkeypatch.setattr(followed.files, "read", failing)
        task = asyncio.create_task(followed.policing.run())
        try:
            followed.files.write(POLICY + "# seen\n")
            await _until(lambda: followed.in_force.policy.text.endswith("# seen\n"))
            assert not faults
        finally:
            task.cancel()


async def test_a_look_that_was_asked_for_and_failed_is_still_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP wants the files read though they look unchanged; one that met an outage must not be forgotten."""
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.02)
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)
        await followed.policing.begin()
        await followed.reload()
        faults: list[Exception] = [RuntimeError("a bug"), Unavailable(Code.LOG_UNAVAILABLE, "full")]
        reads: list[bool] = []
        read = followed.files.read

        def failing() -> Policy:
            reads.append(bool(faults))
            if faults:
                raise faults.pop()
            return read()

        monkeypatch.setattr(followed.files, "read", failing)
        task = asyncio.create_task(followed.policing.run())
        try:
            followed.asked.set()
            await _until(lambda: reads == [True, True, False])
        finally:
            task.cancel()


async def test_what_does_not_fit_the_upstreams_is_refused_like_any_other_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as broker:
        followed = FollowedRig(broker)

        def unfit() -> Policy:
            raise Misconfigured(Code.CONFIG_INVALID, "grant 'x' names upstream 'y'")

        monkeypatch.setattr(followed.files, "read", unfit)
        assert not await followed.reload()
        assert broker.entries("policy_refused")[0]["problems"] == ["grant 'x' names upstream 'y'"]
