"""AWS STS: one role session per lease.

`via = "issuer"`: the broker signs an assertion and calls AssumeRoleWithWebIdentity unsigned; tags and SourceIdentity are claims
of the assertion, and the broker holds no AWS key. `via = "assume-role"`: AssumeRole, signed with the broker's own AWS identity
(boto3's default chain), tags and SourceIdentity as parameters.

A grant with `rds` gives what the session signs and not the session: a token for one user of one database.

An STS session can be neither renewed nor taken back: it lapses.
"""

import base64
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

from broker.assertions import AssertionIssuer, role_session_name, session_tags, source_identity
from broker.errors import Broken, BrokerError, Code, Misconfigured, Refused
from broker.lease import Kind, UpstreamIds
from broker.loopback import is_loopback
from broker.moment import Clock
from broker.policy.rds_host import region_in
from broker.policy.target import AwsTarget
from broker.secret import Secret
from broker.upstream import Held, Minted, Note, Order, Renewed
from broker.upstreams.aws_answers import Answer, Asked, from_library, read_answer
from broker.upstreams.pool import UpstreamPool
from broker.upstreams.rds import auth_token

CONNECT_SECONDS = 3
READ_SECONDS = 5
DEADLINE_SECONDS = 25.0  # of all attempts together, waiting for a thread included; an intent lives 60
_SHORTEST, _LONGEST = timedelta(minutes=15), timedelta(hours=12)  # what STS gives
_TOKEN_CHARS = 20_000  # of an assertion, for STS


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings:
    """One `[[upstream]]` of kind aws."""

    name: str
    region: str  # of STS and of the job, unless the grant names another
    sts_url: str | None  # None: the regional endpoint
    via: Literal["issuer", "assume-role"]
    audience: str  # of the assertion; a client id of the OIDC provider in IAM


