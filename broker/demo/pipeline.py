"""The demo's Luigi pipeline: four tasks, S3 in and out, one of them long enough to see its credential rotate twice.

Nothing here knows of the broker but one import. `S3Target` finds the live credential through the container endpoint that
`credbroker exec` offers; the two parameters of `Watch` hold references and read live values. It runs in the job's process:
`credbroker exec --grant lake -- luigi --module broker.demo.pipeline Report --local-scheduler`. Where the demo has a Vault, the
end is a fifth task instead, `Signed`.
"""

import csv
import hmac
import io
import re
import time
from collections.abc import Iterator
from typing import Any

import luigi
from luigi.contrib.s3 import S3Client, S3Target

import luigi_contrib_secrets as secrets

_KEYS_TO_SEE = 3  # two rotations
_PATIENCE = 60.0  # seconds
_SIGNED_WITH = re.compile(rb"Credential=([A-Z0-9]+)/")


class Lake(luigi.Config):
    """Where the pipeline reads and writes: `[Lake]` in luigi.cfg."""

    root = luigi.Parameter()
    project = luigi.Parameter()


def _path(name: str) -> str:
    return f"{Lake().root}/out/{Lake().project}/{name}"


class Orders(luigi.ExternalTask):
    """What somebody else put there."""

    def output(self) -> S3Target:
        return S3Target(f"{Lake().root}/in/orders.csv")


class Clean(luigi.Task):
    """Orders without the cancelled ones."""

    def requires(self) -> Orders:
        return Orders()

    def output(self) -> S3Target:
        return S3Target(_path("clean.csv"))

    def run(self) -> None:
        kept = [row for row in _rows(self.input()) if row["state"] != "cancelled"]
        _write(self.output(), ["region", "amount", "state"], kept)


class Totals(luigi.Task):
    """One line per region."""

    def requires(self) -> Clean:
        return Clean()

    def output(self) -> S3Target:
        return S3Target(_path("totals.csv"))

    def run(self) -> None:
        totals: dict[str, int] = {}
        for row in _rows(self.input()):
            totals[row["region"]] = totals.get(row["region"], 0) + int(row["amount"])
        rows = [{"region": region, "amount": str(amount)} for region, amount in sorted(totals.items())]
        _write(self.output(), ["region", "amount"], rows)


class Watch(luigi.Task):
    """Works on with one S3 client until it has signed with three different keys, and says which.

    The key ids are taken from the requests as they leave; beside them stand what the task's own parameter reads at that moment
    (it keeps a snapshot for as long as it is busy with it, so it may be one key behind) and how the task is written down.
    """

    secret_key = secrets.SecretParameter(default="secret://lake#secret_access_key")
    lake = secrets.BundleParameter(default="secret://lake")

    def requires(self) -> Clean:
        return Clean()

    def output(self) -> S3Target:
        return S3Target(_path("rotations.csv"))

    def run(self) -> None:
        client = S3Client()
        signed: list[str] = []

        def note(request: Any, **_: object) -> None:
            found = _SIGNED_WITH.search(_bytes(request.headers.get("Authorization", b"")))
            if found is not None and found.group(1).decode() not in signed:
                signed.append(found.group(1).decode())

        client.s3.meta.client.meta.events.register("before-send.s3", note)
        seen: list[dict[str, str]] = []
        give_up = time.monotonic() + _PATIENCE
        while len(seen) < _KEYS_TO_SEE:
            if time.monotonic() > give_up:
                raise TimeoutError(f"not rotated twice within {_PATIENCE:.0f} s: signed with {len(signed)} keys")
            client.exists(self.input().path)
            while len(seen) < len(signed):
                with self.lake.lease() as lease:
                    read = str(lease.access_key_id)
                seen.append({"signed_with": signed[len(seen)], "read_by_task": read, "parameters": str(self.param_kwargs)})
            time.sleep(0.25)
        _write(self.output(), ["signed_with", "read_by_task", "parameters"], seen)


class Report(luigi.Task):
    """The end of the pipeline."""

    def requires(self) -> list[luigi.Task]:
        return [Totals(), Watch()]

    def output(self) -> S3Target:
        return S3Target(_path("report.txt"))

    def run(self) -> None:
        totals, rotations = ([*_rows(target)] for target in self.input())
        with self.output().open("w") as out:
            for row in totals:
                out.write(f"{row['region']}: {row['amount']}\n")
            out.write(f"signed with {len(rotations)} keys\n")


class Signed(luigi.Task):
    """The report's HMAC-SHA256, made with a key that Vault leased to this job."""

    key = secrets.SecretParameter(default="secret://signing#key")

    def requires(self) -> Report:
        return Report()

    def output(self) -> S3Target:
        return S3Target(_path("report.hmac"))

    def run(self) -> None:
        with self.input().open("r") as lines:
            report = "".join(lines)
        with self.output().open("w") as out:
            out.write(hmac.new(self.key.encode(), report.encode(), "sha256").hexdigest())


def _rows(target: S3Target) -> Iterator[dict[str, str]]:
    with target.open("r") as lines:
        text = "".join(lines)
    yield from csv.DictReader(io.StringIO(text))


def _write(target: S3Target, names: list[str], rows: list[dict[str, str]]) -> None:
    with target.open("w") as out:
        table = csv.DictWriter(out, names, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
