"""What `doctor` found: one finding per check, and the exit code of the worst."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from broker.errors import BrokerError, Code

_DENIED, _AWAY, _CONFIG = 77, 69, 78
_WORST_FIRST = (_CONFIG, _DENIED, _AWAY)  # a wrong setting comes before what follows from it


class Status(Enum):
    OK = "ok"
    WARN = "warn"  # it works, or may; something here surprises people
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check's answer. `says` and `do` never hold a token, a handle or a value of a credential."""

    check: str
    status: Status
    says: str
    do: str = ""
    code: Code | None = None  # why it failed, as docs/errors.md has it


@dataclass(frozen=True, slots=True)
class Report:
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]  # because of what failed before them

    @property
    def exit_code(self) -> int:
        """0 unless something failed; then 78 (to be set right first), 77 (denied) or 69 (away), the worst there is."""
        exits = {_exit_of(finding.code) for finding in self.findings if finding.status is Status.FAIL}
        return next((code for code in _WORST_FIRST if code in exits), 0)

    def to_document(self) -> dict[str, object]:
        """For `--json`."""
        checks: Sequence[dict[str, str]] = [
            {
                "check": finding.check,
                "status": finding.status.value,
                "code": finding.code.word if finding.code else "",
                "says": finding.says,
                "do": finding.do,
            }
            for finding in self.findings
        ]
        return {"exit_code": self.exit_code, "checks": checks, "not_checked": list(self.not_checked)}


def ok(check: str, says: str) -> Finding:
    return Finding(check=check, status=Status.OK, says=says)


def warn(check: str, says: str, do: str) -> Finding:
    return Finding(check=check, status=Status.WARN, says=says, do=do)


def failed(check: str, error: BrokerError, do: str) -> Finding:
    detail = f" ({error.detail})" if error.detail else ""
    return Finding(check=check, status=Status.FAIL, says=error.public + detail, do=do, code=error.code)


def _exit_of(code: Code | None) -> int:
    """Three answers are enough for a script: what is malformed has to be set right, what is broken may come back."""
    if code is None:
        return _CONFIG
    return {65: _CONFIG, 70: _AWAY}.get(code.exit_code, code.exit_code)
