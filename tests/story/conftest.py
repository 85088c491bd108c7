"""One running world for each test process: real issuer, S3, STS, broker, and Vault's double behind it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from broker.demo.world import World
from tests.contract.vault_servers import Server, fake_server
from tests.fakes.aws import needs_ministack
from tests.story.vault import prepare

_POLICY = """
[[grant]]
name = "warehouse"
environments = ["production"]
[grant.vault]
role = "etl-{environment}"
path = "database/creds/etl-{environment}"

[[grant]]
name = "settings"
environments = ["production"]
[grant.vault]
role = "etl-settings-{environment}"
path = "secret/etl/{environment}/*"
engine = "kv2"
"""

_UPSTREAM = """
[[upstream]]
name = "vault"
kind = "vault"
url = "{url}"
mount = "jwt"
via = "issuer"
maintenance_role = "credbroker-maintenance"
"""


@dataclass
class Town:
    """The world and the Vault that the broker in it knows."""

    world: World
    vault: Server

    def run(self, *arguments: str, token: str | None = None, job: str | None = None, seconds: float = 90, **env: str) -> Any:
        """`credbroker …` in a job of its own (or `job`'s): exit code, stdout, stderr."""
        self._job = getattr(self, "_job", 500) + 1
        environment = self.world.job_environment(token or "", job or str(self._job)) | env
        if token is None:
            del environment["CREDBROKER_ID_TOKEN"]
        done = self.world.run(list(arguments), environment, seconds=seconds)
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        return done


@pytest.fixture(scope="session")
def town() -> Iterator[Town]:
    with (
        fake_server() as vault,
        needs_ministack(),
        World(policy=_POLICY, upstreams=_UPSTREAM.format(url=vault.url)) as world,
    ):
        prepare(vault, world)
        yield Town(world, vault)
