"""What the whole suite shares: the head of the report says which real servers this run had."""

import shutil
import signal

from hypothesis import HealthCheck, settings

# A shell's `&` and nohup start us with these ignored; what we start would inherit that, and tests of Ctrl-C wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No timed tests: a shared or slow machine is no failure of ours, and what is fast enough is the benchmarks' business.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("untimed")


def pytest_report_header() -> list[str]:
    """A contract runs on what there is; that it ran on less than it could is to be seen, not to be guessed from a count."""
    server = next((name for name in ("bao", "vault") if shutil.which(name)), None)
    database = shutil.which("initdb") is not None and shutil.which("postgres") is not None
    if server is None:
        return ["vault: contract on the double alone (no `bao` or `vault` on PATH)"]
    leases = (
        "with PostgreSQL behind its database engine" if database else "without database leases (no `initdb`, `postgres` on PATH)"
    )
    return [f"vault: contract on the double and on `{server}`, {leases}"]
