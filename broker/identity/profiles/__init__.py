"""The kinds of issuer there are: one module each. `PROFILES` is what policy and the verifier look them up in."""

from collections.abc import Mapping
from types import MappingProxyType

from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.identity.profiles.generic import GENERIC
from broker.identity.profiles.github import GITHUB
from broker.identity.profiles.gitlab import GITLAB
from broker.identity.profiles.kubernetes import KUBERNETES
from broker.identity.profiles.okta import OKTA

__all__ = ["PROFILES", "Assurance", "Claim", "ClaimKind", "Profile"]

_ALL = (GITLAB, GITHUB, OKTA, KUBERNETES, GENERIC)

PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _ALL})
