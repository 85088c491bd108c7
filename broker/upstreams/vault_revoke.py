"""Ending one login: every lease synchronously, then the token, each verified. Blocking: runs in the pool's threads."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.errors import BrokerError, Code, Misconfigured, Refused, Unavailable
from broker.secret import Secret
from broker.upstream import Held
from broker.upstreams.vault_answers import Doing, judge
from broker.upstreams.vault_login import Asking, DeadToken, Login

_QUEUED_LOOKS = 5
_QUEUED_PAUSE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How logins are ended. `maintain` logs in with the broker's own assertion; None without a `maintenance_role`."""

    asking: Asking
    maintain: Callable[[], Login] | None

    def end(self, helds: Sequence[Held]) -> None:
        """The leases of one login are gone, then its token is.

        Leases first: revoking a token only queues its leases, and answers well even while the database is away. A lease
        that cannot be revoked now keeps its token, so that a later attempt can still ask and verify. Raises what stood in
        the way; asking again is safe, since what is unknown upstream is gone.
        """
        token = next((held.token for held in helds if held.token is not None), None)
        lease_ids = list(dict.fromkeys(held.ids.lease_id for held in helds if held.ids.lease_id))
        accessor = next((held.ids.accessor for held in helds if held.ids.accessor), "")
        if token is None:
            self._as_maintenance(lease_ids, accessor)
            return
        try:
            self._leases(token, lease_ids)
        except DeadToken:
            # Its leases are the server's to revoke, and it does; with a maintenance role that is made sure of.
            if self.maintain is not None and lease_ids:
                self._as_maintenance(lease_ids, "")
            return
        except Refused as refusal:
            # `sys/leases/revoke` is not in Vault's default policy, and this role lacks it.
            if self.maintain is None:
                self._token(token)
                raise Misconfigured(
                    Code.UPSTREAM_CONFIG,
                    f"upstream {self.asking.settings.name!r} only queued the revocation: the Vault role needs `update` on "
                    "sys/leases/revoke, or the upstream a `maintenance_role`",
                    detail=refusal.detail,
                ) from None
            self._as_maintenance(lease_ids, "")
        self._token(token)

    def end_lease(self, held: Held) -> None:
        """One lease is gone; its login, which made others too, goes on. A dead login has ended it already."""
        assert held.token is not None
        try:
            self._lease(held.token, held.ids.lease_id)
        except DeadToken:
            return
        except Refused:
            self._as_maintenance([held.ids.lease_id], "")

    def _leases(self, token: Secret, lease_ids: Sequence[str]) -> None:
        """Each is tried even when one fails; the first failure is raised."""
        failures = [self._lease_ended(token, lease_id) for lease_id in lease_ids]
        for failure in failures:
            if failure is not None:
                raise failure

    def _lease_ended(self, token: Secret, lease_id: str) -> BrokerError | None:
        try:
            self._lease(token, lease_id)
        except DeadToken:
            raise
        except BrokerError as error:
            return error
        return None

    def _lease(self, token: Secret, lease_id: str) -> None:
        answer = self.asking.ask(Doing.REVOKE, "PUT", "sys/leases/revoke", token, {"lease_id": lease_id, "sync": True})
        for look in range(_QUEUED_LOOKS):
            seen = self.asking.call("PUT", "sys/leases/lookup", token, {"lease_id": lease_id})
            if seen.lease_is_gone:
                return
            if not seen.fine:
                # The maintenance role may not look up. A synchronous 204 was given after the work; a 202 was not.
                if answer.status == 204:  # noqa: PLR2004 - HTTP
                    return
                break
            if look + 1 < _QUEUED_LOOKS:
                time.sleep(_QUEUED_PAUSE)
        raise self._still_there(f"lease {lease_id}: revoke answered {answer.status}, the lease is not known to be gone")

    def _token(self, token: Secret) -> None:
        failure = self.asking.forget(token)
        if failure is not None:
            raise failure
        try:
            self.asking.token_state(token)
        except DeadToken:
            return
        raise self._still_there("revoke-self answered well and lookup-self still knows the token")

    def _as_maintenance(self, lease_ids: Sequence[str], accessor: str) -> None:
        if self.maintain is None:
            raise Misconfigured(
                Code.UPSTREAM_CONFIG,
                f"upstream {self.asking.settings.name!r} has no `maintenance_role`, so a session whose handle the broker "
                "does not have cannot be revoked there; its credentials live to their own end",
                detail=f"leases {', '.join(lease_ids) or '-'}, accessor {accessor or '-'}",
            )
        login = self.maintain()
        try:
            self._leases(login.token, lease_ids)
            if accessor:
                self._accessor(login.token, accessor)
        except Refused as refusal:
            raise Misconfigured(
                Code.UPSTREAM_CONFIG,
                f"the `maintenance_role` at upstream {self.asking.settings.name!r} may not revoke leases and accessors; its "
                "policy has to allow it",
                detail=refusal.detail,
            ) from None
        finally:
            self.asking.forget(login.token)

    def _accessor(self, token: Secret, accessor: str) -> None:
        # Twice: the second one, which must not know the accessor any more, is the verification.
        for _ in range(2):
            answer = self.asking.call("POST", "auth/token/revoke-accessor", token, {"accessor": accessor})
            if answer.accessor_is_gone:
                return
            settings = self.asking.settings
            error = judge(
                answer, doing=Doing.REVOKE, upstream=settings.name, what=self.asking.what, asked="POST auth/token/revoke-accessor"
            )
            if error is not None:
                raise error
        raise self._still_there(f"revoke-accessor answered well twice and {accessor} is still known")

    def _still_there(self, detail: str) -> Unavailable:
        return Unavailable(
            Code.UPSTREAM_UNAVAILABLE,
            f"upstream {self.asking.settings.name!r} has queued a revocation and not finished it; try again",
            detail=detail,
        )
