"""
What can go wrong, drawn once.

    BrokerError            carries a Code, one sentence for the caller, a detail for our log
    ├── Refused            the caller is wrong; asking again will not help. Final at once
    ├── Unavailable        a dependency is wrong; asking again may help. The only thing survived
    ├── Misconfigured      an operator has to change something first
    └── Broken             a bug of ours

`Gathering` finds several of them in one go.

`Code` is the whole table of DESIGN section 5: our word, OAuth's word, the HTTP status and the exit code (sysexits.h).
"""

from collections.abc import Iterable
from enum import Enum
from types import TracebackType


class Code(Enum):
    """One row per thing that can be refused or fail: (OAuth `error`, HTTP status, exit code). The value is our word."""

    REQUEST_INVALID = ("request_invalid", "invalid_request", 400, 65)
    TOKEN_MISSING = ("token_missing", "invalid_request", 400, 65)
    TOKEN_MALFORMED = ("token_malformed", "invalid_request", 400, 65)
    PATH_INVALID = ("path_invalid", "invalid_request", 400, 65)

    TOKEN_SIGNATURE = ("token_signature", "invalid_grant", 400, 77)
    TOKEN_EXPIRED = ("token_expired", "invalid_grant", 400, 77)
    TOKEN_AUDIENCE = ("token_audience", "invalid_grant", 400, 77)
    TOKEN_ISSUER = ("token_issuer", "invalid_grant", 400, 77)
    TOKEN_CLAIMS = ("token_claims", "invalid_grant", 400, 77)
    TOKEN_CLASS = ("token_class", "invalid_grant", 400, 77)
    TOKEN_REPLAYED = ("token_replayed", "invalid_grant", 400, 77)
    SESSION_EXISTS = ("session_exists", "invalid_grant", 400, 77)

    HANDLE_INVALID = ("handle_invalid", "invalid_token", 401, 77)
    HANDLE_PEER = ("handle_peer", "invalid_token", 401, 77)
    SESSION_EXPIRED = ("session_expired", "invalid_token", 401, 77)
    SESSION_REVOKED = ("session_revoked", "invalid_token", 401, 77)
    SESSION_IDLE = ("session_idle", "invalid_token", 401, 77)

    NO_ENVIRONMENT = ("no_environment", "access_denied", 403, 77)
    ENVIRONMENT_MISMATCH = ("environment_mismatch", "access_denied", 403, 77)
    GRANT_DENIED = ("grant_denied", "access_denied", 403, 77)
    SUBPATH_DENIED = ("subpath_denied", "access_denied", 403, 77)
    TEMPLATE_VALUE = ("template_value", "access_denied", 403, 77)
    UPSTREAM_DENIED = ("upstream_denied", "access_denied", 403, 77)
    BLOCKED = ("blocked", "access_denied", 403, 77)

    GRANT_UNKNOWN = ("grant_unknown", "invalid_target", 404, 77)
    TTL_UNAVAILABLE = ("ttl_unavailable", "invalid_request", 409, 77)
    RATE_LIMITED = ("rate_limited", "temporarily_unavailable", 429, 69)
    INTERNAL = ("internal", "server_error", 500, 70)
    UPSTREAM_CONFIG = ("upstream_config", "server_error", 502, 78)

    UPSTREAM_UNAVAILABLE = ("upstream_unavailable", "temporarily_unavailable", 503, 69)
    ISSUER_UNAVAILABLE = ("issuer_unavailable", "temporarily_unavailable", 503, 69)
    STORE_UNAVAILABLE = ("store_unavailable", "temporarily_unavailable", 503, 69)
    LOG_UNAVAILABLE = ("log_unavailable", "temporarily_unavailable", 503, 69)
    CLOCK_UNSAFE = ("clock_unsafe", "temporarily_unavailable", 503, 69)

    # Of the client alone: they never travel, so they have no OAuth word and no status.
    BROKER_UNREACHABLE = ("broker_unreachable", "", 0, 69)
    JOB_TOKEN_MISSING = ("job_token_missing", "", 0, 78)
    CONFIG_INVALID = ("config_invalid", "", 0, 78)

    def __init__(self, word: str, oauth_error: str, http_status: int, exit_code: int) -> None:
        self.word = word
        self.oauth_error = oauth_error
        self.http_status = http_status
        self.exit_code = exit_code

    @classmethod
    def of(cls, word: str) -> "Code":
        """The row whose word this is. Raises KeyError for a word that is not in the table."""
        return _BY_WORD[word]


_BY_WORD = {code.word: code for code in Code}


class BrokerError(Exception):
    """Something the broker refused or failed to do.

    `public` is one sentence for the caller: what was wrong, with what, what to do; never a secret, never what the policy
    expected. `detail` is for our own log. `str()` gives the public sentence, so that an accident shows only that.
    """

    def __init__(self, code: Code, public: str, *, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(public)
        self.code = code
        self.public = public
        self.detail = detail
        self.retry_after = retry_after


class Refused(BrokerError):
    """The caller is wrong. Final: nothing retries it, and a lease that was being renewed is dropped."""


class Unavailable(BrokerError):
    """A dependency is away. What is still valid goes on being served; `retry_after` is in seconds."""


class Misconfigured(BrokerError):
    """An operator has to change something (our configuration, an upstream role) before this can work."""


class ManyFaults(Misconfigured):
    """Several errors that an operator can mend, found in one go (`faults`, two or more)."""

    def __init__(self, faults: Iterable[BrokerError]) -> None:
        self.faults = tuple(faults)
        super().__init__(Code.CONFIG_INVALID, "\n".join(fault.public for fault in self.faults))


class Gathering:
    """Goes on after a fault, to find the others: `with gathering:` around each thing that can fail, and `raise_any` at the end.

    Takes Misconfigured and Unavailable; anything else passes through.
    """

    def __init__(self) -> None:
        self._faults: list[BrokerError] = []

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if isinstance(error, ManyFaults):
            self._faults += error.faults
        elif isinstance(error, Misconfigured | Unavailable):
            self._faults.append(error)
        else:
            return False
        return True

    def raise_any(self) -> None:
        """Nothing when there was no fault; raises a lone one itself, and several as ManyFaults."""
        if len(self._faults) == 1:
            raise self._faults[0]
        if self._faults:
            raise ManyFaults(self._faults)


class Broken(BrokerError):
    """A bug of ours. The caller learns the correlation id and nothing else."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.INTERNAL, "the broker failed; its log has the details under the correlation id", detail=detail)
