import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from broker.audit.checkpoint import Checkpoint, LogSigner, Note, VerifierKey
from broker.audit.tree import EMPTY_ROOT
from broker.errors import Code, Misconfigured
from tests.unit.audit.samples import SIGNER

# The example of c2sp.org/signed-note.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    b"This is an example message.\n\n\xe2\x80\x94 example.com/foo "
    b"Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
SIGNED = SIGNER.sign(7, bytes(range(32)))


def test_the_published_example_verifies() -> None:
    key = VerifierKey.parse(EXAMPLE_KEY)
    assert key.text_of(EXAMPLE) == "This is an example message.\n"
    assert str(key) == EXAMPLE_KEY
    assert Note.parse(EXAMPLE).format() == EXAMPLE


def test_what_is_signed_opens_again() -> None:
    assert SIGNER.verifier.open(SIGNED) == Checkpoint("broker.example.com/log", 7, bytes(range(32)))
    assert VerifierKey.parse(SIGNER.vkey) == SIGNER.verifier
    assert "LogSigner(broker.example.com/log+" in repr(SIGNER)


def test_an_empty_log_is_signed_too() -> None:
    assert SIGNER.sign(0, EMPTY_ROOT) != SIGNED
    assert SIGNER.verifier.open(SIGNER.sign(0, EMPTY_ROOT)).size == 0


@given(st.integers(0, 8 * len(SIGNED) - 1))
def test_no_bit_of_a_checkpoint_can_change(bit: int) -> None:
    changed = bytearray(SIGNED)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError):
        SIGNER.verifier.open(bytes(changed))


def test_another_key_of_the_same_name_is_not_this_log() -> None:
    other = LogSigner(Ed25519PrivateKey.generate(), SIGNER.origin)
    with pytest.raises(ValueError, match="not signed by"):
        SIGNER.verifier.open(other.sign(7, bytes(32)))


def test_signatures_of_strangers_are_ignored_and_a_false_one_of_ours_is_not() -> None:
    stranger = LogSigner(Ed25519PrivateKey.generate(), "witness.example.com")
    note = Note.parse(SIGNED)
    theirs = Note.parse(stranger.sign(7, bytes(range(32)))).signatures
    assert SIGNER.verifier.open(Note(note.text, theirs + note.signatures).format()).size == 7
    false = Note.parse(SIGNER.sign(8, bytes(range(32)))).signatures
    with pytest.raises(ValueError, match="is false"):
        SIGNER.verifier.open(Note(note.text, note.signatures + false).format())


def test_a_checkpoint_of_another_origin_is_refused() -> None:
    """A key of one log does not vouch for another, whatever it signed."""
    text = Checkpoint("other.example.com/log", 7, bytes(32)).text()
    signature = Note.parse(SIGNED).signatures[0]
    forged = Note(text, (type(signature)(signature.name, signature.key_id, SIGNER._key.sign(text.encode())),))
    with pytest.raises(ValueError, match=r"is of the log 'other\.example\.com/log'"):
        SIGNER.verifier.open(forged.format())


TEXT = "broker.example.com/log\n7\n" + base64.b64encode(bytes(32)).decode() + "\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT.replace("\n7\n", "\n07\n"), "decimal"),
        (TEXT.replace("\n7\n", "\n+7\n"), "decimal"),
        (TEXT.replace("\n7\n", "\n-7\n"), "decimal"),
        (TEXT.replace("\n7\n", "\n7 \n"), "decimal"),
        (TEXT.replace("\n7\n", "\n٧\n"), "decimal"),
        (TEXT + "extension\n", "three lines"),
        (TEXT[:-1], "three lines"),
        (TEXT.replace("AA=", "AB="), "another spelling"),  # stray low bits: the same bytes to a lax decoder
        (TEXT.replace("AAAA", "AA\rA"), "base64"),
        (TEXT.replace("A", "", 4), "32 bytes"),
        (TEXT.replace("broker", "bro ker"), "key name"),
        ("\n7\n" + TEXT.split("\n")[2] + "\n", "key name"),
    ],
)
def test_a_checkpoint_has_one_spelling(text: str, reason: str) -> None:
    assert Checkpoint.parse(TEXT).text() == TEXT
    with pytest.raises(ValueError, match=reason):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "blank line"),
        (SIGNED[:-1], "blank line"),
        (SIGNED.replace(b"\n\n", b"\n"), "blank line"),
        (SIGNED.replace(b"\n7\n", b"\n7\r\n"), "control"),
        (SIGNED.replace(b"\xe2\x80\x94 ", b"- "), "em dash"),
        (SIGNED.replace(b"\xe2\x80\x94", b"\xe2\x80"), "utf-8"),
        (SIGNED + b"\n", "blank line"),
        (SIGNED + SIGNED.split(b"\n\n")[1] * 32, "more than 32"),
        (b"x" * 70_000, "64 KiB"),
        (b"text\n\n\xe2\x80\x94 name AAAA\n", "shorter than its key id"),
        (b"text\n\n\xe2\x80\x94 name AAAAAA=\n", "base64"),
        (b"text\n\n\xe2\x80\x94 name+x AAAAAAA=\n", "key name"),
        (b"text\n\n\xe2\x80\x94 name\n", "em dash"),
    ],
)
def test_a_malformed_note_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Note.parse(raw)


@pytest.mark.parametrize(
    ("vkey", "reason"),
    [
        ("", "name\\+keyid"),
        ("example.com/foo", "name\\+keyid"),
        (EXAMPLE_KEY.replace("530d", "530e"), "id is not of its name"),
        (EXAMPLE_KEY.replace("foo", "bar"), "id is not of its name"),
        (EXAMPLE_KEY.replace("530d903a", "530D903A"), "id is not of its name"),
        (EXAMPLE_KEY.replace("+Ae", "+Be"), "type 0x01"),
        (EXAMPLE_KEY[:-4], "type 0x01"),
        (EXAMPLE_KEY[:-1], "base64"),
        ("+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", "key name"),
    ],
)
def test_a_malformed_verifier_key_is_refused(vkey: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        VerifierKey.parse(vkey)


def test_a_log_key_is_loaded_from_its_pem() -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    signer = LogSigner.load(pem, "broker.example.com/log")
    assert signer.verifier.open(signer.sign(0, EMPTY_ROOT)).root == EMPTY_ROOT


@pytest.mark.parametrize(
    ("pem", "origin", "reason"),
    [
        (b"nonsense", "a.example/log", "not an unencrypted"),
        (
            Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
            "a.example/log",
            "not an unencrypted",
        ),
        (
            generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "a.example/log",
            "not an Ed25519 key",
        ),
        (
            Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "a b",
            "cannot name a log",
        ),
    ],
)
def test_a_key_that_cannot_sign_the_log_is_a_configuration_error(pem: bytes, origin: str, reason: str) -> None:
    with pytest.raises(Misconfigured, match=reason) as caught:
        LogSigner.load(pem, origin)
    assert caught.value.code is Code.CONFIG_INVALID
