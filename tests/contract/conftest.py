"""Fixtures that more than one contract shares."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.broker_wire import BrokerWire, broker_wire
from tests.fakes.luigi_job import LuigiJob

with warnings.catch_warnings():
    # Luigi warns at its own import until a luigi.cfg says otherwise; in a test run there is none yet.
    warnings.simplefilter("ignore", DeprecationWarning)
    import luigi
    from luigi.configuration.cfg_parser import LuigiConfigParser
    from luigi.task_register import Register

    from luigi_contrib_secrets import client as clients


@pytest.fixture
def luigi_wire(tmp_path: Path) -> Iterator[BrokerWire]:
    with broker_wire(tmp_path / "wire") as wire:
        yield wire


@pytest.fixture
def luigi_job(tmp_path: Path, luigi_wire: BrokerWire) -> LuigiJob:
    """A job with an open session; Luigi runs as a process of its own."""
    job = LuigiJob(tmp_path / "job", luigi_wire)
    job.open_session()
    return job


@pytest.fixture
def inside_job(luigi_job: LuigiJob, monkeypatch: pytest.MonkeyPatch) -> LuigiJob:
    """The same, and this very process is in it: its environment, an empty client, and Luigi reading this luigi.cfg alone."""
    for name in ("CREDBROKER_URL", "CREDBROKER_SESSION_FILE"):
        monkeypatch.setenv(name, luigi_job.environment()[name])
    for name in ("CREDBROKER_CA_FILE", "CI_SERVER_TLS_CA_FILE", "LUIGI_CONFIG_PARSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(luigi_job.folder)
    monkeypatch.setattr(LuigiConfigParser, "_config_paths", [str(luigi_job.folder / "luigi.cfg")])
    monkeypatch.setattr(LuigiConfigParser, "_instance", None)
    monkeypatch.setattr(clients, "_client", clients.Client())
    luigi_job.configure("[secrets]\nwait = 0.5\n")
    assert luigi.configuration.get_config().get("secrets", "wait") == "0.5"  # type: ignore[no-untyped-call]  # Luigi's
    Register.clear_instance_cache()  # type: ignore[no-untyped-call]  # Luigi's
    return luigi_job
