"""The bound of `bounded_http` for botocore, whose sessions take no connection classes: they are put in afterwards."""

from typing import Any

from botocore.awsrequest import AWSHTTPConnection, AWSHTTPConnectionPool, AWSHTTPSConnection, AWSHTTPSConnectionPool

from broker.upstreams.bounded_http import _Response


class _Http(AWSHTTPConnection):  # type: ignore[misc] # botocore has no types
    response_class = _Response


class _Https(AWSHTTPSConnection):  # type: ignore[misc] # as above
    response_class = _Response


class _HttpPool(AWSHTTPConnectionPool):  # type: ignore[misc] # as above
    ConnectionCls = _Http


class _HttpsPool(AWSHTTPSConnectionPool):  # type: ignore[misc] # as above
    ConnectionCls = _Https


def bound(client: Any) -> Any:
    """The client; its read time-out is one for each whole answer now. Not botocore's public interface, so pinned by a test."""
    session = client._endpoint.http_session  # noqa: SLF001 - botocore gives no other way to it
    session._pool_classes_by_scheme.update(http=_HttpPool, https=_HttpsPool)  # noqa: SLF001 - as above
    return client
