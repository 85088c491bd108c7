"""hvac as it is used here: one call, one token, one answer. Runs in the pool's threads."""

import http.cookiejar
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from broker.errors import Code, Misconfigured, Unavailable
from broker.secret import Secret
from broker.upstreams.vault_answers import Answer, read_answer

Method = Literal["GET", "POST", "PUT"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSettings:
    """One `[[upstream]]` of kind vault. `audience` is what the server's roles bind; the caller has filled its default."""

    name: str
    url: str
    audience: str
    mount: str = "jwt"
    namespace: str | None = None
    ca_file: Path | None = None
    maintenance_role: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited, in seconds: for a connection, for an answer, and in total with the wait for a thread.

    An issuance (look-up, login, read) stays inside its intent's 60 s. Two totals are longer than what they are the totals of, so
    that a call nearly always ends by its own time-out, and nothing runs on that nobody waits for.
    """

    connect: float = 3.0
    answer: float = 10.0
    revoke_answer: float = 20.0  # a synchronous revocation waits for the database behind the lease
    login: float = 15.0
    read: float = 20.0
    renew: float = 30.0
    revoke: float = 60.0


class VaultWire:
    """Calls to one server over one connection pool. Holds no token: every call is given its own, or none.

    A fresh `hvac.Client` per call, because its token is mutable and eight threads on a shared one sent the wrong token in 57
    of 160 pairs. Nothing ambient is read: no VAULT_TOKEN, no ~/.vault-token, no client certificate, proxy or netrc from the
    environment. Redirects are not followed, since hvac would send the token along.
    """

    def __init__(self, settings: VaultSettings, connections: int, patience: Patience) -> None:
        self._settings = settings
        self.patience = patience
        self._connections = connections
        self._lock = threading.Lock()
        self._session: Any = None

    def call(
        self,
        method: Method,
        path: str,
        *,
        token: Secret | None,
        correlation_id: str,
        body: dict[str, object] | None = None,
        seconds: float,
    ) -> Answer:
        """The answer, whatever its status. `path` comes after `/v1/`, not yet quoted.

        Raises Unavailable when there is none, and Misconfigured when TLS does not prove the server. A connection that could
        not be made is tried a second time; a request that was sent is not, since creating a credential is not idempotent.
        """
        import hvac
        import requests
        import urllib3.exceptions

        settings = self._settings
        session = self._connected()
        client = hvac.Client(
            url=settings.url.rstrip("/"),
            token="" if token is None else token.reveal(),
            cert=(),
            verify=session.verify,
            timeout=(self.patience.connect, seconds),
            allow_redirects=False,
            session=session,
            adapter=hvac.adapters.RawAdapter,
            namespace=settings.namespace,
        )
        try:
            response = client.adapter.request(
                method,
                "/v1/" + quote(path, safe="/"),
                headers={"X-Correlation-Id": correlation_id} if correlation_id else {},
                raise_exception=False,
                json=body,
            )
        except requests.exceptions.SSLError:
            raise Misconfigured(
                Code.UPSTREAM_CONFIG,
                f"upstream {settings.name!r} does not prove who it is over TLS; its certificate or `ca_file` has to be corrected",
                detail=f"{method} {path}: TLS with {settings.url} failed",
            ) from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            raise Unavailable(
                Code.UPSTREAM_UNAVAILABLE,
                f"upstream {settings.name!r} does not answer; try again",
                detail=f"{method} {path}: {type(error).__name__} with {settings.url}",
            ) from None
        except OSError:  # requests says so of a CA file that is not there
            raise Misconfigured(
                Code.UPSTREAM_CONFIG,
                f"the broker cannot read the `ca_file` of upstream {settings.name!r}; its configuration has to be corrected",
                detail=f"{method} {path}: ca_file {settings.ca_file}",
            ) from None
        return read_answer(response.status_code, response.headers, response.content)

    def close(self) -> None:
        with self._lock:
            if self._session is not None:
                self._session.close()

    def _connected(self) -> Any:
        """The shared session, made at first use: importing hvac and requests takes longer than a broker's start."""
        with self._lock:
            if self._session is None:
                import requests
                from urllib3.util import Retry

                from broker.upstreams.bounded_http import BoundedAdapter

                session = requests.Session()
                session.trust_env = False
                session.headers["Accept-Encoding"] = "identity"
                session.verify = True if self._settings.ca_file is None else str(self._settings.ca_file)
                # A load balancer's cookie would tie the threads' requests together.
                session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
                # Without `respect_retry_after_header` a 429 or 503 would be swallowed as a failed retry.
                again = Retry(total=1, connect=1, read=0, redirect=0, status=0, other=0, respect_retry_after_header=False)
                carrier = BoundedAdapter(pool_connections=1, pool_maxsize=self._connections, max_retries=again)
                session.mount("https://", carrier)
                session.mount("http://", carrier)
                self._session = session
            return self._session
