"""The whole job side together: `credbroker exec -- luigi …`, with the session file and the endpoint that `exec` really makes."""

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.fakes.broker_wire import broker_wire
from tests.fakes.guarded_s3 import GuardedS3
from tests.fakes.luigi_job import LuigiJob

PIPELINE = """
    import luigi
    from luigi.contrib.s3 import S3Target
    import luigi_contrib_secrets as secrets

    class Load(luigi.Task):
        password = secrets.SecretParameter()
        db = secrets.BundleParameter(default="secret://warehouse")

        def output(self):
            return S3Target("s3://lake/out/load.txt")

        def run(self):
            with self.db.lease(min_ttl="10m") as c:
                assert c.password == self.password
            with open("password", "w") as file:
                file.write(self.password)
            with self.output().open("w") as out:
                out.write("done")
"""


def test_a_pipeline_under_exec_reads_secrets_and_s3_and_leaves_nothing(tmp_path: Path) -> None:
    """One session for both; it is over when the pipeline is, and its file is gone."""
    with broker_wire(tmp_path / "wire") as wire, GuardedS3(wire) as s3:
        job = LuigiJob(tmp_path / "job", wire)
        job.configure("[Load]\npassword = secret://warehouse#password\n")
        (job.folder / "pipeline.py").write_text(textwrap.dedent(PIPELINE))
        environment = job.environment() | {
            "CREDBROKER_ID_TOKEN": wire.mint(),
            "CI_JOB_ID": "4242",
            "AWS_ENDPOINT_URL_S3": s3.url,
        }
        luigi = [sys.executable, "-m", "luigi", "--module", "pipeline", "Load", "--local-scheduler", "--workers", "2"]
        ran = subprocess.run(
            [sys.executable, "-m", "broker", "exec", "--", *luigi],
            cwd=job.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "looks :)" in ran.stdout + ran.stderr
        assert (job.folder / "password").read_text() in wire.values
        assert not any(value in ran.stdout + ran.stderr for value in wire.values)
        assert s3.keys
        assert [session.state for session in wire.sessions] == ["closed"]
        assert not job.session_file.exists()
