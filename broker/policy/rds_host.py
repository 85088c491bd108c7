"""What the name of a database's endpoint says."""

import re

_ENDPOINT = re.compile(r"(?:[^.]+\.)+([a-z]{2}(?:-[a-z]+)+-[0-9]{1,2})\.rds\.amazonaws\.com(?:\.cn)?")


def region_in(host: str) -> str | None:
    """The region of an endpoint of RDS; None for a name that is none."""
    found = _ENDPOINT.fullmatch(host)
    return found[1] if found else None
