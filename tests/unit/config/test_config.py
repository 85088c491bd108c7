"""`broker.toml` becomes one frozen value, or every problem in it at once."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from broker.config import Address, AwsConfig, ConfigInvalid, VaultConfig, load
from broker.errors import Code, Misconfigured
from broker.identity.profiles import PROFILES
from broker.policy.model import Rate
from broker.web.sockets import AdminAt, bound

WHOLE = """\
public_url = "https://broker.example.com"
policy     = "policy.toml"
issuer_url = "https://keys.example.com/broker"

[listen]
unix  = "run/broker.sock"
http  = "127.0.0.1:8400"
https = { address = "0.0.0.0:8443", cert = "tls.crt", key = "tls.key", client_ca = "ca.pem" }
admin = "admin/admin.sock"
admin_uids = [0]
unix_bind_uid = false

[store]
url = "sqlite:///broker.db"

[keys]
issuer = "keys/issuer"
log    = "keys/log.pem"
store  = "keys/store.key"

[log]
origin = "broker.example.com/log"

[[issuer]]
name     = "gitlab"
profile  = "gitlab"
issuer   = "https://gitlab.example.com"
audience = ["https://broker.example.com"]
max_lifetime = "12h"
leeway   = "20s"
ca_file  = "ca.pem"
jwks_url = "https://gitlab.example.com/oauth/discovery/keys"

[[upstream]]
name  = "vault"
kind  = "vault"
url   = "https://vault.example.com:8200"
mount = "jwt"
via   = "issuer"
namespace = "team"
maintenance_role = "credbroker-maintenance"

[[upstream]]
name   = "aws"
kind   = "aws"
region = "eu-central-1"
via    = "assume-role"

