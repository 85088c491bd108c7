"""Where a broker is: a Unix socket, loopback HTTP, or HTTPS. Parsed once; what cannot be safe is refused here."""

import ipaddress
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from broker.errors import Code, Misconfigured

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    url: str  # normalised: two addresses are the same place when this is equal
    scheme: Literal["unix", "http", "https"]
    host: str = ""
    port: int = 0
    socket: Path = Path()


def parse_address(url: str) -> Address:
    """An address whose transport cannot be read by others. Raises Misconfigured(config_invalid).

    Plain HTTP is for the loopback alone (RFC 8252 section 7.3 draws the same line).
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        raise _wrong(url, "it is not a URL") from None
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment:
            raise _wrong(url, "a socket is written unix:///absolute/path/broker.sock")
        return Address(url=f"unix://{parts.path}", scheme="unix", socket=Path(parts.path))
    if parts.scheme not in ("http", "https"):
        raise _wrong(url, "it must start with https://, http:// (loopback only) or unix://")
    if parts.username is not None or parts.query or parts.fragment or parts.path not in ("", "/") or not parts.hostname:
        raise _wrong("the given URL", "it must be an origin alone: scheme, host and port, without user, path or query")
    host = parts.hostname
    if parts.scheme == "http" and not _is_loopback(host):
        raise _wrong(url, "plain http:// is for the loopback alone; use https://")
    literal = f"[{host}]" if ":" in host else host
    port = port or _PORTS[parts.scheme]
    return Address(
        url=f"{parts.scheme}://{literal}" + ("" if port == _PORTS[parts.scheme] else f":{port}"),
        scheme="https" if parts.scheme == "https" else "http",
        host=host,
        port=port,
    )


def origin_of(text: str) -> str | None:
    """The origin of an http(s) URL in the form of `Address.url`; None for an audience that is no such URL."""
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wrong(url: str, why: str) -> Misconfigured:
    return Misconfigured(Code.CONFIG_INVALID, f"the broker's address {url!r} cannot be used: {why}")
