"""The token corpus of gitlab-tokens.md section 5: every input that a token check has to refuse, for any GitLab-like issuer.

The same list goes through the verifier (`test_tokens`) and, minted by another issuer, through the doors of a running broker
(`tests/story/test_attacks`).
"""

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.demo.issuer import ABSENT, SigningKey
from broker.errors import Code
from tests.fakes.forge import AUDIENCE, b64, base_claims, compact, forge, gitlab_key, stranger_key
from tests.strategies import NOON


@dataclass(frozen=True, slots=True, kw_only=True)
class Mint:
    """One issuer as an attacker with its key would use it. `claims` are those of an accepted token, but for what is changed."""

    key: SigningKey
    claims: Callable[..., dict[str, Any]]
    audience: str
    now: int
    slack: int  # seconds that may pass until the token is looked at

    def forge(self, claims: Any = None, header: Any = None, *, key: SigningKey | None = None) -> str:
        """A token with these claims and this header: values, or the very bytes to write."""
        header = {"typ": "JWT", "kid": self.key.kid, "alg": "RS256"} if header is None else header
        return forge(self.claims() if claims is None else claims, header, key=key or self.key)

    def token(self, **changes: Any) -> str:
        return self.forge(self.claims(**changes))

    def signed_with(self, header: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
        text = f"{b64(compact(header))}.{b64(compact(self.claims()))}"
        return f"{text}.{b64(sign(text.encode()))}"


def base_mint() -> Mint:
    """Of base token B: project 20 of gitlab.com, at noon."""
    return Mint(key=gitlab_key(), claims=base_claims, audience=AUDIENCE, now=int(NOON.timestamp()), slack=0)


@dataclass(frozen=True, slots=True)
class Case:
    """A token and how it is refused. `door` is the code where the request as a whole is refused before anything is parsed."""

    name: str  # the row of the list, and the attack
    token: str
    code: Code
    words: str
    door: Code | None = None

    @property
    def row(self) -> int:
        return int(self.name.partition(" ")[0])


_MALFORMED, _SIGNATURE, _CLAIMS = Code.TOKEN_MALFORMED, Code.TOKEN_SIGNATURE, Code.TOKEN_CLAIMS
_CLASS, _AUDIENCE, _EXPIRED, _ISSUER = Code.TOKEN_CLASS, Code.TOKEN_AUDIENCE, Code.TOKEN_EXPIRED, Code.TOKEN_ISSUER
_WHOLE = Code.REQUEST_INVALID  # the form is no form, or has more than 32 KiB

FOREIGN_ISSUERS = (
    "http://169.254.169.254", "https://gitlab.com@evil", "https://gitlab.com.evil.example", "https://evil/?https://gitlab.com",
    "https://gitlab.com/", "HTTPS://GitLab.com", "https://g\u0456tlab.com", "http://gitlab.com", "https://gitlab.com:443", "",
    " https://gitlab.com", "https://evil#https://gitlab.com", "file:///etc/passwd",
)  # fmt: skip


def corpus(mint: Mint) -> list[Case]:
    """Every case, in the order of the list."""
    return [Case(*case) for case in (*_parsing(mint), *_spelling(mint), *_claims(mint))]


def _parsing(mint: Mint) -> list[tuple[Any, ...]]:
    """5.1."""
    base, header = mint.token(), _header(mint)
    exp = f'"exp":{mint.claims()["exp"]}'
    twice = compact(mint.claims())[:-1] + b',"\\u0070roject_id":"666"}'
    inside = _respelled(mint, '"ref":', '"job_config":{"a":1,"a":2},"ref":')
    hour_ago = {"iat": mint.now - 3600, "nbf": mint.now - 3605}
    future = mint.now + 31 + mint.slack
    shown = datetime.fromtimestamp(future, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    plain = compact(mint.claims()).decode()
    many = mint.claims() | {f"k{n}": n for n in range(100_000)}
    deep = {depth: b'{"iss":' + b"[" * depth + b"]" * depth + b"}" for depth in (5_000, 50_000)}
    half = _respelled(mint, '"ref":"main"', '"ref":"\\ud800"')
    latin = _respelled(mint, "sample-user", "jos\u00e9").decode().encode("latin-1")
    return [
        ("1 alg none without signature", mint.signed_with(header | {"alg": "none"}, lambda _: b""), _MALFORMED, "signature"),
        ("1 alg none, signed", mint.forge(header=header | {"alg": "none"}), _SIGNATURE, "algorithm"),
        ("1 alg None", mint.forge(header=header | {"alg": "None"}), _SIGNATURE, "algorithm"),
        ("2 HS256, the public key as secret", mint.signed_with(header | {"alg": "HS256"}, _hs256(mint)), _SIGNATURE, "algorithm"),
        ("2 the same under RS256", mint.signed_with(header, _hs256(mint)), _SIGNATURE, "does not hold"),
        ("3 RS512 with the right key", mint.signed_with(header | {"alg": "RS512"}, _rs512(mint)), _SIGNATURE, "algorithm"),
        ("3 PS256 with the right key", mint.signed_with(header | {"alg": "PS256"}, _ps256(mint)), _SIGNATURE, "algorithm"),
        ("3 ES256", mint.signed_with(header | {"alg": "ES256"}, _es256), _SIGNATURE, "algorithm"),
        ("3 RS512 said to be RS256", mint.signed_with(header, _rs512(mint)), _SIGNATURE, "does not hold"),
        ("4 alg twice", mint.forge(header=b'{"alg":"none",' + compact(header)[1:]), _MALFORMED, "twice"),
        ("4 kid twice", mint.forge(header=b'{"kid":"x",' + compact(header)[1:]), _MALFORMED, "twice"),
        *(
            (f"5 header {name}", mint.forge(header=header | {name: value}), _MALFORMED, "members other than")
            for name, value in {
                "jku": "http://127.0.0.1:1", "x5u": "http://127.0.0.1:1", "jwk": dict(stranger_key().jwk), "x5c": ["AA=="],
            }.items()
        ),
        ("6 kid is a path", mint.forge(header=header | {"kid": "../../dev/null"}), _SIGNATURE, "does not publish"),
        ("6 kid is SQL", mint.forge(header=header | {"kid": "' OR 1=1 --"}), _SIGNATURE, "does not publish"),
        ("6 kid is huge", mint.forge(header=header | {"kid": "k" * 1_000_000}), _MALFORMED, "characters", _WHOLE),
        ("6 kid is long", mint.forge(header=header | {"kid": "k" * 129}), _MALFORMED, "kid"),
        ("6 kid is a list", mint.forge(header=header | {"kid": [mint.key.kid]}), _MALFORMED, "kid"),
        ("7 kid is missing", mint.forge(header={"alg": "RS256", "typ": "JWT"}), _MALFORMED, "kid"),
        ("8 crit", mint.forge(header=header | {"crit": ["exp"]}), _MALFORMED, "members other than"),
        ("8 b64", mint.forge(header=header | {"b64": False, "crit": ["b64"]}), _MALFORMED, "members other than"),
        ("11 project_id twice", mint.forge(_with_member_twice(mint, "project_id", "666")), _MALFORMED, "twice"),
        ("11 project_id twice, once escaped", mint.forge(twice), _MALFORMED, "twice"),
        ("11 a member twice in an object", mint.forge(inside), _MALFORMED, "twice"),
        ("12 long s", mint.forge(mint.claims() | {"\u017fub": "victim"}), _CLAIMS, "resembles"),
        ("12 upper case", mint.token(SUB="victim"), _CLAIMS, "resembles"),
        ("12 mixed case", mint.token(Project_ID="666"), _CLAIMS, "resembles"),
        ("12 full width", mint.forge(mint.claims() | {"\uff52\uff45\uff46": "main"}), _CLAIMS, "resembles"),
        ("13 exp is a text", mint.token(exp=str(mint.now + 60)), _CLAIMS, "exp is not a whole number"),
        ("13 exp is true", mint.token(exp=True), _CLAIMS, "exp is not a whole number"),
        ("13 exp is a list", mint.token(exp=[mint.now + 60]), _CLAIMS, "exp is not a whole number"),
        ("13 exp is 1e400", mint.forge(_respelled(mint, exp, '"exp":1e400')), _MALFORMED, "JSON"),
        ("13 exp is NaN", mint.forge(_respelled(mint, exp, '"exp":NaN')), _MALFORMED, "JSON"),
        ("13 exp is a float", mint.forge(_respelled(mint, exp, f'"exp":{mint.now + 3600}.0')), _MALFORMED, "not whole"),
        ("13 exp is 10**18", mint.token(exp=10**18), _MALFORMED, "out of range"),
        ("13 exp has 5000 digits", mint.forge(_respelled(mint, exp, '"exp":' + "9" * 5000)), _MALFORMED, "payload"),
        ("13 exp is negative", mint.token(exp=-1), _CLAIMS, "exp is not a whole number"),
        ("14 no exp", mint.token(exp=ABSENT), _CLAIMS, "exp is missing"),
        ("14 no iat", mint.token(iat=ABSENT), _CLAIMS, "iat is missing"),
        ("14 an empty jti", mint.token(jti=""), _CLAIMS, "jti is missing"),
        ("14 no jti", mint.token(jti=ABSENT), _CLAIMS, "jti is missing"),
        ("15 valid for ten years", mint.token(exp=mint.now + 10 * 365 * 86400), _CLAIMS, "at most 86400 s"),
        ("16 iat in the future by 31 s", mint.token(iat=future), _CLAIMS, f"iat is {shown}"),
        ("16 nbf in the future by 31 s", mint.token(nbf=future), _CLAIMS, f"nbf is {shown}"),
        ("16 exp 31 s ago", mint.token(**hour_ago, exp=mint.now - 31), _EXPIRED, "ended at"),
        ("16 exp exactly the leeway ago", mint.token(**hour_ago, exp=mint.now - 30), _EXPIRED, "ended at"),
        ("17 payload in UTF-16", mint.forge(plain.encode("utf-16")), _MALFORMED, "UTF-8"),
        ("17 payload in UTF-16 without mark", mint.forge(plain.encode("utf-16-le")), _MALFORMED, "UTF-8"),
        ("17 payload with a byte order mark", mint.forge(b"\xef\xbb\xbf" + compact(mint.claims())), _MALFORMED, "UTF-8"),
        ("17 payload in Latin-1", mint.forge(latin), _MALFORMED, "UTF-8"),
        ("18 nested 50 000 deep", mint.forge(deep[50_000]), _MALFORMED, "characters", _WHOLE),
        ("18 nested 5 000 deep", mint.forge(deep[5_000]), _MALFORMED, "nested"),
        ("18 nested 9 deep", mint.token(x=[[[[[[[[1]]]]]]]]), _MALFORMED, "nested"),
        ("18 2 MB", mint.token(x="y" * 2_000_000), _MALFORMED, "20000 characters", _WHOLE),
        ("18 20 001 characters", base + "A" * (20_001 - len(base)), _MALFORMED, "20000"),
        ("18 100 000 members", mint.forge(many), _MALFORMED, "20000 characters", _WHOLE),
        ("19 half a surrogate pair in ref", mint.forge(half), _MALFORMED, "payload"),
        ("19 the same in raw bytes", mint.forge(compact(mint.claims(x="\ud800"))), _MALFORMED, "UTF-8"),
        ("19 NUL in ref", mint.forge(_respelled(mint, '"ref":"main"', '"ref":"main\\u0000"')), _MALFORMED, "NUL"),
        ("19 newline in environment", mint.token(environment='x\n{"decision":"allow"}'), _CLAIMS, "environment"),
        ("19 ANSI in ref", mint.token(ref="\x1b[2Jmain"), _CLAIMS, "ref"),
        ("19 direction marks in login", mint.token(user_login="\u202enimda"), _CLAIMS, "user_login"),
        ("19 a lone surrogate as the token", "\ud800", _MALFORMED, "characters", _WHOLE),
        ("20 JWE in five parts", ".".join([base.partition(".")[0]] * 5), _MALFORMED, "5 parts"),
        ("20 JSON serialization", _as_json(base), _MALFORMED, "parts"),
        ("20 nested JWT", mint.forge(base.encode(), header | {"typ": "JWT"}), _MALFORMED, "payload"),
        ("21 typ at+jwt", mint.forge(header=header | {"typ": "at+jwt"}), _CLASS, "not an ID token"),
        ("21 typ logout+jwt", mint.forge(header=header | {"typ": "logout+jwt"}), _CLASS, "not an ID token"),
    ]  # fmt: skip


def _spelling(mint: Mint) -> list[tuple[Any, ...]]:
    """5.2: a token that was accepted, in another spelling; and issuers that are not ours."""
    base = mint.token()
    return [
        *((f"22 issuer {issuer!a}", mint.forge(mint.claims() | {"iss": issuer}), _ISSUER, "none that this broker trusts")
          for issuer in FOREIGN_ISSUERS),
        ("22 issuer with a NUL", mint.forge(mint.claims() | {"iss": mint.claims()["iss"] + "\x00"}), _MALFORMED, "NUL"),
        ("30 with padding", base + "==", _MALFORMED, "one spelling"),
        ("30 with a space behind", base + " ", _MALFORMED, "one spelling"),
        ("30 with a newline before", "\n" + base, _MALFORMED, "one spelling"),
        ("30 with other spare bits", base[:-1] + chr(ord(base[-1]) + 1), _MALFORMED, "one spelling"),
    ]  # fmt: skip


def _claims(mint: Mint) -> list[tuple[Any, ...]]:
    """5.3, what of it a token check sees."""
    base, ours = mint.token(), mint.audience
    login = {name: value for name, value in mint.claims(sub="123").items() if name in {"iss", "sub", "aud", "exp", "iat"}}
    return [
        ("33 aud is a list with us in it", mint.token(aud=[mint.audience, "https://evil"]), _AUDIENCE, "aud is a list"),
        ("33 aud is an empty list", mint.token(aud=[]), _AUDIENCE, "aud is a list"),
        ("33 aud with a slash more", mint.token(aud=ours + "/"), _AUDIENCE, f"aud is {ours}/; this broker is {ours}"),
        ("33 aud is missing", mint.token(aud=ABSENT), _AUDIENCE, "aud is missing"),
        ("33 aud is empty", mint.token(aud=""), _AUDIENCE, "aud is "),
        ("34 a token for Vault", mint.token(aud="https://vault.example"), _AUDIENCE, "aud is https://vault.example"),
        ("40 a tag's type with a branch's path", mint.token(ref_type="tag", ref_path="refs/heads/main"), _CLAIMS, "ref_path"),
        *(
            (f"43 ref_protected {value!r}", mint.token(ref_protected=value), _CLAIMS, "ref_protected")
            for value in (True, "True", 1, None, ABSENT, "yes", ["true"])
        ),
        *(
            (f"43 project_id {value!a}", mint.token(project_id=value), _CLAIMS, "project_id")
            for value in (20, "020", " 20", "20\n", "\uff12\uff10", "2\u200b0", "", None, ABSENT, ["20"])
        ),
        ("57 a login token with a job in it", mint.token(auth_time=mint.now, sub="123"), _CLASS, "login"),
        ("57 a login token for our audience", mint.forge(login), _CLASS, "login"),
        ("57 a login token of a client", mint.forge(login | {"aud": "1f2e3d"}), _CLASS, "login"),
        ("57 a token for Google", mint.token(target_audience="//iam.googleapis.com/x"), _CLASS, "target_audience"),
        ("58 CI_JOB_TOKEN", "glcbt-64_" + base, _CLASS, "CI_JOB_TOKEN"),
    ]  # fmt: skip


def _header(mint: Mint) -> dict[str, Any]:
    return {"alg": "RS256", "kid": mint.key.kid, "typ": "JWT"}


def public_pem(key: SigningKey) -> bytes:
    return key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _hs256(mint: Mint) -> Callable[[bytes], bytes]:
    return lambda text: hmac.new(public_pem(mint.key), text, hashlib.sha256).digest()


def _rs512(mint: Mint) -> Callable[[bytes], bytes]:
    return lambda text: mint.key.private.sign(text, PKCS1v15(), SHA512())


def _ps256(mint: Mint) -> Callable[[bytes], bytes]:
    return lambda text: mint.key.private.sign(text, PSS(MGF1(SHA256()), 32), SHA256())


def _es256(text: bytes) -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).sign(text, ec.ECDSA(SHA256()))


def _as_json(token: str) -> str:
    """RFC 7515 section 7.2."""
    return json.dumps(dict(zip(("protected", "payload", "signature"), token.split("."), strict=True)))


def _with_member_twice(mint: Mint, name: str, second: Any) -> bytes:
    """The claims, with one more `name` written behind the first."""
    return compact(mint.claims())[:-1] + f",{json.dumps(name)}:{json.dumps(second)}}}".encode()


def _respelled(mint: Mint, old: str, new: str) -> bytes:
    """The claims' bytes with one piece written otherwise."""
    text = compact(mint.claims())
    assert old.encode() in text
    return text.replace(old.encode(), new.encode())
