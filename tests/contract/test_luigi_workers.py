"""Real Luigi processes, workers and forks on a broker whose credentials rotate while they run."""

import re
import threading
import time
from collections.abc import Callable

import pytest

from tests.fakes.broker_wire import FakeGrant
from tests.fakes.luigi_job import LuigiJob

PAIR = """
    import os, time
    import luigi
    import luigi_contrib_secrets as secrets

    def note(name, *words):
        with open(name, "a") as file:
            file.write(" ".join(map(str, words)) + "\\n")

    class Read(luigi.Task):
        n = luigi.IntParameter(default=0)
        user = secrets.SecretParameter()
        password = secrets.SecretParameter()
        db = secrets.BundleParameter(default="secret://warehouse")

        def output(self):
            return luigi.LocalTarget(f"out/{type(self).__name__}-{self.n}")

        def done(self, *words):
            with self.output().open("w") as out:
                out.write("done")
            note("ran", self.n, *words)

        def run(self):
            with self.db.lease() as c:
                assert (c.username, c.password) == (self.user, self.password)
            self.done(self.user, self.password, os.getpid())
"""
SECTIONS = """
    [secrets]
    wait = 1
    pin_idle = 0.05
    [Read]
    user = secret://warehouse#username
    password = secret://warehouse#password
    [retcode]
    task_failed = 30
    not_run = 25
    unhandled_exception = 40
"""


def sections(*families: str) -> str:
    return SECTIONS + "".join(
        SECTIONS[SECTIONS.index("    [Read]") : SECTIONS.index("    [retcode]")].replace("Read", f) for f in families
    )


def passwords(job: LuigiJob) -> set[str]:
    return {value for value in job.wire.values if not value.startswith("cbs_")}


def wait_until(met: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 3])
def test_tasks_read_live_values_and_show_references(luigi_job: LuigiJob, workers: int) -> None:
    """Every value in a task is one that was issued; Luigi's own log, at DEBUG, has none of them. One fetch per process."""
    luigi_job.configure(sections("All"))
    module = f"""{PAIR}
    class All(luigi.WrapperTask):
        def requires(self):
            return [Read(n=n) for n in range(6)]
    """
    ran = luigi_job.luigi(module, "All", "--workers", str(workers), "--log-level", "DEBUG")
    assert ran.code == 0, ran.output
    lines = [line.split() for line in luigi_job.lines("ran")]
    assert sorted(line[0] for line in lines) == list("012345")
    assert {line[2] for line in lines} <= passwords(luigi_job)
    assert not any(value in ran.output for value in luigi_job.wire.values)
    processes = {line[3] for line in lines}
    assert len(processes) == (1 if workers == 1 else 6), "Luigi forks for each task when there are several workers"
    assert luigi_job.fetches("warehouse") == len(processes)
    tasks = {seen.headers["x-luigi-task"] for seen in luigi_job.wire.calls("GET", "/v1/credentials/")}
    assert all(re.fullmatch(r"Read_\d_[0-9a-f]{10}", task) for task in tasks)


