"""What a task author's tools see of the package: its types, its names, and what importing it costs."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import luigi_contrib_secrets


def test_every_public_name_is_there() -> None:
    for name in luigi_contrib_secrets.__all__:
        assert hasattr(luigi_contrib_secrets, name)


def test_importing_it_loads_neither_the_broker_nor_a_cloud_library() -> None:
    """It has to be light: every forked, spawned and pooled process of Luigi's pays for it."""
    script = "import luigi, sys; had = set(sys.modules); import luigi_contrib_secrets; print(*(set(sys.modules) - had))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.split(".", 1)[0] for name in done.stdout.split()}
    assert "luigi_contrib_secrets" in loaded
    assert not loaded & {"broker", "boto3", "botocore", "requests", "click", "msgspec", "cryptography", "asyncio"}


def test_mypy_sees_a_str_and_a_bundle(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """`py.typed`, and the overloads of `__get__`: no plugin needed to read a parameter."""
    (tmp_path / "pipeline.py").write_text(
        textwrap.dedent(
            """
            import luigi
            from typing import Any
            from typing_extensions import assert_type
            import luigi_contrib_secrets as secrets

            class Load(luigi.Task):
                password = secrets.SecretParameter()
                db = secrets.BundleParameter(default="secret://warehouse")

                def run(self) -> None:
                    assert_type(self.password, str)
                    assert_type(self.db, secrets.Bundle)
                    with self.db.lease(min_ttl="3h") as c:
                        assert_type(c.username, secrets.SecretStr)

            assert_type(Load.password, luigi.Parameter[str])
            """
        )
    )
    kept = getattr(pytestconfig, "cache", None)  # Luigi's own types are most of the work, and the same the next time
    cache = kept.mkdir("mypy") if kept is not None else tmp_path / "cache"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "pipeline.py"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"MYPYPATH": str(Path(luigi_contrib_secrets.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "Success: no issues found in 1 source file\n"), done.stdout + done.stderr
