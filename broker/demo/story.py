"""The demo's acts. Each does one thing for real and checks what came of it; the first check that fails ends the demo."""

import csv
import hmac
import io
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from broker.demo.files import BUCKET, PROJECT, ROTATE_EVERY
from broker.demo.ministack import Keys
from broker.demo.vault import GRANT, DevVault
from broker.demo.world import World

Say = Callable[[str], None]


class StoryBroken(AssertionError):
    """The demo did not do what it says. The message says what was expected and what came."""


class Story:
    """Told by `tell`. `title` and `line` print; nothing else here does."""

    def __init__(self, world: World, title: Say, line: Say) -> None:
        self._world = world
        self._title = title
        self._line = line
        self._job = 9000

    def tell(self) -> None:
        """All acts, in order. Raises StoryBroken."""
        self._title("1. A production job runs its Luigi pipeline")
        self.production()
        self._title("2. A review job wants production data")
        self.review()
        self._title("3. Somebody has stolen a job's token")
        self.theft()
        self._title("4. The job ends, and so do its credentials")
        self.ending()
        self._title("5. The security team checks the log")
        self.evidence()

    # --- the acts ---------------------------------------------------------------------------------------------------

    def production(self) -> None:
        """A pipeline under `exec`; one of its tasks sees its credential rotate twice and goes on."""
        began = time.monotonic()
        vault = self._world.vault
        end, options = ("Report", ["--grant", "lake"]) if vault is None else ("Signed", ["--grant", "lake", "--grant", GRANT])
        luigi = ["luigi", "--module", "broker.demo.pipeline", end, "--local-scheduler"]
        done = self._exec(self._world.token(), options, [sys.executable, "-m", *luigi])
        _require(done.returncode == 0, "the pipeline succeeds", done)
        rows = list(csv.DictReader(io.StringIO(self._object(f"production/out/{PROJECT}/rotations.csv"))))
        keys = [row["signed_with"] for row in rows]
        _require(len(set(keys)) == len(keys) == 3, "three different keys signed the requests of one task", rows)  # noqa: PLR2004 - it waits for three
        _require(all(row["read_by_task"] in keys for row in rows), "the task reads what the SDK signs with", rows)
        _require(len({row["read_by_task"] for row in rows}) > 1, "the task's own parameter rotates too", rows)
        written = {row["parameters"] for row in rows}
        _require(len(written) == 1 and "secret://lake" in written.pop(), "the task is written down with references", rows)
        report = self._object(f"production/out/{PROJECT}/report.txt")
        _require(report == "north: 15\nsouth: 4\nsigned with 3 keys\n", "the report adds up", report)
        for key in keys:
            _require(key in self._audit("--credential", key), f"the log knows {key}", "")
        grants = "grant lake" if vault is None else f"grants lake and {GRANT}"
        self._line(
            f"GitLab's token says: project 4711, protected main, environment production. Policy says: production, {grants}"
        )
        self._line("four tasks, S3 in and out through luigi.contrib.s3, no key in luigi.cfg or in the environment")
        self._line(f"rotated every {ROTATE_EVERY} while one task worked on: signed with {', '.join(keys)}; each is in the log")
        if vault is not None:
            self._signed(vault, report)
        self._line(f"done in {time.monotonic() - began:.0f} s")

    def review(self) -> None:
        """Refused by the broker, and, with the review job's own credential, by S3."""
        claims = {"ref": "feature/x", "ref_path": "refs/heads/feature/x", "ref_protected": "false", "environment": "review/x"}
        asked = self._exec(self._world.token(**claims), ["--environment", "production", "--grant", "lake"], ["true"])
        _require(asked.returncode == 77 and "environment_mismatch" in asked.stderr, "the broker refuses", asked)  # noqa: PLR2004 - sysexits
        self._line("the broker: " + _sentence(asked.stderr))

        environment = self._world.job_environment(self._world.token(**claims), self._next_job())
        got = self._world.run(["get", "lake", "--format", "json"], environment)
        _require(got.returncode == 0, "the review job gets its own credential", got)
        data = json.loads(got.stdout)["data"]
        keys = Keys(
            access_key_id=data["access_key_id"], secret_access_key=data["secret_access_key"], session_token=data["session_token"]
        )
        s3 = self._world.cloud.client("s3", keys)
        try:
            own = _read(s3, "review/in/orders.csv")
            foreign = _read(s3, "production/in/orders.csv")
        finally:
            s3.close()
        _require(own == "read", "it reads its own prefix", own)
        _require(foreign == "AccessDenied", "S3 refuses it the production prefix", foreign)
        self._line(
            f"with its own credential: s3://{BUCKET}/review is read, s3://{BUCKET}/production is refused by S3 ({foreign})"
        )

    def theft(self) -> None:
        """A second exchange of a live token is refused and logged; upstream the token is worth nothing."""
        token = self._world.token()
        stolen = self._world.folder / "stolen"  # a file: `exec` takes the token out of its command's environment
        stolen.write_text(token)
        extra = {
            "STOLEN": str(stolen),
            "DEMO_STS": self._world.sts.url,
            "CREDBROKER_URL_OF_JOB": f"unix://{self._world.socket}",
        }
        done = self._exec(token, ["--grant", "lake", "--no-mask"], [sys.executable, "-m", "broker.demo.thief"], extra)
        _require(done.returncode == 0, "the job itself is not disturbed", done)
        answer = json.loads(done.stdout)
        _require(answer["exit"] == 77 and "session_exists" in answer["said"], "the broker refuses the replay", answer)  # noqa: PLR2004 - sysexits
        _require(answer["printed"] == "", "the thief gets nothing", answer)
        _require(answer["upstream"] in (400, 403), "the STS refuses GitLab's token", answer)
        _require("session_exists" in self._audit("--kind", "denied"), "the log has it", "")
        self._line("the broker: " + _sentence(answer["said"]))
        self._line("AWS STS, asked with the stolen token itself: refused; it trusts the broker's assertions and nobody else's")

    def ending(self) -> None:
        """After `exec` the handle is worth nothing, and the log says until when the AWS session lives."""
        show = "import json, os; print(open(os.environ['CREDBROKER_SESSION_FILE']).read())"
        done = self._exec(self._world.token(), ["--grant", "lake", "--no-mask"], [sys.executable, "-c", show])
        _require(done.returncode == 0, "the job runs", done)
        session = json.loads(done.stdout)
        status, body = self._world.ask("/v1/session", session["handle"])
        _require((status, body.get("code")) == (401, "session_revoked"), "the handle is refused afterwards", body)
        closed = [
            json.loads(line) for line in self._audit("--session", session["session_id"], "--kind", "session_closed").splitlines()
        ]
        _require(len(closed) == 1, "the log has the end of the session", closed)
        until = _find(closed[0], "not_revocable_until")
        _require(bool(until), "the log says until when STS's session lives", closed)
        self._line("`exec` revoked its session on the way out; its handle is refused from then on")
        if self._world.vault is not None:
            self._taken_back(self._world.vault)
        self._line(f"what AWS cannot take back is said honestly: that STS session lapses at {until}")

    def evidence(self) -> None:
        """The log verifies with the public key alone."""
        verified = self._world.run(
            ["audit", "verify", str(self._world.database), "--key", self._world.log_key], _bare(self._world)
        )
        _require(verified.returncode == 0, "the log verifies", verified)
        kinds = [_find(json.loads(line), "kind") for line in self._audit().splitlines()]
        for kind in ("session_opened", "intent", "issued", "denied", "session_closed"):
            _require(kind in kinds, f"the log has {kind}", kinds)
        _require(kinds.count("intent") >= kinds.count("issued") >= 4, "every credential had its intent", kinds)  # noqa: PLR2004 - acts 1 to 4
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        self._line(f"verified with the public key alone: {len(kinds)} entries ({counts})")

    # --- where there is a Vault -------------------------------------------------------------------------------------

    def _signed(self, vault: DevVault, report: str) -> None:
        """The fifth task signed with what Vault leased; the log knows the lease."""
        signed = self._object(f"production/out/{PROJECT}/report.hmac")
        _require(
            signed == hmac.new(vault.key.encode(), report.encode(), "sha256").hexdigest(), "the leased key signed it", signed
        )
        issued = self._audit("--kind", "issued", "--grant", GRANT).splitlines()
        _require(bool(issued), "the log has the lease", issued)
        lease = _find(_find(json.loads(issued[0]), "upstream_ids"), "lease_id")
        _require(str(lease).startswith("leased/"), "the log has Vault's own id of it", lease)
        self._line(
            f"a fifth task signed the report with a key that {vault.name} leased to this job: {lease} (the lease is real, the "
            "key a stored one: an account for each job needs a database)"
        )

    def _taken_back(self, vault: DevVault) -> None:
        """Vault itself lists the lease of a job while it runs, and none when it is over."""
        _require(vault.leases() == [], "no lease is left of the jobs before", vault.leases())
        go = self._world.folder / "go"
        wait = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)"
        with ThreadPoolExecutor(1) as beside:
            running = beside.submit(self._exec, self._world.token(), ["--grant", GRANT], [sys.executable, "-c", wait, str(go)])
            try:
                while not (during := vault.leases()) and not running.done():
                    time.sleep(0.05)
            finally:
                go.touch()
            done = running.result()
        _require(done.returncode == 0 and len(during) == 1, f"{vault.name} lists the lease while the job runs", done)
        _require(vault.leases() == [], f"{vault.name} has no lease afterwards", vault.leases())
        self._line(f"{vault.name} lists one lease while a job runs and none when it has ended: revoked there, at once")

    # --- how --------------------------------------------------------------------------------------------------------

    def _exec(self, token: str, options: list[str], command: list[str], extra: dict[str, str] | None = None) -> Any:
        environment = self._world.job_environment(token, self._next_job()) | (extra or {})
        return self._world.run(["exec", *options, "--", *command], environment)

    def _next_job(self) -> str:
        self._job += 1
        return str(self._job)

    def _object(self, key: str) -> str:
        return str(self._world.cloud.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read().decode())

    def _audit(self, *filters: str) -> str:
        done = self._world.run(["audit", "query", str(self._world.database), "--json", *filters], _bare(self._world))
        _require(done.returncode == 0, "the log can be queried", done)
        return str(done.stdout)


def _bare(world: World) -> dict[str, str]:
    """Neither a token nor a broker's address: the log needs nobody's word."""
    return {"HOME": str(world.folder), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


def _read(s3: Any, key: str) -> str:
    from botocore.exceptions import ClientError

    try:
        s3.get_object(Bucket=BUCKET, Key=key)["Body"].close()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "read"


def _find(value: object, name: str) -> Any:
    """The first member of that name, at any depth."""
    if isinstance(value, dict):
        if name in value:
            return value[name]
        value = list(value.values())
    if isinstance(value, list):
        return next((found for item in value if (found := _find(item, name)) is not None), None)
    return None


def _sentence(stderr: str) -> str:
    return next((line for line in reversed(stderr.strip().splitlines()) if line.strip()), "").removeprefix("credbroker: ")


def _require(holds: bool, what: str, seen: object) -> None:
    if not holds:
        raise StoryBroken(f"expected that {what}; saw: {seen}")
