"""`luigi.contrib.s3` as it is, with an empty `[s3]`: credentials come through the container endpoint, rotate, survive forks."""

from collections.abc import Iterator

import pytest

from tests.fakes.broker_wire import BrokerWire, FakeGrant
from tests.fakes.guarded_s3 import GuardedS3
from tests.fakes.luigi_job import LuigiJob

PIPELINE = """
    import os, time
    import luigi
    from luigi.contrib.s3 import S3Client, S3Target

    def note(name, *words):
        with open(name, "a") as file:
            file.write(" ".join(map(str, words)) + "\\n")

    class Write(luigi.Task):
        n = luigi.IntParameter(default=0)
        def output(self):
            return S3Target(f"s3://lake/out/{self.n}.txt")
        def run(self):
            with self.output().open("w") as out:
                out.write(f"row {self.n}")
            note("ran", self.n, os.getpid())
"""


@pytest.fixture
def s3(luigi_wire: BrokerWire) -> Iterator[GuardedS3]:
    with GuardedS3(luigi_wire) as s3:
        yield s3


@pytest.fixture
def aws(luigi_job: LuigiJob, s3: GuardedS3) -> dict[str, str]:
    """What `exec` puts into the environment for its AWS grant, and where S3 is."""
    luigi_job.wire.live[-1].transport = "http"
    token = luigi_job.folder / "aws-token"
    token.write_text(luigi_job.wire.live[-1].handle)
    return {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{luigi_job.wire.http_url}/v1/aws/lake",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_S3": s3.url,
        "AWS_CONFIG_FILE": str(luigi_job.folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(luigi_job.folder / "none"),
        "NO_PROXY": "127.0.0.1",
    }


def asked(job: LuigiJob) -> int:
    return len(job.wire.calls("GET", "/v1/aws/lake"))


def test_one_client_goes_on_through_rotations_in_the_middle_of_a_task(
    luigi_job: LuigiJob, s3: GuardedS3, aws: dict[str, str]
) -> None:
    """Credentials of three seconds, a task of six: with what the client had at its start it would end in ExpiredToken."""
    luigi_job.wire.grants["lake"] = FakeGrant(kind="aws", ttl=3, rotate_after=1)
    module = f"""{PIPELINE}
    class Long(Write):
        def run(self):
            client = S3Client()
            began = time.monotonic()
            while time.monotonic() - began < 6:
                client.put_string("x", "s3://lake/scratch/part")
                assert client.exists("s3://lake/scratch/part")
                time.sleep(0.2)
            super().run()
    """
    ran = luigi_job.luigi(module, "Long", env=aws)
    assert (ran.code, "looks :)" in ran.output) == (0, True), ran.output
    assert "ran successfully" in ran.output
    assert luigi_job.lines("ran")[0].startswith("0 ")
    assert len(set(s3.keys)) >= 3
    assert not any(value in ran.output for value in luigi_job.wire.values)


def test_forked_workers_share_what_was_fetched_and_all_get_through(
    luigi_job: LuigiJob, s3: GuardedS3, aws: dict[str, str]
) -> None:
    """An hour's credential: one request to the broker for a parent and its seven forked tasks."""
    module = f"""{PIPELINE}
    class All(luigi.Task):
        def requires(self):
            return [Write(n=n) for n in range(6)]
        def complete(self):
            return os.path.exists("all")
        def run(self):
            note("all", *sorted(target.open().read() for target in self.input()))
    """
    ran = luigi_job.luigi(module, "All", "--workers", "3", env=aws)
    assert (ran.code, "looks :)" in ran.output) == (0, True), ran.output
    assert luigi_job.lines("all") == [" ".join(f"row {n}" for n in range(6))]
    assert len({line.split()[1] for line in luigi_job.lines("ran")}) == 6
    assert asked(luigi_job) == 1
    assert len(set(s3.keys)) == 1


def test_forked_workers_rotate_as_well(luigi_job: LuigiJob, s3: GuardedS3, aws: dict[str, str]) -> None:
    """What a child inherited ends while it works: the child asks for itself."""
    luigi_job.wire.grants["lake"] = FakeGrant(kind="aws", ttl=3, rotate_after=1)
    module = f"""{PIPELINE}
    class Late(Write):
        def run(self):
            time.sleep(3.2)
            super().run()

    class All(luigi.WrapperTask):
        def requires(self):
            return [Late(n=n) for n in range(3)]
    """
    ran = luigi_job.luigi(module, "All", "--workers", "3", env=aws)
    assert (ran.code, "looks :)" in ran.output) == (0, True), ran.output
    assert len(luigi_job.lines("ran")) == 3
    assert len(set(s3.keys)) >= 2


def test_a_refused_grant_reads_and_writes_nothing(luigi_job: LuigiJob, s3: GuardedS3, aws: dict[str, str]) -> None:
    """The twin of the above: no other credential is found instead."""
    luigi_job.wire.grants["lake"].denied = "grant_denied"
    luigi_job.configure("[retcode]\ntask_failed = 30\nnot_run = 25\nscheduling_error = 35\n")
    ran = luigi_job.luigi(PIPELINE, "Write", env=aws)
    assert ran.code in {30, 35}
    assert "grant 'lake' is refused" in ran.output
    assert s3.keys == []
    assert luigi_job.lines("ran") == []
