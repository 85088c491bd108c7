"""What an entry looks like to a SIEM: OCSF 1.8.0 classes 3002, 3003 and 3004. Pure tables and shapes.

Source: github.com/ocsf/ocsf-schema at 1.8.0, events/iam/*.json and profiles/security_control.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from broker.audit.canonical import Json
from broker.identity.claims import JobIdentity
from broker.moment import epoch_ms

OCSF_VERSION = "1.8.0"
PRODUCT = "credbroker"

AUTHENTICATION = 3002
AUTHORIZE_SESSION = 3003
ENTITY_MANAGEMENT = 3004

_INFORMATIONAL, _LOW, _MEDIUM, _HIGH = 1, 2, 3, 4
_SUCCESS, _FAILURE, _OTHER = 1, 2, 99
_ALLOWED, _BLOCKED, _ACCESS_REVOKED, _ERROR = 1, 2, 24, 27
_LOGON, _LOGOFF = 1, 2
_ASSIGN_PRIVILEGES = 1
_UPDATE, _DELETE, _ACTIVATE, _DEACTIVATE = 3, 4, 10, 11
_IDENTITY_TOKEN = 3  # authentication_token.type_id
_OPENID = 4  # auth_protocol_id
_SERVICE_USER = 4  # user.type_id
_POLICY_ENTITY, _OTHER_ENTITY = 5, 99  # managed_entity.type_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How one kind of entry is an OCSF event. `action_id` and `disposition_id` are of the security_control profile."""

    class_uid: int
    activity_id: int
    severity_id: int = _INFORMATIONAL
    status_id: int = _SUCCESS
    status: str = "Success"
    disposition_id: int | None = None
    entity: str = ""  # what kind of thing a 3004 event manages


SHAPES = {
    "session_opened": Shape(class_uid=AUTHENTICATION, activity_id=_LOGON, disposition_id=_ALLOWED),
    "session_closed": Shape(class_uid=AUTHENTICATION, activity_id=_LOGOFF),
    # A promise is neither a success nor a failure yet, so that counting successes of 3003 counts credentials.
    "intent": Shape(
        class_uid=AUTHORIZE_SESSION,
        activity_id=_ASSIGN_PRIVILEGES,
        status_id=_OTHER,
        status="Promised",
        disposition_id=_ALLOWED,
    ),
    "issued": Shape(class_uid=AUTHORIZE_SESSION, activity_id=_ASSIGN_PRIVILEGES, disposition_id=_ALLOWED),
    "intent_failed": Shape(
        class_uid=AUTHORIZE_SESSION,
        activity_id=_ASSIGN_PRIVILEGES,
        severity_id=_LOW,
        disposition_id=_ERROR,
        status_id=_FAILURE,
        status="Failure",
    ),
    "denied": Shape(
        class_uid=AUTHORIZE_SESSION,
        activity_id=_ASSIGN_PRIVILEGES,
        severity_id=_LOW,
        disposition_id=_BLOCKED,
        status_id=_FAILURE,
        status="Failure",
    ),
    "renewed": Shape(class_uid=ENTITY_MANAGEMENT, activity_id=_UPDATE, entity="Credential"),
    "revoked": Shape(class_uid=ENTITY_MANAGEMENT, activity_id=_DELETE, disposition_id=_ACCESS_REVOKED, entity="Credential"),
    "revoke_failed": Shape(
        class_uid=ENTITY_MANAGEMENT,
        activity_id=_DELETE,
        severity_id=_HIGH,
        disposition_id=_ERROR,
        status_id=_FAILURE,
        status="Failure",
        entity="Credential",
    ),
    "intent_swept": Shape(
        class_uid=ENTITY_MANAGEMENT,
        activity_id=_DELETE,
        severity_id=_MEDIUM,
        disposition_id=_ACCESS_REVOKED,
        entity="Intent",
    ),
    "policy_loaded": Shape(class_uid=ENTITY_MANAGEMENT, activity_id=_ACTIVATE, entity="Policy"),
    "policy_refused": Shape(
        class_uid=ENTITY_MANAGEMENT,
        activity_id=_ACTIVATE,
        severity_id=_MEDIUM,
        disposition_id=_BLOCKED,
        status_id=_FAILURE,
        status="Failure",
        entity="Policy",
    ),
    "block_set": Shape(
        class_uid=ENTITY_MANAGEMENT, activity_id=_ACTIVATE, severity_id=_HIGH, disposition_id=_BLOCKED, entity="Block"
    ),
    "block_lifted": Shape(class_uid=ENTITY_MANAGEMENT, activity_id=_DEACTIVATE, severity_id=_MEDIUM, entity="Block"),
    "key_changed": Shape(class_uid=ENTITY_MANAGEMENT, activity_id=_UPDATE, severity_id=_HIGH, entity="Key"),
    "broker_started": Shape(class_uid=ENTITY_MANAGEMENT, activity_id=_ACTIVATE, entity="Broker"),
    "rollup": Shape(class_uid=AUTHENTICATION, activity_id=_LOGON, severity_id=_LOW, status_id=_FAILURE, status="Failure"),
}


