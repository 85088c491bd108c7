"""moto's S3 behind a guard that refuses what S3 refuses: a key nobody issued, one that has expired, a token of another key."""

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.fakes.broker_wire import BrokerWire

_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=([A-Z0-9]+)/[0-9]{8}/[a-z0-9-]+/s3/aws4_request, ")
_REFUSAL = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>as S3 says it</Message></Error>"


class GuardedS3:
    """`with GuardedS3(wire) as s3:` serves the bucket `lake` on `s3.url` to credentials of this broker alone.

    It does not check signatures (moto does not know the secret keys); `keys` is every access key that was accepted.
    """

    def __init__(self, wire: BrokerWire) -> None:
        self._wire = wire
        self._issued: dict[str, tuple[str, float]] = {}
        self.keys: list[str] = []
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "GuardedS3":  # noqa: PYI034 - Self is not in Python 3.10
        moto_api_backend.reset()  # moto keeps buckets per process
        s3_backends["123456789012"]["aws"].create_bucket("lake", "eu-central-1")
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        refusal = self._refusal(environ)
        if refusal:
            body = _REFUSAL.format(code=refusal).encode()
            start("403 Forbidden" if refusal != "ExpiredToken" else "400 Bad Request", [("Content-Type", "application/xml")])
            return [body]
        answer: Iterable[bytes] = self._moto(environ, start)
        return answer

    def _refusal(self, environ: dict[str, Any]) -> str:
        for session in self._wire.live:
            for lease in list(session.leases.values()):
                if "access_key_id" in lease.data:
                    self._issued[lease.data["access_key_id"]] = (lease.data["session_token"], lease.expires_at)
        match = _CREDENTIAL.match(environ.get("HTTP_AUTHORIZATION", ""))
        if match is None:
            return "AccessDenied"
        token, expires_at = self._issued.get(match[1], ("", 0.0))
        if not token:
            return "InvalidAccessKeyId"
        if environ.get("HTTP_X_AMZ_SECURITY_TOKEN") != token:
            return "InvalidToken"
        if time.time() >= expires_at:
            return "ExpiredToken"
        self.keys.append(match[1])
        return ""


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
        """Says nothing."""
