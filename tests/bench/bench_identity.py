"""How fast the strictest token check is: verifications per second on one core, against openssl's bare RSA in the same run.

    python -m tests.bench.bench_identity

What is timed is all of `TokenVerifier.verify`: parse, key, signature, hours, audience, typed claims, with every check on. Rounds
of openssl and of ours alternate on one core, both in CPU time; ratios are per round and their median counts. A busy neighbour
costs ours more (it empties the caches that Python lives on), so the best round is printed too. Exits with 1 when a gate is
missed, and for no other reason.
"""

import asyncio
import gc
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from broker.errors import Refused
from broker.identity.claims import JobIdentity
from broker.identity.jwks import Keys
from broker.identity.verify import TokenVerifier
from tests.fakes.forge import base_claims, forge, gitlab_key, jwks_file, settings
from tests.strategies import moment

GOAL, GATE = 0.50, 0.35
ROUNDS = 7
SECONDS = 0.5
TOKENS = 64  # different ones, so that nothing is fast because it was seen before
FLAT_BYTES = 64 * 1024
NOW = moment()


def openssl_verifies() -> float:
    """RSA-2048 verifications per second of user time, as openssl says."""
    program = shutil.which("openssl")
    if program is None:
        sys.exit("this benchmark needs the program openssl")
    done = subprocess.run([program, "speed", "-mr", "-seconds", "1", "rsa2048"], capture_output=True, text=True, check=True)
    found = re.search(r"^\+F2:\d+:2048:([0-9.e+-]+):([0-9.e+-]+)", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    seconds_or_rate = float(found[2])
    return seconds_or_rate if seconds_or_rate > 1 else 1 / seconds_or_rate  # openssl 1 prints seconds, 3 too, 4 a rate


def rate(work: Callable[[str], None], tokens: Sequence[str]) -> float:
    """How many per second of this process's CPU time."""
    done, began = 0, time.process_time()
    while (took := time.process_time() - began) < SECONDS:
        for token in tokens:
            work(token)
        done += len(tokens)
    return done / took


class Checking:
    """The verifier, called without a loop: with the keys there, nothing is waited for."""

    def __init__(self, folder: Path) -> None:
        one = settings(jwks_file=jwks_file(folder))
        self._verifier = TokenVerifier([(one, Keys(one))])
        asyncio.run(self._verifier.warm(NOW))

    def identity(self, token: str) -> JobIdentity:
        asking = self._verifier.verify(token, NOW)
        try:
            asking.send(None)
        except StopIteration as done:
            identity: JobIdentity = done.value
            return identity
        raise AssertionError("the verifier waited for something")

    def accept(self, token: str) -> None:
        self.identity(token)

    def refuse(self, token: str) -> None:
        try:
            self.identity(token)
        except Refused:
            return
        raise AssertionError("a bad token was accepted")


def good_tokens(count: int) -> list[str]:
    return [
        forge(base_claims(jti=f"0b1d9d6e-4b0e-4d3a-9a38-{n:012d}", job_id=str(1000 + n), sha=f"{n:040x}")) for n in range(count)
    ]


def with_bad_signature(token: str) -> str:
    """One byte of the signature is another one; everything before it is as it was."""
    head, _, signature = token.rpartition(".")
    return f"{head}.{signature[:100]}{'A' if signature[100] != 'A' else 'B'}{signature[101:]}"


def bare(tokens: Sequence[str]) -> Callable[[str], None]:
    """`cryptography` alone, over the same bytes: what no Python around it can get below."""
    import base64

    key = gitlab_key().private.public_key()
    parts = {
        token: (token.rpartition(".")[0].encode(), base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")) for token in tokens
    }

    def check(token: str) -> None:
        signed, signature = parts[token]
        key.verify(signature, signed, PKCS1v15(), SHA256())

    return check


def memory_growth(checking: Checking, good: Sequence[str]) -> int:
    """Bytes that a mixed run of 10 000 tokens leaves behind, after one of 1 000 has filled what is bounded."""
    chance = random.Random(1)

    def mixed(count: int) -> None:
        for _ in range(count):
            token = chance.choice(good)
            kind = chance.randrange(6)
            if kind == 0:
                checking.accept(token)
            elif kind == 1:
                checking.refuse(with_bad_signature(token))
            elif kind == 2:  # a header that nobody has seen
                header = {"alg": "RS256", "kid": gitlab_key().kid, "typ": f"T{chance.random()}"}
                checking.refuse(forge(base_claims(), header, signature=b"x" * 256))
            elif kind == 3:  # a name of a claim that nobody has seen
                checking.refuse(forge(base_claims() | {f"n{chance.random()}": "x"}, signature=b"x" * 256))
            elif kind == 4:
                checking.refuse(token[: chance.randrange(len(token))])
            else:  # signed, and for somebody else
                checking.refuse(elsewhere[chance.randrange(len(elsewhere))])

    elsewhere = [forge(base_claims(aud="https://vault.example", jti=str(n))) for n in range(8)]
    mixed(1_000)
    tracemalloc.start()
    try:
        mixed(1_000)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        mixed(10_000)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def main() -> int:
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    good = good_tokens(TOKENS)
    bad = [with_bad_signature(token) for token in good]
    with tempfile.TemporaryDirectory() as folder:
        checking = Checking(Path(folder))
        alone = bare(good)
        ratios, bares, dearer, ours = [], [], [], []
        for _ in range(ROUNDS):
            reference = openssl_verifies()
            accepted, refused, crypto = rate(checking.accept, good), rate(checking.refuse, bad), rate(alone, good)
            ours.append(accepted)
            ratios.append(accepted / reference)
            bares.append(crypto / reference)
            dearer.append(accepted / refused)
        growth = memory_growth(checking, good)
    ratio, cost = statistics.median(ratios), statistics.median(dearer)
    print(f"verify: {statistics.median(ours):.0f}/s on core {core}, token of {len(good[0])} characters")
    print(
        f"verify / openssl rsa2048:             {ratio:.3f}  ({min(ratios):.3f} to {max(ratios):.3f}; goal {GOAL}, gate {GATE})"
    )
    print(f"cryptography's verify alone / openssl: {statistics.median(bares):.3f}")
    print(f"CPU of a bad signature / a good token: {cost:.3f}  (gate 1)")
    print(f"memory after 10 000 mixed tokens:      {growth:+d} bytes  (gate {FLAT_BYTES})")
    missed = [
        name
        for name, holds in (("speed", ratio >= GATE), ("bad signature", cost <= 1.0), ("memory", growth <= FLAT_BYTES))
        if not holds
    ]
    print(f"gate missed: {', '.join(missed)}" if missed else f"gates held; goal {'reached' if ratio >= GOAL else 'not reached'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