[limits]
body_bytes = 4096
project_rate = "100/m"
rotate_every = "5s"
"""

LEAST = """\
public_url = "https://broker.example.com"
policy = "policy.toml"
[listen]
unix = "run/broker.sock"
[store]
url = "sqlite:///broker.db"
[keys]
issuer = "keys/issuer"
log = "keys/log.pem"
store = "keys/store.key"
[log]
origin = "broker.example.com/log"
[[issuer]]
name = "gitlab"
profile = "gitlab"
issuer = "https://gitlab.example.com"
[[upstream]]
name = "aws"
kind = "aws"
region = "eu-central-1"
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A folder with every file that the examples name; writes broker.toml into it."""
    for folder, mode in (("run", 0o755), ("admin", 0o700), ("keys", 0o700), ("keys/issuer", 0o700)):
        (tmp_path / folder).mkdir(mode=mode)
    for name in ("policy.toml", "tls.crt", "tls.key", "ca.pem", "keys/log.pem", "keys/store.key"):
        (tmp_path / name).touch()

    def write_text(text: str) -> Path:
        path = tmp_path / "broker.toml"
        path.write_text(text)
        return path

    return write_text


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        load(path)
    assert caught.value.code is Code.CONFIG_INVALID
    return [str(problem).removeprefix("broker.toml:") for problem in caught.value.problems]


def test_the_whole_file_of_the_design_becomes_a_value(write: Write, tmp_path: Path) -> None:
    """Every key that exists today, with paths made absolute beside the file."""
    config = load(write(WHOLE))
    assert config.public_url == "https://broker.example.com"
    assert config.issuer_url == "https://keys.example.com/broker"
    assert config.policy == tmp_path / "policy.toml"
    assert config.store == tmp_path / "broker.db"
    assert config.listen.unix == tmp_path / "run/broker.sock"
    assert config.listen.http == Address(host="127.0.0.1", port=8400)
    assert config.listen.https is not None
    assert config.listen.https.address == Address(host="0.0.0.0", port=8443)
    assert config.listen.https.client_ca == tmp_path / "ca.pem"
    assert config.listen.admin_uids == (0,)
    assert config.listen.unix_bind_uid is False
    issuer = config.issuers[0]
    assert (issuer.max_lifetime, issuer.leeway) == (timedelta(hours=12), timedelta(seconds=20))
    assert issuer.jwks_url == "https://gitlab.example.com/oauth/discovery/keys"
    vault, aws = config.upstreams
    assert isinstance(vault, VaultConfig)
    assert (vault.audience, vault.namespace) == ("https://vault.example.com:8200", "team")
    assert isinstance(aws, AwsConfig)
    assert (aws.via, aws.audience, aws.sts_url) == ("assume-role", "sts.amazonaws.com", None)
    assert config.limits.body_bytes == 4096
    assert config.limits.project_rate == Rate(count=100, per=timedelta(minutes=1))
    assert config.limits.rotate_every == timedelta(seconds=5)


def test_defaults_are_the_designs(write: Write) -> None:
    """The limits of DESIGN section 5, and an audience that is the public URL."""
    config = load(write(LEAST))
    assert config.issuer_url == config.public_url
    assert config.issuers[0].audience == ("https://broker.example.com",)
    assert config.listen.unix_bind_uid is True
    assert config.listen.admin_uids == (os.geteuid(),)
    limits = config.limits
    assert (limits.body_bytes, limits.token_chars, limits.request_seconds) == (32 * 1024, 20_000, 10)
    assert limits.project_rate == Rate(count=50, per=timedelta(seconds=1))
    assert limits.rotate_every is None
    assert config.warnings == ()


def test_every_problem_is_told_at_once_with_its_line(write: Write) -> None:
    """One run, all of it: a typo, a missing key, a bad value, a missing file."""
    text = WHOLE.replace("unix_bind_uid", "unix_bind_uids").replace('"keys/log.pem"', '"keys/gone.pem"')
    text = text.replace('profile  = "gitlab"\n', "").replace("body_bytes = 4096", "body_bytes = 5")
    found = problems(write(text))
    assert len(found) == 4
    assert found[0] == "11: unknown key 'unix_bind_uids'; did you mean 'unix_bind_uid'?"
    assert found[1].startswith("18: log: ")
    assert "keys/gone.pem does not exist" in found[1]
    assert found[2] == "24: profile is missing in [issuer]; add profile = …"
    assert found[3] == "49: body_bytes is 5; it must be between 1024 and 1048576"


def test_an_empty_file_names_everything_it_needs(write: Write) -> None:
    """Nothing is empty by accident."""
    text = "\n".join(problems(write("")))
    for words in (
        "public_url is missing;",
        "policy is missing;",
        "nothing to listen on",
        "url is missing in [store]",
        "issuer is missing in [keys]",
        "log is missing in [keys]",
    ):
        assert words in text
    for words in ("store is missing in [keys]", "origin is missing in [log]", "no [[issuer]]", "no [[upstream]]"):
        assert words in text


def test_text_that_is_not_toml_is_one_problem_with_its_line(write: Write) -> None:
    """A syntax error stops the reading, and says where."""
    found = problems(write('public_url = "x"\n[listen\n'))
    assert len(found) == 1
    assert found[0].startswith("2: this is not TOML")


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """Not a traceback."""
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path / "none.toml")


LATER = [
    ("[[issuer]]", '[[issuer]]\nwatch = { api = "https://gitlab.example.com/api/v4" }', "unknown key 'watch'"),
    ("[[issuer]]", '[[auditor]]\nname = "siem"\n[[issuer]]', "unknown key 'auditor'"),
    ('kind = "aws"', 'kind = "aws"\nrevoke_role_arn = "arn:aws:iam::1:role/x"', "unknown key 'revoke_role_arn'"),
    ('kind = "aws"', 'kind = "aws"\niam_url = "https://iam"', "unknown key 'iam_url'"),
    ('kind = "aws"', 'kind = "aws"\nvia = "passthrough"', "via is 'passthrough'"),
    ("sqlite:///broker.db", "postgresql://u:geheim@db/x", "is not a store"),
]


@pytest.mark.parametrize(("old", "new", "words"), LATER)
def test_what_does_not_exist_yet_is_refused_like_a_typo(write: Write, old: str, new: str, words: str) -> None:
    """No key is accepted and then ignored; and a refused URL does not show its password."""
    found = problems(write(LEAST.replace(old, new, 1)))
    assert any(words in line for line in found), found
    assert "geheim" not in "".join(found)


BAD = [
    ('public_url = "https://broker.example.com"', 'public_url = "http://broker.example.com"', "plain http to another machine"),
    ('public_url = "https://broker.example.com"', 'public_url = "https://broker.example.com/x"', "has a path"),
    ('public_url = "https://broker.example.com"', 'public_url = "https://u:p@broker.example.com"', "has a user"),
    ('public_url = "https://broker.example.com"', 'public_url = "broker"', "is not an https URL"),
    ('public_url = "https://broker.example.com"', 'public_url = "https://[::1"', "is not a URL"),
    ('public_url = "https://broker.example.com"', "public_url = 7", "public_url is a whole number; it is text in quotes"),
    ('public_url = "https://broker.example.com"', 'public_url = ""', "public_url is empty"),
    ('public_url = "https://broker.example.com"', 'public_url = "${env:URL}"', "are not expanded in it"),
    ('issuer = "https://gitlab.example.com"', 'issuer = "http://gitlab.example.com"', "plain http to another machine"),
    ('unix = "run/broker.sock"', 'http = "0.0.0.0:8400"', "0.0.0.0 is not a loopback address"),
    ('unix = "run/broker.sock"', 'http = "broker:8400"', "broker is not a loopback address"),
    ('unix = "run/broker.sock"', 'http = "127.0.0.1:99999"', "is not an address and a port"),
    ('unix = "run/broker.sock"', 'http = "::1:8400"', "is not an address and a port"),
    ('unix = "run/broker.sock"', "", "nothing to listen on"),
    ('unix = "run/broker.sock"', 'unix = "gone/broker.sock"', "gone does not exist"),
    ('unix = "run/broker.sock"', f'unix = "{"x" * 120}/broker.sock"', "at most 107 bytes"),
    ('unix = "run/broker.sock"', 'unix = "run/broker.sock"\nadmin = "run/../run/admin.sock"', "in the folder of unix"),
    ('unix = "run/broker.sock"', 'unix = "keys/broker.sock"\nadmin = "run/admin.sock"', "others may enter"),
    ('unix = "run/broker.sock"', 'unix = "run/broker.sock"\nadmin_uids = ["root"]', "not a list of one or more user ids"),
    ('unix = "run/broker.sock"', 'unix = "run/broker.sock"\nadmin_uids = []', "not a list of one or more user ids"),
    ('unix = "run/broker.sock"', 'unix = "run/broker.sock"\nunix_bind_uid = "yes"', "text in quotes; it is true or false"),
    ('unix = "run/broker.sock"', 'https = { cert = "tls.crt", key = "gone" }', "https has no address"),
    ('unix = "run/broker.sock"', 'https = { address = "0.0.0.0:1", key = "tls.key" }', "cert is missing in [listen.https]"),
    ('unix = "run/broker.sock"', 'unix = "run/\\u0000.sock"', r"'run/\x00.sock' is not a path"),
    ("sqlite:///broker.db", r"sqlite:///\u0000.db", r"'\x00.db' is not a path"),
    ("sqlite:///broker.db", "sqlite:///gone/broker.db", "gone does not exist"),
    ('issuer = "keys/issuer"', 'issuer = "keys/log.pem"', "is not a folder"),
    ('log = "keys/log.pem"', 'log = "keys"', "is a folder, not a file"),
    ("broker.example.com/log", "broker example", "cannot name a log"),
    ('name = "gitlab"', 'name = "Git Lab"', "'Git Lab' is not a name"),
    ('profile = "gitlab"', 'profile = "gitlob"', "profile is 'gitlob'"),
    ('profile = "gitlab"', 'profile = "gitlab"\naudience = ["a", "a"]', "audience names something twice"),
    ('profile = "gitlab"', 'profile = "gitlab"\naudience = []', "audience is not a list of one or more texts"),
    ('profile = "gitlab"', 'profile = "gitlab"\nleeway = "1h"', "it must be between 1s and 2m"),
    (
        'profile = "gitlab"',
        'profile = "gitlab"\nleeway = 30',
        'leeway is a whole number; it is text; write leeway = "30s" for seconds',
    ),
    ('profile = "gitlab"', 'profile = "gitlab"\nleeway = 30000', 'it is text; write a length of time such as "90s"'),
    ('profile = "gitlab"', 'profile = "gitlab"\nmax_lifetime = "soon"', "is not a length of time"),
    ('profile = "gitlab"', 'profile = "gitlab"\njwks_url = "https://a"\njwks_file = "ca.pem"', "both say where the keys are"),
    ('kind = "aws"', 'kind = "azure"', "kind is 'azure'"),
    ('region = "eu-central-1"', 'region = "eu-central-1.evil.example/"', "is not a region such as"),
    ("[log]", '[limits]\nproject_rate = "many"\n[log]', "'many' is not a rate"),
    ("[log]", "[limits]\nconcurrency = true\n[log]", "concurrency is true or false; it is a whole number"),
    ("[[issuer]]", "[issuer]", "issuer is a table; it is an array of tables"),
    ("[[upstream]]", "[upstream]", "upstream is a table; it is an array of tables"),
    ("[[upstream]]", 'limits = 4\n[[upstream]]\nnames = "x"', "unknown key"),
]


@pytest.mark.parametrize(("old", "new", "words"), BAD)
def test_a_bad_value_is_refused_with_its_reason(write: Write, old: str, new: str, words: str) -> None:
    """Each of these alone is enough to keep the broker from starting."""
    load(write(LEAST))
    assert old in LEAST
    found = problems(write(LEAST.replace(old, new, 1)))
    assert any(words in line for line in found), found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_the_broker_could_not_write_to_is_a_problem_before_it_starts(write: Write, tmp_path: Path) -> None:
    """The store's and the socket's; writable again, both are fine."""
    for name in ("store", "sockets"):
        (tmp_path / name).mkdir(mode=0o500)
    path = write(
        WHOLE.replace("sqlite:///broker.db", "sqlite:///store/broker.db").replace("run/broker.sock", "sockets/broker.sock")
    )
    found = problems(path)
    assert len(found) == 2
    assert f"unix: the folder {tmp_path / 'sockets'} may not be written to by this user; check as the broker's user" in found[0]
    assert f"url: the folder {tmp_path / 'store'} may not be written to by this user; check as the broker's user" in found[1]
    for name in ("store", "sockets"):
        (tmp_path / name).chmod(0o700)
    assert load(path).store == tmp_path / "store/broker.db"


def test_a_list_with_something_else_than_tables_is_refused(write: Write) -> None:
    """`upstream = [1]` is TOML, and nothing that could be read."""
    found = problems(write("upstream = [1]\n" + LEAST.split("[[upstream]]", maxsplit=1)[0]))
    assert any("upstream is not an array of tables" in line for line in found), found


def test_two_issuers_of_one_name_or_one_iss_are_refused(write: Write) -> None:
    """Which audience decides would be left open."""
    again = '[[issuer]]\nname = "gitlab"\nprofile = "gitlab"\nissuer = "https://gitlab.example.com"\n'
    found = problems(write(LEAST + again))
    assert any("name 'gitlab' is used twice" in line for line in found)
    assert any("issuer 'https://gitlab.example.com' is used twice" in line for line in found)
    other = '[[issuer]]\nname = "other"\nprofile = "gitlab"\nissuer = "https://other.example.com"\n'
    assert len(load(write(LEAST + other)).issuers) == 2


@pytest.mark.parametrize("kind", PROFILES)
def test_every_kind_of_issuer_can_be_configured(write: Write, kind: str) -> None:
    """How long its tokens may be valid is the kind's, unless it is said."""
    url = "https://acme.okta.com/oauth2/default" if kind == "okta" else "https://issuer.example"
    more = f'[[issuer]]\nname = "more"\nprofile = "{kind}"\nissuer = "{url}"\n'
    found = load(write(LEAST + more)).issuers[-1]
    assert (found.profile, found.issuer) == (kind, url)
    assert found.max_lifetime == PROFILES[kind].longest
    assert load(write(LEAST + more + 'max_lifetime = "10m"\n')).issuers[-1].max_lifetime == timedelta(minutes=10)


