"""Where a broker may be."""

import pytest

from broker.errors import Code, Misconfigured
from broker.job.address import origin_of, parse_address


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("unix:///run/credbroker/broker.sock", "unix:///run/credbroker/broker.sock"),
        ("https://Broker.Example.com", "https://broker.example.com"),
        ("https://broker.example.com:443/", "https://broker.example.com"),
        ("https://broker.example.com:8443", "https://broker.example.com:8443"),
        ("http://127.0.0.1:8400", "http://127.0.0.1:8400"),
        ("http://localhost:80/", "http://localhost"),
        ("http://[::1]:8400", "http://[::1]:8400"),
    ],
)
def test_a_usable_address_has_one_spelling(url: str, normal: str) -> None:
    assert parse_address(url).url == normal


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://broker.example.com", "plain http:// is for the loopback alone"),
        ("http://127.0.0.1.example.com", "plain http:// is for the loopback alone"),
        ("http://10.0.0.1:8400", "plain http:// is for the loopback alone"),
        ("ftp://broker.example.com", "must start with"),
        ("broker.example.com", "must start with"),
        ("https://", "an origin alone"),
        ("https://broker.example.com/prefix", "an origin alone"),
        ("https://broker.example.com?x=1", "an origin alone"),
        ("https://broker.example.com:port", "it is not a URL"),
        ("https://[::1", "it is not a URL"),
        ("unix://run/broker.sock", "unix:///absolute"),
        ("unix:///run/broker.sock?x", "unix:///absolute"),
    ],
)
def test_an_unusable_address_says_why(url: str, why: str) -> None:
    with pytest.raises(Misconfigured, match=why) as caught:
        parse_address(url)
    assert caught.value.code is Code.CONFIG_INVALID


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(Misconfigured, match="without user") as caught:
        parse_address("https://me:hunter2@broker.example.com")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("audience", "origin"),
    [
        ("https://broker.example.com", "https://broker.example.com"),
        ("https://BROKER.example.com:443/path", "https://broker.example.com"),
        ("http://[::1]:8400", "http://[::1]:8400"),
        ("credbroker", None),
        ("sts.amazonaws.com", None),
        ("https://broker.example.com@evil.example", None),
        ("https://x:bad", None),
        ("unix:///run/broker.sock", None),
    ],
)
def test_only_a_web_audience_has_an_origin(audience: str, origin: str | None) -> None:
    assert origin_of(audience) == origin
