"""`rate` of a grant: how many credentials a project may have issued in a time. Reads from memory are free."""

from collections import deque

from broker.errors import Code, Unavailable
from broker.moment import Moment
from broker.policy.decide import decide
from broker.policy.model import Allow, Policy
from broker.session import Session


class Rates:
    """A sliding window per (issuer, stable id, environment, grant), of this process."""

    def __init__(self) -> None:
        self._issued: dict[tuple[str, str, str, str], deque[float]] = {}

    def admit(self, policy: Policy, session: Session, grant: str, now: Moment) -> None:
        """Count one issuance. Raises Unavailable(rate_limited) with the wait until the next one fits."""
        identity = session.identity
        decision = decide(policy, identity, (grant,))
        rate = decision.definitions[0].rate if isinstance(decision, Allow) else None  # a denial is said by who issues
        if rate is None:
            return
        window = self._issued.setdefault((identity.issuer_name, identity.stable_id, session.environment, grant), deque())
        horizon = now.mono - rate.per.total_seconds()
        while window and window[0] <= horizon:
            window.popleft()
        if len(window) >= rate.count:
            raise Unavailable(
                Code.RATE_LIMITED,
                f"grant {grant!r} was issued as often to this project as its rate allows; ask again later",
                retry_after=max(1.0, window[0] - horizon),
            )
        window.append(now.mono)