@pytest.mark.parametrize("url", ["https://acme.okta.com", "https://acme.okta.com/oauth2/v1"])
def test_okta_s_own_authorization_server_is_refused(write: Write, url: str) -> None:
    """Its tokens are for Okta alone."""
    more = f'[[issuer]]\nname = "okta"\nprofile = "okta"\nissuer = "{url}"\n'
    found = problems(write(LEAST + more))
    assert any("makes tokens for Okta alone" in line and "name a custom one" in line for line in found), found


def test_two_upstreams_of_one_name_are_refused(write: Write) -> None:
    """A grant names its upstream."""
    again = '[[upstream]]\nname = "aws"\nkind = "aws"\nregion = "eu-west-1"\n'
    assert any("name 'aws' is used twice" in line for line in problems(write(LEAST + again)))


def test_loopback_may_be_plain_http_and_ipv6(write: Write) -> None:
    """The demo, and a broker on the runner's own host."""
    text = LEAST.replace("https://broker.example.com", "http://127.0.0.1:8400", 1).replace(
        "https://gitlab", "http://localhost:1#", 1
    )
    text = text.replace("http://localhost:1#.example.com", "http://localhost:1").replace(
        'unix = "run/broker.sock"', 'http = "[::1]:0"'
    )
    config = load(write(text))
    assert config.listen.http == Address(host="::1", port=0)
    assert any("over public https" in warning for warning in config.warnings)


