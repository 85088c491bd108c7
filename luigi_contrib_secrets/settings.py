"""`[secrets]` of luigi.cfg, and the few environment variables beside it: read when something is fetched, never at import.

[secrets]
; default: $CREDBROKER_URL, then the session file's
url = unix:///run/credbroker/broker.sock
; optional: resolve nothing in any other
environment = production
; seconds to wait for a broker that is away, when nothing valid is left (default 120)
wait = 120
; seconds without a read after which the next read may bring a new version, and the longest that reads without such a
; pause keep to one (defaults 2 and 30)
pin_idle = 2
pin_cap = 30
"""

import os
from configparser import ConfigParser
from dataclasses import dataclass

from luigi_contrib_secrets.errors import SecretMisconfigured

SECTION = "secrets"
_KEYS = ("url", "environment", "wait", "pin_idle", "pin_cap")
_LONGEST_WAIT = 3600.0
# A superseded lease goes on living for at least a third of its life. STS gives no less than 15 minutes, so a pin of up to
# five is never longer than what it pins; leases that are shorter end their pins themselves.
_LONGEST_PIN = 300.0


@dataclass(frozen=True)
class Pinning:
    """How long the reads of one thread keep to one version."""

    idle: float = 2.0
    cap: float = 30.0


@dataclass(frozen=True)
class Settings:
    url: str = ""  # "": what the session file says
    environment: str = ""  # "": any
    wait: float = 120.0
    pinning: Pinning = Pinning()
    ca_file: str = ""  # instead of the system's authorities
    ci_ca_file: str = ""  # beside them: what the runner trusts GitLab with


def load() -> Settings:
    """The settings as they stand now. Raises SecretMisconfigured for a key that is not one, or a number that is none.

    A mistyped key is refused because `enviroment = production` would otherwise guard nothing.
    """
    from luigi.configuration import LuigiTomlParser, get_config

    config = get_config()  # type: ignore[no-untyped-call]  # Luigi types it no better
    stated = config.data.get(SECTION, {}) if isinstance(config, LuigiTomlParser) else _stated_in_cfg(config)
    unknown = sorted(set(stated) - set(_KEYS))
    if unknown:
        raise _wrong(f"unknown key {unknown[0]!r}; there are {', '.join(_KEYS)}")
    text = {key: str(config.get(SECTION, key, "")).strip() for key in _KEYS}
    pinning = Pinning(
        idle=_seconds("pin_idle", text["pin_idle"], Pinning.idle, _LONGEST_PIN),
        cap=_seconds("pin_cap", text["pin_cap"], Pinning.cap, _LONGEST_PIN),
    )
    return Settings(
        url=text["url"] or os.environ.get("CREDBROKER_URL", ""),
        environment=text["environment"],
        wait=_seconds("wait", text["wait"], Settings.wait, _LONGEST_WAIT),
        pinning=pinning,
        ca_file=os.environ.get("CREDBROKER_CA_FILE", ""),
        ci_ca_file=os.environ.get("CI_SERVER_TLS_CA_FILE", ""),
    )


def _stated_in_cfg(config: ConfigParser) -> set[str]:
    """The keys of the section itself, without those that `[DEFAULT]` lends to every section. Interpolates nothing."""
    if not config.has_section(SECTION):
        return set()
    return {key.replace("-", "_") for key in config.options(SECTION) if key not in config.defaults()}


def _seconds(key: str, text: str, default: float, most: float) -> float:
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:  # also refuses nan
        raise _wrong(f"{key} must be a number of seconds from 0 to {most:g}")
    return value


def _wrong(sentence: str) -> SecretMisconfigured:
    return SecretMisconfigured(f"[{SECTION}] in luigi.cfg: {sentence}", code="config_invalid")
