"""MiniStack, the emulator behind the demo and the tests: real S3, STS and IAM enforcement on loopback, in its own environment.

Not trusted with web identities: its AssumeRoleWithWebIdentity accepts forged tokens. So no role in it trusts anybody but the
minter, whose key only the strict STS has; the roles' own trust policies are the strict STS's business.

It enforces what credentials may do, not who reaches its port: the key `test`, any account id as a key (both without a look at
the signature), and `/_ministack/…` are ways in as root that it cannot be told to close. So it shows that a job's *own* credential
does not reach further; it is no boundary against somebody who knows MiniStack.
"""

import base64
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import urllib3

from broker.demo.iam import Role
from broker.demo.ministack_process import MiniStackMissing, MiniStackProcess, MiniStackUnfit
from broker.demo.sts import MintOrder, RoleSession
from broker.demo.sts_request import StsError

__all__ = ["Keys", "MiniStack", "MiniStackMissing", "MiniStackUnfit"]

_DENIED = 403
_CANARY = "credbroker-canary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


class MiniStack:
    """One running emulator with a folder of its own. A context manager; two at once are fine."""

    def __init__(self, *, account_id: str = "111122223333", region: str = "eu-central-1", venv: Path | None = None) -> None:
        """`venv`: where MiniStack is installed, if not beside this package. Raises MiniStackMissing."""
        self.account_id = account_id
        self.region = region
        self._root = Keys(access_key_id="AKIA" + secrets.token_hex(8).upper(), secret_access_key=secrets.token_urlsafe(30))
        settings = {
            "AUTH": "true",
            "IOT_MTLS_ENABLED": "0",
            "SERVICES": "s3,sts,iam",
            "MINISTACK_ACCOUNT_ID": account_id,
            "MINISTACK_REGION": region,
            "AWS_ACCESS_KEY_ID": self._root.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self._root.secret_access_key,
        }
        self.process = MiniStackProcess(settings, venv)
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(5), retries=False)
        self._clients: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return self.process.url

    def start(self) -> Self:
        """It answers, and has proven that it refuses. Raises MiniStackUnfit; nothing is left behind then."""
        self.process.start()
        try:
            self._make_minter()
            self._canary()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """The process is gone, and its folder. Safe to call twice."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._http.clear()
        self.process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # --- what the demo puts into it ---------------------------------------------------------------------------------

    def client(self, service: str, keys: Keys | None = None) -> Any:
        """A boto3 client; of the account's root unless keys are given. The caller closes one made with keys."""
        if keys is None:
            if service not in self._clients:
                self._clients[service] = self._new_client(service, self._root)
            return self._clients[service]
        return self._new_client(service, keys)

    def create_bucket(self, name: str) -> None:
        self.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": self.region})

    def put_object(self, bucket: str, key: str, body: bytes) -> None:
        self.client("s3").put_object(Bucket=bucket, Key=key, Body=body)

    def put_role(self, role: Role) -> str:
        """The ARN. Its permissions are enforced here; of its trust policy nothing is: in here only the minter may assume it."""
        iam = self.client("iam")
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": f"arn:aws:iam::{self.account_id}:user/strict-sts"},
                    "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
                }
            ],
        }
        made = iam.create_role(
            RoleName=role.name, AssumeRolePolicyDocument=json.dumps(trust), MaxSessionDuration=role.max_seconds
        )
        if role.permissions is not None:
            iam.put_role_policy(RoleName=role.name, PolicyName="permissions", PolicyDocument=json.dumps(role.permissions))
        return str(made["Role"]["Arn"])

    def mint(self, order: MintOrder) -> RoleSession:
        """Implements `sts.Mint`: the session, with the same limits, from the emulator's AssumeRole. Raises StsError."""
        from botocore.exceptions import BotoCoreError, ClientError

        request: dict[str, Any] = {
            "RoleArn": order.role_arn,
            "RoleSessionName": order.session_name,
            "DurationSeconds": order.seconds,
            "Tags": [{"Key": key, "Value": value} for key, value in order.tags.items()],
            "TransitiveTagKeys": list(order.transitive),
            "PolicyArns": [{"arn": arn} for arn in order.policy_arns],
        }
        request |= {"Policy": order.policy} if order.policy is not None else {}
        request |= {"SourceIdentity": order.source_identity} if order.source_identity is not None else {}
        try:
            answer = self._clients["minter"].assume_role(**request)
        except ClientError as error:
            said = error.response["Error"]
            raise StsError(said["Code"], said["Message"], error.response["ResponseMetadata"]["HTTPStatusCode"]) from None
        except BotoCoreError:
            raise StsError("InternalFailure", "the emulator does not answer", 500) from None
        credentials = answer["Credentials"]
        return RoleSession(
            access_key_id=credentials["AccessKeyId"],
            secret_access_key=credentials["SecretAccessKey"],
            session_token=credentials["SessionToken"],
            role_id=answer["AssumedRoleUser"]["AssumedRoleId"].split(":", 1)[0],
            expires_at=credentials["Expiration"],
        )

    # --- starting ---------------------------------------------------------------------------------------------------

    def _make_minter(self) -> None:
        iam = self.client("iam")
        iam.create_user(UserName="strict-sts")
        allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="strict-sts", PolicyName="mint", PolicyDocument=json.dumps(allowed))
        made = iam.create_access_key(UserName="strict-sts")["AccessKey"]
        minter = Keys(access_key_id=made["AccessKeyId"], secret_access_key=made["SecretAccessKey"])
        self._clients["minter"] = self._new_client("sts", minter)

    def _canary(self) -> None:
        """A role without rights is refused, and a web identity is not let in: else nothing the demo shows means anything."""
        from botocore.exceptions import ClientError

        arn = self.put_role(Role(name=_CANARY, trust={}))
        bucket = _CANARY
        self.create_bucket(bucket)
        self.put_object(bucket, "seed", b"")
        session = self.mint(
            MintOrder(
                role_arn=arn,
                session_name=_CANARY,
                seconds=900,
                policy=None,
                policy_arns=(),
                tags={},
                transitive=(),
                source_identity=None,
            )
        )
        powerless = self.client(
            "s3",
            Keys(
                access_key_id=session.access_key_id,
                secret_access_key=session.secret_access_key,
                session_token=session.session_token,
            ),
        )
        try:
            powerless.get_object(Bucket=bucket, Key="seed")["Body"].close()
        except ClientError as error:
            if error.response["Error"]["Code"] != "AccessDenied":
                raise MiniStackUnfit(f"the canary was answered {error.response['Error']['Code']}, not AccessDenied") from None
        else:
            raise MiniStackUnfit("a role without rights could read: is this the pinned MiniStack, with AUTH=true?")
        finally:
            powerless.close()
        # With a token that nobody signed, straight past the strict STS.
        forged = ".".join(
            base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"none"}', b'{"sub":"x"}', b"")
        )
        fields = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": arn,
            "RoleSessionName": _CANARY,
            "WebIdentityToken": forged,
        }
        if self._http.request("POST", self.url, fields=fields, encode_multipart=False).status != _DENIED:
            raise MiniStackUnfit("a role that trusts only the minter was given to a forged web identity")
        s3, iam = self.client("s3"), self.client("iam")
        s3.delete_object(Bucket=bucket, Key="seed")
        s3.delete_bucket(Bucket=bucket)
        iam.delete_role(RoleName=_CANARY)

    def _new_client(self, service: str, keys: Keys) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.Session().client(
            service,
            region_name=self.region,
            endpoint_url=self.url,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            aws_session_token=keys.session_token,
            config=Config(
                s3={"addressing_style": "path"}, proxies={}, retries={"total_max_attempts": 2}, connect_timeout=3, read_timeout=10
            ),
        )