def test_what_is_allowed_but_should_be_known_is_a_warning(write: Write, tmp_path: Path) -> None:
    """Warnings do not keep the broker from starting."""
    vault = '[[upstream]]\nname = "v"\nkind = "vault"\nurl = "https://vault.example.com"\n[limits]\nrotate_every = "5s"\n'
    path = write(LEAST + vault)
    (tmp_path / "run").chmod(0o777)
    warnings = load(path).warnings
    assert any("maintenance_role" in w and "waits for expiry" in w for w in warnings)
    assert any("rotate_every = 5s" in w for w in warnings)
    assert any("others may write to" in w for w in warnings)


def _made(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o700)


def _open_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o710)


def _linked(folder: Path) -> None:
    _made(folder.with_name("theirs"))
    folder.symlink_to("theirs")


def _occupied(folder: Path) -> None:
    _made(folder)
    (folder / "a.sock").touch()


def _stale(folder: Path) -> None:
    _made(folder)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "a.sock"))


@pytest.mark.parametrize(
    ("admin", "prepare", "words"),
    [
        ("own/a.sock", None, ""),  # the start makes this one folder
        ("own/a.sock", _made, ""),
        ("own/a.sock", _stale, ""),
        ("own/deeper/a.sock", None, "own does not exist; make it first"),
        ("policy.toml/own/a.sock", None, "cannot be looked at (Not a directory)"),
        ("own/a.sock", Path.touch, "is a link or a file"),
        ("own/a.sock", _linked, "is a link or a file"),
        ("own/a.sock", lambda folder: folder.symlink_to("gone"), "is a link or a file"),
        ("own/a.sock", lambda folder: folder.symlink_to("own"), "is a link or a file"),
        ("own/a.sock", _open_folder, "others may enter"),
        ("own/a.sock", _occupied, "is there and is no socket; move it away"),
    ],
)
def test_an_admin_socket_is_refused_when_the_start_would(
    write: Write, tmp_path: Path, admin: str, prepare: Callable[[Path], None] | None, words: str
) -> None:
    """`serve --check` said ok, and `serve` failed. Both are asked here, the check first: it makes nothing."""
    if prepare is not None:
        prepare(tmp_path / "own")
    path = write(LEAST.replace('unix = "run/broker.sock"', f'unix = "run/broker.sock"\nadmin = "{admin}"'))
    at = AdminAt(path=tmp_path / admin, uids=frozenset({0}))
    if words:
        found = problems(path)
        assert len(found) == 1, found
        assert words in found[0]
        with pytest.raises(Misconfigured), bound(at):
            pass
    else:
        there = (tmp_path / "own").exists()
        assert load(path).listen.admin == at.path
        assert (tmp_path / "own").exists() == there
        with bound(at):
            assert at.path.is_socket()


