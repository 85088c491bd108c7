"""`serve --check`: what a start would refuse, all of it at once, with nothing started and nothing written."""

from pathlib import Path

from broker import wiring
from broker.audit.checkpoint import LogSigner
from broker.config import Config, ConfigInvalid, load
from broker.errors import Gathering
from broker.fitting import require_upstreams
from broker.keyfiles import read_symmetric
from broker.policy.check import warnings as policy_warnings
from broker.policy.model import Policy
from broker.signing import Keyring
from broker.store.looking import look
from broker.web.sockets import HttpsAt, tls_context


def check(path: Path) -> list[str]:
    """The configuration in that file, and every file that `serve` would read for it: policy, keys, certificates, the store.

    Returns warnings. Raises Misconfigured, ManyFaults for several. A configuration with problems of its own keeps nothing else
    from being read: only what it does not name, or names and is not there, which is its own problem and told once.
    """
    gathering, whole = Gathering(), True
    try:
        config = load(path)
    except ConfigInvalid as invalid:
        if invalid.so_far is None:
            raise
        config, whole = invalid.so_far, False
        with gathering:
            raise
    warnings = [*config.warnings, *_files(config, gathering, whole=whole)]
    gathering.raise_any()
    return warnings


def _files(config: Config, gathering: Gathering, *, whole: bool) -> list[str]:
    keys, warnings = config.keys, list[str]()
    policy: Policy | None = None
    signer: LogSigner | None = None
    row_key: bytes | None = None
    with gathering:
        if whole or config.policy.exists():
            policy = wiring.read_policy(config)
    with gathering:
        if whole or (keys.issuer != Path() and keys.issuer.is_dir()):
            Keyring.load(keys.issuer, wiring.system_clock().wall)
    with gathering:
        if whole or keys.log.is_file():
            signer = wiring.read_log_key(config)
    with gathering:
        if whole or keys.store.is_file():
            row_key = read_symmetric(keys.store)
    with gathering:
        if whole or config.store != Path():
            named = signer if config.log_origin else None
            warnings += look(config.store, row_key=row_key, signer=named, key_name=str(keys.store))
    https = config.listen.https
    with gathering:
        if https is not None and (whole or (https.cert.is_file() and https.key.is_file())):
            tls_context(HttpsAt(host="", port=0, cert=https.cert, key=https.key, client_ca=https.client_ca))
    if policy is not None:
        with gathering:
            if whole:
                require_upstreams(config, policy)
        warnings += [str(warning) for warning in policy_warnings(policy)]
    return warnings
