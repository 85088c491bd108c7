"""Whether broker.toml and policy fit together: each grant has one upstream it can mean, and that can do what it asks."""

from collections.abc import Sequence

from broker.config import AwsConfig, Config, UpstreamConfig, VaultConfig
from broker.errors import Code, Misconfigured
from broker.policy.model import AwsGrant, AwsTarget, Policy, Target


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
