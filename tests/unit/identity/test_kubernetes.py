"""Service account tokens: claims inside objects, audiences in lists, and tokens that never end."""

from typing import Any

import pytest

from broker.demo.issuer import ABSENT
from broker.errors import Code, Refused
from broker.identity.gate import parse, verify
from broker.identity.keyset import parse_jwks
from broker.identity.pointer import flattened, parts_of, pointer_to, value_at
from broker.identity.profiles import PROFILES
from tests.fakes.forge import AUDIENCE, compact, forge, gitlab_key, jwks
from tests.fakes.workloads import ACCOUNT_UID, POD_UID, claims_of, ec_jwk, ec_token, inside, workload, workload_rules
from tests.strategies import NOON

KUBERNETES = PROFILES["kubernetes"]
UID = "/kubernetes.io/serviceaccount/uid"


def refusal(**changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        workload("kubernetes", **changes)
    return caught.value


def in_object(**changes: Any) -> dict[str, Any]:
    return {"kubernetes.io": inside(**changes)}


def test_a_projected_token_is_its_service_account_in_its_pod() -> None:
    """By uid, which no account of the same name has after it."""
    job = workload("kubernetes")
    assert (job.stable_id, job.project_path, job.job_id) == (ACCOUNT_UID, "etl/orders", POD_UID)
    assert dict(job.claims) == {
        UID: ACCOUNT_UID,
        "/kubernetes.io/serviceaccount/name": "orders",
        "/kubernetes.io/namespace": "etl",
        "/kubernetes.io/pod/name": "orders-28391",
        "/kubernetes.io/pod/uid": POD_UID,
        "/kubernetes.io/node/name": "my-node",
        "/kubernetes.io/node/uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1",
    }


def test_a_token_of_an_older_cluster_or_of_no_pod_is_one_too() -> None:
    """No node before 1.30, no pod for `kubectl create token`: then the token itself is the job."""
    old = workload("kubernetes", **in_object(node=ABSENT))
    assert "/kubernetes.io/node/name" not in old.claims
    assert old.job_id == POD_UID
    assert workload("kubernetes", **in_object(pod=ABSENT, node=ABSENT)).job_id == claims_of("kubernetes")["jti"]


def test_without_a_jti_a_digest_of_what_the_token_says_stands_for_it() -> None:
    """Before 1.30. The same claims in another spelling have the same one, any other claims have another."""
    one = workload("kubernetes", jti=ABSENT)
    assert one.jti.startswith("sha256:")
    key = parse_jwks(jwks(), KUBERNETES.algorithms).keys[gitlab_key().kid]
    header = {"alg": "RS256", "kid": gitlab_key().kid}
    backwards = dict(reversed(claims_of("kubernetes", jti=ABSENT).items()))
    text = compact(backwards).replace(b"orders", b"\\u006frders")
    again = KUBERNETES.identify(verify(parse(forge(text, header)), key, workload_rules("kubernetes"), NOON), "our-kubernetes")
    assert again == one
    others = [workload("kubernetes", jti=ABSENT, iat=claims_of("kubernetes")["iat"] - 1)]
    others.append(workload("kubernetes", jti=ABSENT, **in_object(node=ABSENT)))
    others.append(workload("kubernetes"))
    assert len({one.jti, *(other.jti for other in others)}) == 4


@pytest.mark.parametrize(
    ("audience", "words"),
    [
        (AUDIENCE, "not a list of texts"),
        ([], "not a list of texts"),
        ([AUDIENCE, 5], "not a list of texts"),
        (None, "not a list of texts"),
        ([AUDIENCE, "https://evil"], "aud has https://evil in it"),
        (["https://kubernetes.default.svc"], "aud has https://kubernetes.default.svc in it"),
        ([AUDIENCE + "/"], f"aud has {AUDIENCE}/ in it"),
        (["a\nb"], "aud has 'a\\nb' in it"),
    ],
)
def test_every_audience_in_the_list_is_ours(audience: Any, words: str) -> None:
    """Any other could replay the token here."""
    refused = refusal(aud=audience)
    assert refused.code is Code.TOKEN_AUDIENCE
    assert words in refused.public
    assert workload("kubernetes", aud=[AUDIENCE, AUDIENCE]) == workload("kubernetes")


LEGACY = {
    "iss": "kubernetes/serviceaccount",
    "kubernetes.io/serviceaccount/namespace": "etl",
    "kubernetes.io/serviceaccount/secret.name": "orders-token-pnj77",
    "kubernetes.io/serviceaccount/service-account.name": "orders",
    "kubernetes.io/serviceaccount/service-account.uid": ACCOUNT_UID,
    "sub": "system:serviceaccount:etl:orders",
}


@pytest.mark.parametrize("more", [{}, {"exp": int(NOON.timestamp()) + 60, "iat": int(NOON.timestamp()), "aud": [AUDIENCE]}])
def test_a_token_from_a_secret_is_of_another_class(more: dict[str, Any]) -> None:
    """It has no end and no audience: it is named for what it is before either is missed."""
    key = parse_jwks(jwks(), KUBERNETES.algorithms).keys[gitlab_key().kid]
    token = forge(LEGACY | more, {"alg": "RS256", "kid": gitlab_key().kid})
    with pytest.raises(Refused) as caught:
        verify(parse(token), key, workload_rules("kubernetes", issuer=LEGACY["iss"]), NOON)
    assert caught.value.code is Code.TOKEN_CLASS
    assert "from a Secret" in caught.value.public


def test_the_token_for_the_api_server_is_of_another_class() -> None:
    """Every pod has it; it lives for a year."""
    refused = refusal(**in_object(warnafter=int(NOON.timestamp()) + 3607), aud=["https://kubernetes.default.svc"])
    assert refused.code is Code.TOKEN_CLASS
    assert "for the API server" in refused.public


@pytest.mark.parametrize("value", [ABSENT, "x", 5, ["a"], None])
def test_a_token_without_its_object_is_of_another_class(value: Any) -> None:
    assert refusal(**{"kubernetes.io": value}).code is Code.TOKEN_CLASS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (in_object(serviceaccount={"name": "orders"}), f"{UID} is missing"),
        (in_object(serviceaccount={"name": "orders", "uid": None}), f"{UID} is missing"),
        (in_object(serviceaccount={"name": "orders", "uid": 5}), f"{UID} is a number"),
        (in_object(serviceaccount={"name": "orders", "uid": ACCOUNT_UID.upper()}), "not a uid"),
        (in_object(serviceaccount={"name": "orders", "uid": "orders"}), "not a uid"),
        (in_object(serviceaccount={"uid": ACCOUNT_UID}), "serviceaccount/name is missing"),
        (in_object(serviceaccount="orders"), "not an object"),
        (in_object(namespace=ABSENT), "namespace is missing"),
        (in_object(namespace={"name": "etl"}), "namespace is an object"),
        (in_object(namespace="etl\n"), "control characters"),
        (in_object(pod={"name": "x", "uid": "y"}), "not a uid"),
        ({"sub": "system:serviceaccount:etl:other"}, "sub is not the service account"),
        ({"sub": "system:serviceaccount:kube-system:orders"}, "sub is not the service account"),
        ({"sub": ABSENT}, "sub is not the service account"),
    ],
)
def test_a_claim_that_is_missing_of_another_type_or_at_odds_is_refused(changes: dict[str, Any], words: str) -> None:
    refused = refusal(**changes)
    assert refused.code is Code.TOKEN_CLAIMS
    assert words in refused.public