def test_an_admin_folder_of_another_user_is_refused(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the start does; the twin is the same folder in the hands of its owner."""
    path = write(LEAST.replace('unix = "run/broker.sock"', 'unix = "run/broker.sock"\nadmin = "admin/a.sock"'))
    assert load(path).listen.admin == tmp_path / "admin/a.sock"
    if os.geteuid() == 0:
        os.chown(tmp_path / "admin", 65534, 65534)
    else:  # who cannot give a folder away can be somebody else for a moment
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
    found = problems(path)
    assert len(found) == 1, found
    assert "belongs to uid" in found[0]


def test_an_admin_folder_that_cannot_be_made_is_refused(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder above it is somebody else's to write to. Root may write everywhere, so the kernel's answer is put in."""
    path = write(LEAST.replace('unix = "run/broker.sock"', 'unix = "run/broker.sock"\nadmin = "keys/own/a.sock"'))
    assert load(path).listen.admin == tmp_path / "keys/own/a.sock"
    access = os.access
    monkeypatch.setattr(os, "access", lambda at, mode: at != tmp_path / "keys" and access(at, mode))
    found = problems(path)
    assert len(found) == 1, found
    assert f"admin: the folder {tmp_path / 'keys'} may not be written to by this user; check as the broker's user" in found[0]
