"""Which hosts are this machine: where plain http is taken, and where no proxy stands in between."""

import ipaddress


def is_loopback(host: str) -> bool:
    """`localhost` (RFC 6761: never another machine) or a literal address of the loopback network. No name is ever resolved."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