@pytest.mark.parametrize(
    "changes",
    [
        in_object(Namespace="kube-system"),
        {"kubernetes.io": inside() | {"name\uff53pace": "kube-system"}},
        in_object(serviceaccount={"name": "orders", "uid": ACCOUNT_UID, "UID": "x"}),
        in_object(Pod={"name": "x"}),
        {"Kubernetes.IO": {"namespace": "kube-system"}},
    ],
)
def test_a_name_inside_that_resembles_a_claims_is_refused(changes: dict[str, Any]) -> None:
    """As at the top: another reader could take it for the real one."""
    refused = refusal(**changes)
    assert refused.code is Code.TOKEN_CLAIMS
    assert "resembles" in refused.public


def test_a_name_inside_that_nobody_knows_is_ignored() -> None:
    """Kubernetes adds some with its releases. A member that is named like a pointer is none."""
    assert workload("kubernetes", **in_object(new={"name": "x"})) == workload("kubernetes")
    job = workload("kubernetes", **{"/kubernetes.io/namespace": "kube-system", "/kubernetes.io/pod/name": "evil"})
    assert job.claims["/kubernetes.io/namespace"] == "etl"
    assert job.claims["/kubernetes.io/pod/name"] == "orders-28391"


def test_a_cluster_may_sign_with_an_elliptic_curve() -> None:
    """P-256 and nothing else; GitLab, GitHub and Okta do not."""
    key = parse_jwks(jwks(ec_jwk()), KUBERNETES.algorithms).keys["ec"]
    verified = verify(parse(ec_token(claims_of("kubernetes"))), key, workload_rules("kubernetes"), NOON)
    assert KUBERNETES.identify(verified, "our-kubernetes").stable_id == ACCOUNT_UID
    for kind in ("gitlab", "github", "okta"):
        assert PROFILES[kind].algorithms == {"RS256"}


def test_pointers_are_rfc_6901s() -> None:
    """A slash in a name is `~1`, a tilde `~0`; a name without a slash in front is a name."""
    members = {"a/b": {"c~d": {"": "deep"}, "n": None}, "": {"x": "1"}, "t": "top", "/t": "odd"}
    assert parts_of("/a~1b/c~0d/") == ("a/b", "c~d", "")
    assert pointer_to("a/b", "c~d", "") == "/a~1b/c~0d/"
    assert value_at(members, "/a~1b/c~0d/") == "deep"
    assert value_at(members, "t") == "top"
    assert value_at(members, "/a~1b/n/x") is None
    assert value_at(members, "/none/x") is None
    with pytest.raises(Refused, match="not an object"):
        value_at(members, "/t/x")
    assert flattened(members) == {"t": "top", "/a~1b/c~0d/": "deep", "/a~1b/n": None, "//x": "1"}
