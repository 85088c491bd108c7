"""A desk in memory, from DESIGN section 5: sessions and leases as the doors may expect them, without policy, log or upstream.

It refuses what the real one refuses: unknown tokens, a second exchange, handles that it never gave out, another uid, other
grants.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from broker.errors import Code, Refused
from broker.exchanging import Exchanged, ExchangeRequest, Peer
from broker.identity.claims import ClaimSet, JobIdentity
from broker.lease import Lease, UpstreamIds
from broker.leases.requests import LeaseLine, Offer, ReadRequest, SessionView
from broker.secret import Secret
from broker.session import Session, SessionState, handle_hash, new_handle, new_id

NOW = datetime(2026, 11, 23, 1, 0, 0, 250_000, tzinfo=UTC)
HOUR = timedelta(hours=1)

VALUES = {
    "lake": {
        "access_key_id": "ASIAEXAMPLE",
        "secret_access_key": "wJalr+/=",
        "session_token": "FwoG",
        "account_id": "111122223333",
        "region": "eu-central-1",
    },
    "warehouse": {"username": "v-etl", "password": 'p"ä\\'},
}

OFFERS = {
    "lake": Offer(grant="lake", kind="aws", subpath=False, region="eu-central-1"),
    "warehouse": Offer(grant="warehouse", kind="vault", subpath=False, region=None),
}


def an_identity(project: str = "4711") -> JobIdentity:
    return JobIdentity(
        issuer_name="gitlab",
        profile="gitlab",
        issuer="https://gitlab.example.com",
        stable_id=project,
        jti=new_id(),
        kid="k",
        issued_at=NOW,
        expires_at=NOW + HOUR,
        project_id=project,
        project_path="data/etl",
        job_id="99",
        pipeline_id="9",
        ref_path="refs/heads/main",
        ref_protected=True,
        user_id="7",
        claims=ClaimSet({}),
    )


class MemoryDesk:
    """`trouble` is raised by the next call instead of answering it; `gate`, when cleared, holds reads back."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.forget()

    def forget(self) -> None:
        """As if new."""
        self.gate.set()
        self.tokens = {"good-token"}
        self.trouble: Exception | None = None
        self.waiting = 0
        self.exchanges: list[ExchangeRequest] = []
        self.reads: list[ReadRequest] = []
        self.heartbeats = 0
        self._sessions: dict[bytes, Session] = {}
        self._leases: dict[tuple[str, str, str], Lease] = {}

    async def exchange(self, request: ExchangeRequest) -> Exchanged:
        self._stumble()
        self.exchanges.append(request)
        if request.unverified_token not in self.tokens:
            raise Refused(Code.TOKEN_SIGNATURE, "the token's signature is not its issuer's")
        self.tokens.remove(request.unverified_token)
        wants = tuple(VALUES) if request.wants is None else request.wants
        for name in wants:
            if name not in VALUES:
                raise Refused(Code.GRANT_UNKNOWN, f"there is no grant {name!r}")
        handle = new_handle()
        session = Session(
            session_id=new_id(),
            handle_hash=handle_hash(handle.reveal()),
            identity=an_identity(),
            environment="production",
            grants=wants,
            policy_hash="sha256:0",
            opened_at=NOW,
            expires_at=NOW + HOUR,
            heartbeat=request.heartbeat,
            peer_uid=request.peer.uid,
            resume_hash=None,
            receipt=new_id(),
        )
        self._sessions[session.handle_hash] = session
        return Exchanged(session=session, handle=handle, left=7, replaced=None)

    async def read(self, request: ReadRequest) -> Lease:
        self._stumble()
        self.reads.append(request)
        session = self._session(request.unverified_handle, request.peer)
        if request.grant not in session.grants:
            raise Refused(Code.GRANT_UNKNOWN, f"there is no grant {request.grant!r}")
        if request.kind == "aws" and request.grant != "lake":
            raise Refused(Code.GRANT_UNKNOWN, f"grant {request.grant!r} is not an AWS grant")
        if request.subpath and request.grant == "lake":
            raise Refused(Code.SUBPATH_DENIED, "this grant admits no subpath")
        if request.min_ttl is not None and request.min_ttl > HOUR:
            raise Refused(Code.TTL_UNAVAILABLE, "no lease lives that long")
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        key = (session.session_id, request.grant, request.subpath)
        return self._leases.setdefault(key, self._mint(session, request))

    async def view(self, unverified_handle: str, peer: Peer) -> SessionView:
        self._stumble()
        session = self._session(unverified_handle, peer)
        lines = [
            LeaseLine(
                grant=lease.grant,
                subpath=lease.subpath,
                version=lease.version,
                refresh_at=lease.refresh_at,
                expires_at=lease.expires_at,
            )
            for (session_id, _, _), lease in self._leases.items()
            if session_id == session.session_id
        ]
        return SessionView(session=session, offers=tuple(OFFERS[name] for name in session.grants), leases=tuple(lines))

    async def heartbeat(self, unverified_handle: str, peer: Peer) -> None:
        self._stumble()
        self._session(unverified_handle, peer)
        self.heartbeats += 1

    async def close(self, unverified_handle: str, peer: Peer, correlation_id: str) -> None:
        self._stumble()
        session = self._session(unverified_handle, peer)
        self._sessions[session.handle_hash] = replace(session, state=SessionState.CLOSED)

    def _session(self, unverified_handle: str, peer: Peer) -> Session:
        session = self._sessions.get(handle_hash(unverified_handle))
        if session is None:
            raise Refused(Code.HANDLE_INVALID, "no session has this handle")
        if session.peer_uid != peer.uid:
            raise Refused(Code.HANDLE_PEER, "this handle belongs to another user of the host")
        if session.state is not SessionState.LIVE:
            raise Refused(Code.SESSION_REVOKED, "the session was ended")
        return session

    def _mint(self, session: Session, request: ReadRequest) -> Lease:
        return Lease(
            lease_id=new_id(),
            session_id=session.session_id,
            environment=session.environment,
            grant=request.grant,
            subpath=request.subpath,
            kind="aws" if request.grant == "lake" else "vault",
            version=1,
            fields={name: Secret(value) for name, value in VALUES[request.grant].items()},
            ids=UpstreamIds(),
            revocable="none",
            receipt=new_id(),
            issued_at=NOW,
            refresh_at=NOW + HOUR / 2,
            expires_at=NOW + HOUR,
            upstream_expires_at=NOW + HOUR,
            renewable=False,
            mono_issued=0,
            mono_refresh=1800,
            mono_expires=3600,
        )

    def _stumble(self) -> None:
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble
