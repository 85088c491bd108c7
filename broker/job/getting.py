"""The story of `credbroker get`: one credential, for a shell or a tool that knows nothing of us."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Literal

from broker.errors import Code, Misconfigured
from broker.job.answers import Credential, format_moment
from broker.job.job_token import JobToken, find_job_token
from broker.job.joining import join_or_open
from broker.job.references import Wanted
from broker.job.retry import Patience
from broker.job.session_file import SessionPlace, find_session_file
from broker.job.settings import JobSettings

Format = Literal["json", "env", "aws"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetOrder:
    """What the command line asked for."""

    wanted: Wanted
    settings: JobSettings
    environ: Mapping[str, str] = field(repr=False)
    field: str | None = None
    format: Format = "json"
    min_ttl: timedelta | None = None
    environment: str | None = None
    wait: float = 120.0


def get(order: GetOrder, told: Callable[[str], None]) -> str:
    """The text for stdout. A session that had to be opened stays for the rest of the job: what was printed must live.

    Raises Refused, Unavailable or Misconfigured.
    """

    @cache
    def token() -> JobToken:
        return find_job_token(order.settings, order.environ)

    patience = Patience(wait=order.wait, told=told)
    place = SessionPlace(find_session_file(order.settings, lambda: token().job_id))
    joined = join_or_open(place, order.settings, token, who="get", environment=order.environment, patience=patience)
    handle, wanted = joined.session.handle, order.wanted
    try:
        credential = patience.call(lambda: joined.client.credential(handle, wanted.grant, wanted.subpath, min_ttl=order.min_ttl))
    finally:
        joined.client.close()
    return _text(credential, order)


def _text(credential: Credential, order: GetOrder) -> str:
    if order.field is not None:
        if order.field not in credential.fields:
            names = ", ".join(sorted(credential.fields))
            raise Misconfigured(Code.CONFIG_INVALID, f"grant {credential.grant!r} has no field {order.field!r}; it has: {names}")
        return credential.fields[order.field].reveal()
    if order.format == "json":
        return credential.document.reveal()
    if order.format == "env":
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in _variables(credential).items())
    return _credential_process(credential)


def _variables(credential: Credential) -> dict[str, str]:
    """AWS: the names every SDK reads. Others: GRANT_FIELD in capitals, so that two grants do not overwrite each other."""
    if credential.kind == "aws":
        names = {"access_key_id": "AWS_ACCESS_KEY_ID", "secret_access_key": "AWS_SECRET_ACCESS_KEY"}
        names |= {"session_token": "AWS_SESSION_TOKEN", "region": "AWS_REGION"}
        return {variable: credential.fields[name].reveal() for name, variable in names.items() if name in credential.fields}
    return {
        re.sub(r"[^A-Z0-9_]", "_", f"{credential.grant}_{name}".upper()): value.reveal()
        for name, value in credential.fields.items()
    }


def _credential_process(credential: Credential) -> str:
    """What an AWS profile's `credential_process` prints. Without `Expiration` an SDK would keep the keys for ever."""
    if credential.kind != "aws":
        raise Misconfigured(Code.CONFIG_INVALID, f"grant {credential.grant!r} is no AWS grant, so it has no `--format aws`")
    fields = credential.fields
    document: dict[str, object] = {
        "Version": 1,  # a number: SDKs refuse the text "1"
        "AccessKeyId": fields["access_key_id"].reveal(),
        "SecretAccessKey": fields["secret_access_key"].reveal(),
        "SessionToken": fields["session_token"].reveal(),
        "Expiration": format_moment(credential.expires_at),
    }
    if "account_id" in fields:
        document["AccountId"] = fields["account_id"].reveal()
    return json.dumps(document)
