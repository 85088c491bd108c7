"""The kinds of issuer there are: one module each. `PROFILES` is what policy and the verifier look them up in."""

from collections.abc import Mapping
from types import MappingProxyType

from broker.identity.profile import Assurance, Claim, ClaimKind, Profile
from broker.identity.profiles.gitlab import GITLAB

__all__ = ["PROFILES", "Assurance", "Claim", "ClaimKind", "Profile"]

PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in (GITLAB,)})
