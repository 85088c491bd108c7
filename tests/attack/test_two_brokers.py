"""Two brokers on one SQLite file: what one revoked the other served on, and what one kept alive the other ended as silent."""

import time
from pathlib import Path

import pytest

from broker.errors import Code, Misconfigured
from broker.store.serving import only_server_of
from broker.wiring import system_clock


def test_a_second_broker_on_a_store_is_refused_and_a_successor_is_not(tmp_path: Path) -> None:
    store = tmp_path / "broker.db"
    with only_server_of(store):
        with pytest.raises(Misconfigured) as caught, only_server_of(store):
            pass
        assert caught.value.code is Code.CONFIG_INVALID
        assert "another broker serves from the store" in caught.value.public
        with only_server_of(tmp_path / "other.db"):
            pass
    with only_server_of(store):
        assert (tmp_path / "broker.db-serving").stat().st_mode & 0o777 == 0o600


def test_a_store_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught, only_server_of(tmp_path / "none" / "broker.db"):
        pass
    assert "see [store] url" in caught.value.public
    (tmp_path / "broker.db-serving").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Misconfigured), only_server_of(tmp_path / "broker.db"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_time_passes_while_the_machine_is_suspended() -> None:
    """Ends are monotonic deadlines; by CLOCK_MONOTONIC a suspended broker woke up and served what had ended long ago."""
    before, now, after = time.clock_gettime(time.CLOCK_BOOTTIME), system_clock().mono, time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= now <= after
