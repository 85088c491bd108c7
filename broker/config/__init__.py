"""`broker.toml`: text in, one frozen value out, or every problem at once. Nothing else reads configuration."""

from broker.config.load import ConfigInvalid, load
from broker.config.model import (
    Address,
    AwsConfig,
    Config,
    Https,
    Keys,
    Limits,
    Listen,
    UpstreamConfig,
    VaultConfig,
)

__all__ = [
    "Address",
    "AwsConfig",
    "Config",
    "ConfigInvalid",
    "Https",
    "Keys",
    "Limits",
    "Listen",
    "UpstreamConfig",
    "VaultConfig",
    "load",
]
