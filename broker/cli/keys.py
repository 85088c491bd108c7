"""`credbroker keygen` and `credbroker issuer export`: the keys of a broker, and the public half of those it signs with."""

import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import click

from broker.errors import Code, Misconfigured
from broker.moment import Moment

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog="\b\nExample:\n  credbroker keygen /etc/credbroker/keys --origin broker.example.com/log")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--origin", required=True, help="Name of the log, as in [log] origin; auditors know the log by it and its key.")
def keygen(folder: Path, origin: str) -> None:
    """Make the keys of a broker in DIR: log.pem, store.key and a first key in issuer/.

    Prints the log's public key, to be handed to whoever verifies the log. Nothing that is there already is replaced.
    """
    vkey = make_keys(folder, origin)
    click.echo(f"keys are in {folder}; whoever can read them can be the broker. The log's public key:", err=True)
    click.echo(vkey)


def make_keys(folder: Path, origin: str) -> str:
    """What `keygen` makes. Returns the log's public key. Raises Misconfigured when there are keys, or one cannot be written."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from broker.audit.checkpoint import LogSigner
    from broker.keyfiles import SYMMETRIC_BYTES, format_symmetric, write_private
    from broker.signing import new_key_file, parse_key_file

    log_pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    vkey = LogSigner.load(log_pem, origin).vkey  # refuses an origin that cannot name a log, before anything is written
    now = datetime.now(UTC)
    issuer_key = new_key_file(now)
    kid = parse_key_file(issuer_key, "").signer.kid

    issuer_folder = folder / "issuer"
    log, store = folder / "log.pem", folder / "store.key"
    # Before anything is written: half a set of keys, whose public key nobody was told, would stand in the way of a whole one.
    for there in (*issuer_folder.glob("*.pem"), log, store):
        if os.path.lexists(there):
            raise Misconfigured(
                Code.CONFIG_INVALID,
                f"{there} is there already; keygen is for a new broker and replaces nothing: name another folder",
            )
    _make_folders(folder, issuer_folder)
    write_private(log, log_pem)
    write_private(store, format_symmetric(secrets.token_bytes(SYMMETRIC_BYTES)))
    write_private(issuer_folder / f"{now:%Y%m%d}-{kid[:8]}.pem", issuer_key)
    return vkey


@click.group()
def issuer() -> None:
    """The broker as an OIDC issuer: what Vault and AWS check its assertions with."""


@issuer.command(
    short_help="Write its public documents, for static hosting.",
    epilog="\b\nExample:\n  credbroker issuer export public/ --config broker.toml",
)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--config", required=True, type=_FILE, help="The broker.toml.")
def export(folder: Path, config: Path) -> None:
    """Write the discovery document and the public keys into DIR, for static hosting at the broker's issuer_url.

    Serve .well-known/openid-configuration and jwks as application/json. Whoever can write there can make up assertions.
    """
    from broker.assertions import AssertionIssuer
    from broker.config import load
    from broker.keyfiles import write_public
    from broker.signing import Keyring

    settings = load(config)
    now = Moment(datetime.now(UTC), monotonic())
    publication = AssertionIssuer(settings.issuer_url, Keyring.load(settings.keys.issuer, now.wall), lambda: now)
    discovery, jwks = folder / ".well-known" / "openid-configuration", folder / "jwks"
    _make_folders(discovery.parent, mode=0o755)
    # The keys first: a document that names keys which are not there yet breaks its readers.
    write_public(jwks, _document(publication.jwks()))
    write_public(discovery, _document(publication.discovery()))
    click.echo(f"serve {folder} at {settings.issuer_url}", err=True)
    for path in (discovery, jwks):
        click.echo(str(path))


def _make_folders(*folders: Path, mode: int = 0o700) -> None:
    try:
        for folder in folders:
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(Code.CONFIG_INVALID, f"{error.filename} cannot be made ({error.strerror})") from None


def _document(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