class AwsUpstream:
    """Implements `upstream.Upstream`."""

    def __init__(self, settings: AwsSettings, issuer: AssertionIssuer, pool: UpstreamPool, clock: Clock) -> None:
        self._settings = settings
        self._issuer = issuer
        self._pool = pool
        self._clock = clock
        self._clients: dict[tuple[int, str], Any] = {}
        self._making = threading.Lock()

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def kind(self) -> Kind:
        return "aws"

    def plan(self, order: Order) -> UpstreamIds:
        """Role, session name and source identity. Pure.

        Raises Refused(template_value) for ids of the job that do not fit: botocore checks neither lengths nor characters. What
        an operator wrote is checked where the target is made (`policy.templates`); the packed size of policy and tags only STS
        can compute.
        """
        target = self._target(order)
        session_tags(order.identity, order.environment, order.grant)
        if target.external_id is not None and self._settings.via == "issuer":
            raise Misconfigured(
                Code.UPSTREAM_CONFIG,
                "this grant cannot be issued as the broker's operators configured it; tell them the correlation id",
                detail='external_id needs via = "assume-role": AssumeRoleWithWebIdentity has no ExternalId and would ignore it',
            )
        return UpstreamIds(
            upstream=self.name,
            role=target.role_arn,
            session_name=role_session_name(order.identity, order.session_id),
            source_identity=source_identity(order.identity),
        )

    async def issue(self, order: Order, note: Note) -> Minted:  # noqa: ARG002 - the protocol's
        """One role session. Nothing is noted: the session name is in the intent, and STS gives id and secret in one answer.

        A call that outlives the deadline may still make a session that nobody reads; the log has its intent.
        """
        planned = self.plan(order)
        answer = await self._pool.run(self._assume, order, planned, deadline=DEADLINE_SECONDS)
        fields, expires_at = self._handed_out(self._target(order), answer)
        return Minted(
            fields=fields,
            held=Held(
                ids=replace(planned, access_key_id=answer.access_key_id, request_id=answer.request_id),
                token=None,
            ),
            expires_at=expires_at,
            renewable=False,
            revocable="none",
        )

    async def renew(self, order: Order, held: Held) -> Renewed:  # noqa: ARG002 - the protocol's
        """Always refuses: STS has no such call."""
        raise Refused(Code.UPSTREAM_DENIED, "an AWS session cannot be prolonged; a new one is issued in its place")

    async def take_back(self, order: Order, minted: Minted) -> None:
        """Returns at once, as `revoke` does: nobody has seen the session, and it lapses."""

    async def revoke(self, helds: Sequence[Held]) -> None:
        """Returns at once. STS has no call that ends a session, and `revocable` says so of each: they lapse at `expires_at`."""

    # --- in a thread of the pool ------------------------------------------------------------------------------------

    def _assume(self, order: Order, planned: UpstreamIds) -> Answer:
        target = self._target(order)
        own_keys = self._settings.via == "assume-role"
        request: dict[str, Any] = {
            "RoleArn": target.role_arn,
            "RoleSessionName": planned.session_name,
            "DurationSeconds": session_seconds(order.ttl, target.ttl),
        }
        if target.session_policy is not None:
            request["Policy"] = target.session_policy
        if target.policy_arns:
            request["PolicyArns"] = [{"arn": arn} for arn in target.policy_arns]
        asked = Asked(
            role_arn=target.role_arn,
            session_name=planned.session_name,
            source_identity=planned.source_identity,
            seconds=request["DurationSeconds"],
        )
        send: Callable[..., Any]
        try:
            client = self._client(self._region(target))
            if own_keys:
                tags = session_tags(order.identity, order.environment, order.grant)
                request["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
                request["TransitiveTagKeys"] = list(tags)
                request["SourceIdentity"] = planned.source_identity
                if target.external_id is not None:
                    request["ExternalId"] = target.external_id
                send = client.assume_role
            else:
                # Signed here, not before the wait for a thread: it lives a minute.
                assertion = self._issuer.for_job(
                    order.identity,
                    order.environment,
                    order.grant,
                    self._settings.audience,
                    session_id=order.session_id,
                    aws=True,
                ).reveal()
                require_short(assertion)
                asked = _asked_with(asked, assertion)
                request["WebIdentityToken"] = assertion
                send = client.assume_role_with_web_identity
            answer = send(**request)
        except BrokerError:
            raise
        except Exception as error:  # noqa: BLE001 - the border: whatever the library raises becomes ours, without its text
            raise from_library(error, role_arn=target.role_arn, own_keys=own_keys) from None
        return read_answer(answer, asked, self._clock())

    def _client(self, region: str) -> Any:
        """The process's one client of this region. Threads may share a client, not the making of one; forks share neither."""
        place = (os.getpid(), region)
        client = self._clients.get(place)
        if client is None:
            with self._making:
                client = self._clients.get(place) or self._new_client(region)
                self._clients[place] = client
        return client

    def _new_client(self, region: str) -> Any:
        import boto3
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config

        from broker.upstreams.bounded_aws import bound

        # Everything that the environment could otherwise change is set here: endpoints, retries, time-outs. Without keys of its
        # own the broker reads no profile and no ~/.aws either.
        unsigned: dict[str, Any] = {}
        variables: dict[str, Any] = {}
        if self._settings.via == "issuer":
            unsigned = {"signature_version": UNSIGNED}
            variables = {"profile": (None, None, None, None), "config_file": (None, None, os.devnull, None)}
        core = botocore.session.Session(session_vars=variables)
        core.set_config_variable("sts_regional_endpoints", "regional")
        direct: dict[str, Any] = {"proxies": {}} if is_loopback(urlsplit(self._settings.sts_url or "").hostname or "") else {}
        client = boto3.Session(botocore_session=core).client(
            "sts",
            region_name=region,
            endpoint_url=self._settings.sts_url,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 3},
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                max_pool_connections=self._pool.size,
                ignore_configured_endpoint_urls=True,
                **unsigned,
                **direct,
            ),
        )
        return bound(client)

    # --- small ------------------------------------------------------------------------------------------------------

    def _handed_out(self, target: AwsTarget, answer: Answer) -> tuple[Mapping[str, Secret], datetime]:
        """The keys; or, for a grant of RDS, what they sign, and nobody gets the keys."""
        if target.rds is not None:
            region = target.region or region_in(target.rds.host) or self._settings.region
            token, ends_at = auth_token(target.rds, region, answer)
            place = {"host": Secret(target.rds.host), "port": Secret(str(target.rds.port))}
            return {"username": Secret(target.rds.user), "password": token, **place}, ends_at
        keys = {
            "access_key_id": Secret(answer.access_key_id),
            "secret_access_key": answer.secret_access_key,
            "session_token": answer.session_token,
            "account_id": Secret(answer.account_id),
            "region": Secret(self._region(target)),
        }
        return keys, answer.expires_at

    def _region(self, target: AwsTarget) -> str:
        return target.region or self._settings.region

    @staticmethod
    def _target(order: Order) -> AwsTarget:
        if not isinstance(order.target, AwsTarget):
            raise Broken(f"grant {order.grant} reached an AWS upstream with a target of another kind")
        return order.target


def session_seconds(wanted: timedelta, ttl: timedelta) -> int:
    """`DurationSeconds`: the shorter of what is wanted and what the grant gives, but no less than STS gives (900 s)."""
    return int(min(max(min(wanted, ttl), _SHORTEST), _LONGEST).total_seconds())


def require_short(assertion: str) -> None:
    """Raises Misconfigured: an assertion too long for STS is made of names that an operator chose."""
    if len(assertion) > _TOKEN_CHARS:
        raise Misconfigured(
            Code.UPSTREAM_CONFIG,
            "this grant cannot be issued as the broker's operators configured it; tell them the correlation id",
            detail=f"the broker's assertion has {len(assertion)} characters and STS takes {_TOKEN_CHARS}",
        )


def _asked_with(asked: Asked, assertion: str) -> Asked:
    """With what our own assertion says, read back from what is sent: that is what STS has to have understood."""
    payload = assertion.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return replace(asked, subject=claims["sub"], audience=claims["aud"], issuer=claims["iss"])