def shape_of(kind: str, *, code: str, grant: str) -> Shape:
    """The shape of an entry. A denial before there is a grant is a failed logon; a second holder of a token is an alarm."""
    shape = SHAPES[kind]
    if kind == "denied" and not grant:
        shape = replace(shape, class_uid=AUTHENTICATION, activity_id=_LOGON)
    if code == "session_exists":
        shape = replace(shape, severity_id=_HIGH)
    return shape


def header(shape: Shape, *, time_ms: int, uid: str, correlation_id: str, version: str) -> dict[str, Json]:
    """What every event has."""
    metadata: dict[str, Json] = {
        "product": {"name": PRODUCT, "vendor_name": PRODUCT, "version": version},
        "profiles": ["security_control"],
        "uid": uid,
        "version": OCSF_VERSION,
    }
    if correlation_id:
        metadata["correlation_uid"] = correlation_id
    event: dict[str, Json] = {
        "activity_id": shape.activity_id,
        "category_uid": 3,
        "class_uid": shape.class_uid,
        "metadata": metadata,
        "severity_id": shape.severity_id,
        "status": shape.status,
        "status_id": shape.status_id,
        "time": time_ms,
        "type_uid": shape.class_uid * 100 + shape.activity_id,
    }
    if shape.disposition_id is not None:
        event["disposition_id"] = shape.disposition_id
        event["action_id"] = {_ALLOWED: 1, _BLOCKED: 2}.get(shape.disposition_id, 99)
        if event["action_id"] == _OTHER:
            event["action"] = {_ACCESS_REVOKED: "Access Revoked", _ERROR: "Error"}[shape.disposition_id]
    return event


def subject(identity: JobIdentity | None) -> dict[str, Json]:
    """Who: the job, as a service user; and as the actor the person behind it, by number alone (DESIGN 3.16)."""
    if identity is None:
        return {"user": {"name": "unverified", "type_id": 0}}
    event: dict[str, Json] = {
        "user": {
            "name": f"{identity.project_path} job {identity.job_id}",
            "type_id": _SERVICE_USER,
            "uid": f"{identity.issuer_name}:{identity.stable_id}:{identity.job_id}",
        }
    }
    if identity.user_id:
        event["actor"] = {"user": {"uid": f"{identity.issuer_name}:{identity.user_id}"}}
    return event


def refused_subject(issuer_name: str, stable_id: str) -> dict[str, Json]:
    """Whose token it was that was signed and refused. Its issuer says so; that a job sent it, nobody does."""
    uid = f"{issuer_name}:{stable_id}"
    return {"user": {"name": f"refused token of {uid}", "type_id": 0, "uid": uid}}


def authentication(identity: JobIdentity | None) -> dict[str, Json]:
    """What only 3002 has: by what the job proved itself, and to whom."""
    event: dict[str, Json] = {"auth_protocol_id": _OPENID, "service": {"name": PRODUCT}}
    if identity is not None:
        event["authentication_token"] = {
            "created_time": epoch_ms(identity.issued_at),
            "expiration_time": epoch_ms(identity.expires_at),
            "type_id": _IDENTITY_TOKEN,
        }
    return event


def privileges(environment: str, grants: Sequence[str]) -> list[Json]:
    """Grants as 3003 names them. A denial before there is an environment still has to name something."""
    return [f"{environment or '?'}/{grant}" for grant in grants]


def session(session_id: str, issuer: str, expires_at: datetime | None) -> dict[str, Json]:
    described: dict[str, Json] = {"issuer": issuer, "uid": session_id}
    if expires_at is not None:
        described["expiration_time"] = epoch_ms(expires_at)
    return described


def entity(shape: Shape, *, uid: str, name: str) -> dict[str, Json]:
    """What a 3004 event is about."""
    described: dict[str, Json] = {"name": name, "type": shape.entity, "type_id": _OTHER_ENTITY, "uid": uid}
    if shape.entity == "Policy":
        described |= {"type_id": _POLICY_ENTITY, "policy": {"name": name, "uid": uid}}
    return described
