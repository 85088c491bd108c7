"""Tokens for databases of RDS (IAM database authentication): a request to connect, signed here. No call is made.

The database asks AWS whether the signature is good and the role may `rds-db:connect` as that user. A connection that is open
outlives the token; a new one needs a token that is alive.
"""

from datetime import UTC, datetime, timedelta

from broker.policy.target import Rds
from broker.secret import Secret
from broker.upstreams.aws_answers import Answer

TOKEN_LIFE = timedelta(minutes=15)  # RDS takes no other
_SCHEME = "https://"  # signed without, as RDS has it


def auth_token(database: Rds, region: str, keys: Answer) -> tuple[Secret, datetime]:
    """The token, which is the password of `database.user`, and its end: fifteen minutes, or that of the keys if it is earlier."""
    from botocore.auth import SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    signing = Credentials(keys.access_key_id, keys.secret_access_key.reveal(), keys.session_token.reveal())
    url = f"{_SCHEME}{database.host}:{database.port}/"
    request = AWSRequest("GET", url, data={"Action": "connect", "DBUser": database.user})
    SigV4QueryAuth(signing, "rds-db", region, expires=int(TOKEN_LIFE.total_seconds())).add_auth(request)
    signed_at = datetime.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return Secret(request.url.removeprefix(_SCHEME)), min(signed_at + TOKEN_LIFE, keys.expires_at)