def test_a_rotation_in_the_middle_of_a_task_is_seen_by_its_next_read(luigi_job: LuigiJob) -> None:
    """The same task object, no restart, no torn pair (R3, R5)."""
    luigi_job.wire.grants["warehouse"] = FakeGrant(rotate_after=1)
    luigi_job.configure(sections("Long"))
    module = f"""{PAIR}
    class Long(Read):
        def run(self):
            seen = []
            while len(seen) < 3:
                pair = (self.user, self.password)
                if pair not in seen:
                    seen.append(pair)
                    note("pairs", *pair)
                time.sleep(0.1)
            self.done()
    """
    ran = luigi_job.luigi(module, "Long")
    assert ran.code == 0, ran.output
    pairs = [tuple(line.split()) for line in luigi_job.lines("pairs")]
    assert len(set(pairs)) == 3
    assert [password for _, password in pairs] == [v for v in luigi_job.wire.values if v in {p for _, p in pairs}]
    assert luigi_job.lines("ran") == ["0"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_chain_of_21_tasks_under_rotation_runs_exactly_21_tasks(luigi_job: LuigiJob, workers: int) -> None:
    """With a plain parameter, one rotation on the way re-ran everything upstream (luigi.md 0.7); here no identity moves (R4)."""
    luigi_job.wire.grants["warehouse"] = FakeGrant(rotate_after=1)
    luigi_job.configure(sections("Chain"))
    module = f"""{PAIR}
    class Chain(Read):
        def requires(self):
            # A live value handed on, and the task made anew at every look: the hard case.
            return [Chain(n=self.n - 1, password=self.password), ] if self.n else []

        def run(self):
            time.sleep(0.1)
            self.done(self.user, self.password)
    """
    ran = luigi_job.luigi(module, "Chain", "--n", "20", "--workers", str(workers))
    assert ran.code == 0, ran.output
    lines = [line.split() for line in luigi_job.lines("ran")]
    assert [line[0] for line in lines] == [str(n) for n in range(21)]
    assert len({line[2] for line in lines}) >= 2, "it did rotate on the way"
    assert "ran successfully" in ran.output
    assert "Unfulfilled" not in ran.output


@pytest.mark.parametrize("workers", [1, 3])
def test_a_dynamic_dependency_gets_the_reference(luigi_job: LuigiJob, workers: int) -> None:
    """Between processes it travels as text (module, family, parameters): as the reference (R6)."""
    luigi_job.configure(sections("Parent", "Child"))
    module = f"""{PAIR}
    class Child(Read):
        def run(self):
            note("params", self.to_str_params()["password"])
            self.done(self.password)

    class Parent(Read):
        def run(self):
            yield [self.clone(Child, n=n) for n in (1, 2)]
            yield Child(n=3, password=self.password)
            self.done(self.password)
    """
    ran = luigi_job.luigi(module, "Parent", "--workers", str(workers), "--log-level", "DEBUG")
    assert ran.code == 0, ran.output
    assert luigi_job.lines("params") == ["secret://warehouse#password"] * 3
    assert sorted(line.split()[0] for line in luigi_job.lines("ran")) == ["0", "1", "2", "3"]
    assert {line.split()[1] for line in luigi_job.lines("ran")} <= passwords(luigi_job)
    assert not any(value in ran.output for value in luigi_job.wire.values)


def test_parallel_scheduling_reads_in_its_pool(luigi_job: LuigiJob) -> None:
    """`complete()` in a child of the pool: the task comes there pickled, as a reference."""
    luigi_job.configure(sections("Checked", "Root"))
    module = f"""{PAIR}
    class Checked(Read):
        def complete(self):
            note("complete", self.password, os.getpid())
            return super().complete()

    class Root(luigi.WrapperTask):
        def requires(self):
            return [Checked(n=n) for n in range(3)]
    """
    ran = luigi_job.luigi(module, "Root", "--workers", "3", "--parallel-scheduling")
    assert ran.code == 0, ran.output
    checks = [line.split() for line in luigi_job.lines("complete")]
    assert {line[0] for line in checks} <= passwords(luigi_job)
    assert len({line[1] for line in checks}) > 1
    assert len(luigi_job.lines("ran")) == 3


def test_a_broker_that_goes_away_costs_the_task_that_needs_it_and_not_the_worker(luigi_job: LuigiJob) -> None:
    """What is valid is served; past its end that task fails with a clear line; the others run, and the exit code says so (R8)."""
    luigi_job.wire.grants["warehouse"] = FakeGrant(ttl=9, rotate_after=1)
    luigi_job.configure(sections("Before", "Stale", "After"))
    module = f"""{PAIR}
    def wait_for(name):
        while not os.path.exists(name):
            time.sleep(0.02)

    class Before(Read):
        def run(self):
            note("value", self.password)
            wait_for("gone")
            self.done()

    class Stale(Read):
        def requires(self):
            return Before()

        def run(self):
            time.sleep(1.2)  # past refresh_at
            note("value", self.password)
            self.done()

    class After(Read):
        def requires(self):
            return Stale()

        def run(self):
            with self.db.lease() as c:
                wait_for_end = c.expires_at.timestamp() - time.time()
            time.sleep(max(wait_for_end, 0) + 0.1)
            note("value", self.password)

    class Other(luigi.Task):
        priority = -1
        def requires(self):
            return Before()
        def complete(self):
            return os.path.exists("other")
        def run(self):
            note("other", "ran")

    class Root(luigi.WrapperTask):
        def requires(self):
            return [After(), Other()]
    """

    def go_away() -> None:
        wait_until(lambda: bool(luigi_job.lines("value")))
        luigi_job.wire.vanish()
        (luigi_job.folder / "gone").touch()

    thread = threading.Thread(target=go_away)
    thread.start()
    ran = luigi_job.luigi(module, "Root")
    thread.join()
    assert ran.code == 30, ran.output
    (first, stale) = luigi_job.lines("value")
    assert first == stale, "served to its end"
    assert "version 1 is served until" in ran.output
    assert re.search(r"SecretUnavailable: secret://warehouse: no answer from the broker .*\[broker_unreachable\]", ran.output)
    assert luigi_job.lines("other") == ["ran"], "the worker goes on"
    assert not any(value in ran.output for value in luigi_job.wire.values)


def test_a_revoked_session_fails_the_task_and_its_allowed_twin_runs(luigi_job: LuigiJob) -> None:
    luigi_job.configure(SECTIONS)
    assert luigi_job.luigi(PAIR, "Read").code == 0
    luigi_job.wire.end("revoked")
    ran = luigi_job.luigi(PAIR, "Read", "--n", "1")
    assert ran.code == 30
    assert "SecretRefused: secret://warehouse: the session is over (revoked) [session_revoked]" in ran.output


def test_another_environments_worker_resolves_nothing(luigi_job: LuigiJob) -> None:
    luigi_job.configure(SECTIONS.replace("wait = 1", "wait = 1\n    environment = review"))
    ran = luigi_job.luigi(PAIR, "Read")
    assert ran.code == 30
    assert "[environment_mismatch]" in ran.output
    assert luigi_job.fetches("warehouse") == 0


def test_on_the_command_line_a_reference_is_taken_and_a_literal_refused(luigi_job: LuigiJob) -> None:
    """Without repeating it (L6)."""
    ran = luigi_job.luigi(PAIR, "Read", "--user", "secret://warehouse#username", "--password", "secret://warehouse#password")
    assert ran.code == 0, ran.output
    ran = luigi_job.luigi(PAIR, "Read", "--n", "1", "--user", "secret://warehouse#username", "--password", "hunter2-literal")
    assert ran.code != 0
    assert "a reference secret://<grant>[/<subpath>][#<field>] belongs here" in ran.output
    assert "hunter2-literal" not in ran.output
    assert len(luigi_job.lines("ran")) == 1


def test_a_literal_in_luigi_cfg_is_refused_without_repeating_it(luigi_job: LuigiJob) -> None:
    luigi_job.configure(SECTIONS.replace("secret://warehouse#password", "hunter2-literal"))
    ran = luigi_job.luigi(PAIR, "Read")
    assert ran.code != 0
    assert "never a literal" in ran.output
    assert "hunter2-literal" not in ran.output


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_task_works_in_a_child_however_it_is_started(luigi_job: LuigiJob, method: str) -> None:
    """And with the parent in the middle of a fetch when it starts (R1)."""
    import textwrap

    luigi_job.configure(SECTIONS)
    (luigi_job.folder / "pipeline.py").write_text(textwrap.dedent(PAIR))
    (luigi_job.folder / "main.py").write_text(
        textwrap.dedent(
            f"""
            import multiprocessing, threading, warnings
            warnings.simplefilter("ignore")
            import pipeline
            from luigi_contrib_secrets.client import client
            if __name__ == "__main__":
                task = pipeline.Read()
                asking = threading.Thread(target=lambda: task.password)
                asking.start()
                while not any(entry.flight.locked() for entry in client()._entries.values()):
                    pass
                child = multiprocessing.get_context("{method}").Process(target=task.run)
                child.start()
                child.join(15)
                assert child.exitcode == 0, child.exitcode
                asking.join()
            """
        )
    )
    luigi_job.wire.slow("/v1/credentials/", 1.0)
    ran = luigi_job.python("import runpy; runpy.run_path('main.py', run_name='__main__')" if method == "fork" else MAIN)
    assert ran.code == 0, ran.output
    (line,) = luigi_job.lines("ran")
    assert line.split()[2] in passwords(luigi_job)


# spawn and forkserver find the main module by its file.
MAIN = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, 'main.py']))"


def test_twenty_children_at_once_make_twenty_requests_and_no_more(luigi_job: LuigiJob) -> None:
    """The parent has a lease already: no child inherits it, and each asks once however often it reads (R2)."""
    luigi_job.configure(SECTIONS)
    ran = luigi_job.python(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        import luigi, luigi_contrib_secrets as secrets
        class Read(luigi.Task):
            user = secrets.SecretParameter()
            password = secrets.SecretParameter()
        task = Read()
        mine = task.password
        children = []
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                pairs = {(task.user, task.password) for _ in range(10)}
                os._exit(0 if len(pairs) == 1 and task.password == mine else 1)
            children.append(pid)
        assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
        """
    )
    assert ran.code == 0, ran.output
    assert luigi_job.fetches("warehouse") == 21
