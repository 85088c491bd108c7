"""What broker.toml means to the parts: their settings; and whether each grant of the policy has an upstream that can serve it."""

from collections.abc import Mapping, Sequence

from broker.assertions import AssertionIssuer
from broker.config import AwsConfig, Config, UpstreamConfig, VaultConfig
from broker.errors import Code, Misconfigured
from broker.moment import Clock
from broker.policy.model import Policy
from broker.policy.target import AwsGrant, AwsTarget, Target
from broker.upstream import Upstream
from broker.upstreams.aws import AwsSettings, AwsUpstream
from broker.upstreams.pool import UpstreamPool
from broker.upstreams.vault import VaultUpstream
from broker.upstreams.vault_wire import VaultSettings
from broker.web.sockets import AdminAt, HttpsAt, Listener, LoopbackAt, UnixAt


def upstream_name(config: Config, target: Target) -> str:
    """The upstream that a grant names, or the only one of its kind: `check` has seen to it that there is one."""
    if target.upstream is not None:
        return target.upstream
    kind = AwsConfig if isinstance(target, AwsTarget) else VaultConfig
    return next(upstream.name for upstream in config.upstreams if isinstance(upstream, kind))


def region_of(upstreams: Sequence[UpstreamConfig], grant: AwsGrant) -> str:
    """Where what an AWS grant gives is used: its own region, or that of the upstream that it means."""
    if grant.region is not None:
        return grant.region
    return next(
        upstream.region for upstream in upstreams if isinstance(upstream, AwsConfig) and grant.upstream in (None, upstream.name)
    )


def require_upstreams(config: Config, policy: Policy) -> None:
    """Raises Misconfigured unless every grant has exactly one upstream that it can mean, and that can do what it asks."""
    problems = []
    for grant in policy.grants:
        kind, word = (AwsConfig, "aws") if isinstance(grant.target, AwsGrant) else (VaultConfig, "vault")
        names = [upstream.name for upstream in config.upstreams if isinstance(upstream, kind)]
        wanted = grant.target.upstream
        if wanted is not None and wanted not in names:
            problems.append(f"grant {grant.name!r} names upstream {wanted!r}, which is no [[upstream]] of kind {word}")
        elif wanted is None and len(names) != 1:
            problems.append(
                f"grant {grant.name!r} can mean {' or '.join(names)}; say which in the policy, with upstream = …"
                if names
                else f"grant {grant.name!r} needs an [[upstream]] of kind {word}, and broker.toml has none"
            )
        elif isinstance(grant.target, AwsGrant) and grant.target.external_id is not None:
            via = next(u.via for u in config.upstreams if u.name == (wanted or names[0]))
            if via == "issuer":
                problems.append(
                    f'grant {grant.name!r} has an external_id, which AWS ignores unless its upstream is via = "assume-role"'
                )
    if problems:
        raise Misconfigured(Code.CONFIG_INVALID, "; ".join(problems))


def made_upstreams(config: Config, assertions: AssertionIssuer, pool: UpstreamPool, clock: Clock) -> Mapping[str, Upstream]:
    made: dict[str, Upstream] = {}
    for upstream in config.upstreams:
        match upstream:
            case VaultConfig():
                vault = VaultSettings(
                    name=upstream.name,
                    url=upstream.url,
                    mount=upstream.mount,
                    namespace=upstream.namespace,
                    ca_file=upstream.ca_file,
                    audience=upstream.audience,
                    maintenance_role=upstream.maintenance_role,
                )
                made[upstream.name] = VaultUpstream(vault, assertions, pool, clock)
            case AwsConfig():
                aws = AwsSettings(
                    name=upstream.name,
                    region=upstream.region,
                    sts_url=upstream.sts_url,
                    via=upstream.via,
                    audience=upstream.audience,
                )
                made[upstream.name] = AwsUpstream(aws, assertions, pool, clock)
    return made


def listeners(config: Config) -> list[Listener]:
    listen = config.listen
    found: list[Listener] = []
    if listen.unix is not None:
        found.append(UnixAt(path=listen.unix))
    if listen.http is not None:
        found.append(LoopbackAt(host=listen.http.host, port=listen.http.port))
    if listen.https is not None:
        https = listen.https
        found.append(
            HttpsAt(host=https.address.host, port=https.address.port, cert=https.cert, key=https.key, client_ca=https.client_ca)
        )
    if listen.admin is not None:
        found.append(AdminAt(path=listen.admin, uids=frozenset(listen.admin_uids)))
    return found
