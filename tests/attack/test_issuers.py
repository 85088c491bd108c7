"""Several issuers at once: a token is its issuer's alone, a policy names the issuer, and upstream nobody is taken for another.

All five publish the very same key under the very same `kid` here: nothing but the issuer tells their tokens apart.
"""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.assertions import AssertionIssuer, source_identity
from broker.errors import Code, Refused
from broker.identity.claims import JobIdentity
from broker.identity.jwks import Keys
from broker.identity.profiles import PROFILES
from broker.identity.proven import SignedRefusal
from broker.identity.verify import TokenVerifier
from broker.policy.check import warnings
from broker.policy.decide import decide
from broker.policy.explain import explain
from broker.policy.language import PolicyInvalid, parse
from broker.policy.model import Allow, Deny, Grant, Policy
from broker.policy.templates import fill
from broker.signing import FileSigner, Keyring, TimedSigner
from tests.fakes.forge import AUDIENCE, base_claims, forge, job_token, jwks, jwks_file, settings
from tests.fakes.workloads import (
    ACCOUNT_UID,
    ISSUERS,
    claims_of,
    ec_jwk,
    ec_key,
    ec_token,
    inside,
    workload_settings,
    workload_token,
)
from tests.strategies import NOON, ManualClock, moment

CONFIGURED = {"gitlab": "gitlab", "other-gitlab": "gitlab"} | {f"our-{kind}": kind for kind in ISSUERS}
OTHER = "https://git.other.example"

POLICY = f"""version = 1
[[environment]]
name = "gitlab-production"
when.issuer = "gitlab"
when.project_id = "20"
when.ref_path = "refs/heads/main"
when.ref_protected = true

[[environment]]
name = "other-production"
when.issuer = "other-gitlab"
when.project_id = "20"
when.ref_path = "refs/heads/release"
when.ref_protected = true

[[environment]]
name = "github-production"
when.issuer = "our-github"
when.repository_id = "74"
when.ref = "refs/heads/main"
when.ref_protected = true
when.environment = "production"

[[environment]]
name = "okta-production"
when.issuer = "our-okta"
when.cid = "0oa2hl2inow5Uqc6c357"
when.sub = "0oa2hl2inow5Uqc6c357"
when.scp = "etl.run"

[[environment]]
name = "kubernetes-production"
when.issuer = "our-kubernetes"
when."/kubernetes.io/serviceaccount/uid" = "{ACCOUNT_UID}"
when."/kubernetes.io/namespace" = "etl"

[[environment]]
name = "generic-production"
when.issuer = "our-generic"
when.sub = "pipeline/0183a2e1/main"
when.organization_slug = "acme"
when."/agent/tags/queue" = "deploy"
when.groups = "etl-prod"

[[grant]]
name = "warehouse"
environments = [
  "gitlab-production", "other-production", "github-production", "okta-production", "kubernetes-production", "generic-production",
]
[grant.vault]
role = "etl-{{environment}}"
path = "database/creds/etl-{{environment}}"
"""


def granted(policy: Policy, name: str) -> Grant:
    return next(grant for grant in policy.grants if grant.name == name)


def policy(text: str = POLICY) -> Policy:
    return parse(text, "policy.toml", _no_template, issuers=CONFIGURED)


def _no_template(name: str) -> str:
    raise AssertionError(name)


@pytest.fixture
async def verifier(tmp_path: Path) -> AsyncIterator[TokenVerifier]:
    keys = jwks_file(tmp_path)
    own = [settings(jwks_file=keys), settings(name="other-gitlab", issuer=OTHER, jwks_file=keys)]
    own += [workload_settings(kind, keys) for kind in ISSUERS]
    one = TokenVerifier([(each, Keys(each)) for each in own])
    yield one
    await one.close()


def token(kind: str, **changes: Any) -> str:
    return job_token(**changes) if kind == "gitlab" else workload_token(kind, **changes)


@pytest.mark.parametrize("kind", PROFILES)
async def test_each_issuers_job_is_in_the_environment_that_names_its_issuer(verifier: TokenVerifier, kind: str) -> None:
    """With one broker, one policy, and tokens of the documented shapes."""
    decision = decide(policy(), await verifier.verify(token(kind), moment()), None)
    assert isinstance(decision, Allow), decision
    assert (decision.environment, decision.grants) == (f"{kind}-production", ("warehouse",))
    assert not warnings(policy())


@pytest.mark.parametrize("kind", PROFILES)
async def test_the_same_claims_of_another_issuer_of_that_kind_match_nothing(tmp_path: Path, kind: str) -> None:
    """Same kind, same key, same claims; another `iss`, under another name."""
    keys = jwks_file(tmp_path)
    stranger = {"okta": "https://acme.okta.com/oauth2/other"}.get(kind, "https://stranger.example")
    own = settings(jwks_file=keys) if kind == "gitlab" else workload_settings(kind, keys)
    twin = settings(name="stranger", issuer=stranger, jwks_file=keys)
    if kind != "gitlab":
        twin = workload_settings(kind, keys, name="stranger", issuer=stranger)
    both = TokenVerifier([(each, Keys(each)) for each in (own, twin)])
    mine = await both.verify(token(kind), moment())
    theirs = await both.verify(token(kind, iss=stranger), moment())
    assert dict(mine.claims) == dict(theirs.claims) or kind == "gitlab"  # ci_config_ref_uri has the host in it
    assert isinstance(decide(policy(), mine, None), Allow)
    decision = decide(policy(), theirs, None)
    assert isinstance(decision, Deny)
    assert decision.code is Code.NO_ENVIRONMENT
    assert "no environment of this broker's policy" in decision.hint  # a stranger learns nothing


@pytest.mark.parametrize("wanted", PROFILES)
@pytest.mark.parametrize("sent", PROFILES)
async def test_one_kinds_claims_under_anothers_issuer_are_refused(verifier: TokenVerifier, sent: str, wanted: str) -> None:
    """A token of one shape, signed for the issuer of another: of the wrong class, audience or claims, and never an identity."""
    if sent == wanted:
        return
    claims = base_claims() if sent == "gitlab" else claims_of(sent)
    claims |= {"iss": base_claims()["iss"] if wanted == "gitlab" else ISSUERS[wanted]}
    try:
        found = await verifier.verify(forge(claims), moment())
    except Refused as refused:
        found = None
        code = refused.code
    if found is None:
        assert code in (Code.TOKEN_CLASS, Code.TOKEN_AUDIENCE, Code.TOKEN_CLAIMS)
        return
    # The generic kind takes any workload's token; what its `sub` is no policy of another kind's knows.
    assert wanted == "generic"
    assert isinstance(decide(policy(), found, None), Deny)


async def test_the_assertions_subject_keeps_two_issuers_apart_upstream(verifier: TokenVerifier) -> None:
    """Project 20 of one GitLab and of another: two subjects, so that a role is for one of them."""
    said = AssertionIssuer("https://broker.example", Keyring([TimedSigner(FileSigner(ec_key()), NOON)]), ManualClock())
    subjects: dict[str, str] = {}
    sources: set[str] = set()
    tokens = {kind: token(kind) for kind in PROFILES} | {"other": job_token(iss=OTHER)}
    for kind, text in tokens.items():
        job = await verifier.verify(text, moment())
        assertion = said.for_job(job, "production", "warehouse", "https://vault", session_id="a" * 26, aws=True).reveal()
        claims = json.loads(base64.urlsafe_b64decode(assertion.split(".")[1] + "=="))
        subjects[kind] = claims["sub"]
        assert claims["sub"] == (
            f"environment:production:grant:warehouse:issuer:{job.issuer_name}:project:{job.claims[PROFILES[job.profile].stable_id]}"
        )
        assert claims["issuer_name"] == job.issuer_name
        assert all(
            type(value) is str for name, value in claims.items() if name in ("project_id", "job_id", "pipeline_id", "ref_path")
        )
        tags = claims["https://aws.amazon.com/tags"]["principal_tags"]
        assert tags["project_id"] == [job.stable_id]
        sources.add(source_identity(job))
    assert len(set(subjects.values())) == len(tokens)
    assert subjects["gitlab"] != subjects["other"]
    assert len(sources) == len(PROFILES)  # two GitLabs share the name that DESIGN gives; the session's own id is behind it


async def test_a_subject_that_the_assertion_cannot_carry_is_refused_and_never_changed(verifier: TokenVerifier) -> None:
    """`a:project:20` could be read as another's subject by a trust policy with a wildcard."""
    job = await verifier.verify(workload_token("generic", sub="a:project:20"), moment())
    said = AssertionIssuer("https://broker.example", Keyring([TimedSigner(FileSigner(ec_key()), NOON)]), ManualClock())
    with pytest.raises(Refused) as caught:
        said.for_job(job, "production", "warehouse", "https://vault", session_id="a" * 26, aws=False)
    assert caught.value.code is Code.TEMPLATE_VALUE
    fitting = await verifier.verify(workload_token("generic"), moment())
    said.for_job(fitting, "production", "warehouse", "https://vault", session_id="a" * 26, aws=False)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("github", {"repository_id": "75"}),
        ("github", {"repository": "octo-org/octo-repo", "repository_id": "999"}),
        ("github", {"ref": "refs/heads/x"}),
        ("github", {"ref_protected": "false"}),
        ("github", {"event_name": "pull_request", "ref": "refs/pull/7/merge"}),
        ("github", {"event_name": "pull_request_target"}),
        ("github", {"event_name": "workflow_run"}),
        ("github", {"event_name": "issue_comment"}),
        ("github", {"environment": "Production"}),
        ("okta", {"cid": "0oaother", "sub": "0oaother"}),
        ("okta", {"sub": "a.person@example.com", "uid": "00u1"}),
        ("okta", {"scp": ["etl.read", "etl.running"]}),
        ("okta", {"scp": ["etl.run etl.read"]}),
        ("okta", {"scp": []}),
        ("kubernetes", {"kubernetes.io": inside(serviceaccount={"name": "orders", "uid": ACCOUNT_UID[:-1] + "9"})}),
        ("kubernetes", {"kubernetes.io": inside(namespace="etl2"), "sub": "system:serviceaccount:etl2:orders"}),
        ("kubernetes", {"kubernetes.io": inside(namespace="ETL"), "sub": "system:serviceaccount:ETL:orders"}),
        ("generic", {"sub": "pipeline/0183a2e1/main/x"}),
        ("generic", {"organization_slug": "Acme"}),
        ("generic", {"organization_slug": True}),
        ("generic", {"groups": ["etl-production", "etl"]}),
        ("generic", {"groups": "etl-prod,etl"}),
        ("generic", {"agent": {"tags": {"queue": "review"}}}),
        ("generic", {"agent": {"tags": ["deploy"]}}),
        ("generic", {"agent": {}, "/agent/tags/queue": "deploy"}),
    ],
)
async def test_a_claim_that_is_not_as_it_should_be_keeps_a_workload_out(
    verifier: TokenVerifier, kind: str, changes: dict[str, Any]
) -> None:
    """Ids exactly, lists by whole elements, pointers by what is inside and nothing else."""
    decision = decide(policy(), await verifier.verify(token(kind, **changes), moment()), None)
    assert isinstance(decision, Deny)
    assert decision.code is Code.NO_ENVIRONMENT


@pytest.mark.parametrize(
    ("issuer", "lines", "words"),
    [
        ("our-github", 'when.repository = "octo-org/octo-repo"', "when.repository_id or when.repository_owner_id"),
        ("our-okta", 'when.groups = "etl"', "add when.cid"),
        ("our-kubernetes", 'when."/kubernetes.io/namespace" = "etl"', 'when."/kubernetes.io/serviceaccount/uid"'),
        ("our-generic", 'when.organization_slug = "acme"', "add when.sub"),
        ("our-generic", 'when.sub = "acme/*"', "compared exactly"),
        ("our-github", 'when.repository_id = "*"', "compared exactly"),
        ("our-kubernetes", f'when."/kubernetes.io/serviceaccount/uid" = "{ACCOUNT_UID}"\nwhen.ref = "x"', "no such claim"),
        ("our-kubernetes", 'when."kubernetes.io" = "x"', "nothing is decided on this claim"),
        ("our-okta", 'when.cid = "0oa1"\nwhen.project_id = "20"', "no such claim"),
    ],
)
def test_an_environment_pins_the_stable_id_of_its_issuers_kind(issuer: str, lines: str, words: str) -> None:
    """Names of repositories, namespaces and groups can be taken by others."""
    text = f'version = 1\n[[environment]]\nname = "e"\nwhen.issuer = "{issuer}"\n{lines}\n'
    with pytest.raises(PolicyInvalid) as caught:
        policy(text + '[[grant]]\nname = "g"\nenvironments = ["e"]\n[grant.vault]\nrole = "r"\npath = "a/b"\n')
    assert words in str(caught.value), caught.value


def test_a_files_projects_are_gitlabs() -> None:
    """`project_id` at the top of a file pins nothing of another kind of issuer, so it may not stand over one."""
    with pytest.raises(PolicyInvalid, match="github tokens have no project_id"):
        policy(POLICY.replace("version = 1", 'version = 1\nproject_id = ["20"]'))
    only = POLICY[: POLICY.index('[[environment]]\nname = "github')] + POLICY[POLICY.index("[[grant]]") :]
    only = only.replace('"github-production", "okta-production", "kubernetes-production", "generic-production",', "")
    assert policy(only.replace("version = 1", 'version = 1\nproject_id = ["20"]')).environments


def test_a_claim_inside_an_object_has_its_line_and_its_trail() -> None:
    """A problem with it is found at its own line; the explanation names it as the policy does."""
    with pytest.raises(PolicyInvalid) as caught:
        policy(POLICY.replace('when."/kubernetes.io/namespace" = "etl"', 'when."/kubernetes.io/namespaec" = "etl"'))
    line = 1 + POLICY[: POLICY.index("/kubernetes.io/namespace")].count("\n")
    (problem,) = caught.value.problems
    assert problem.line == line
    assert "/kubernetes.io/namespace" in problem.instead
    shown = explain(policy(), "our-kubernetes", claims_of("kubernetes", **{"kubernetes.io": inside(namespace="other")}))
    (trail,) = shown.trails
    assert [(step.claim, step.value) for step in trail.missing] == [("/kubernetes.io/namespace", "other")]
    assert shown.pins == {"/kubernetes.io/serviceaccount/uid": ACCOUNT_UID}


@pytest.mark.parametrize("kind", [kind for kind in PROFILES if kind != "generic"])
def test_an_explanation_agrees_with_the_decision(kind: str) -> None:
    """For each kind, from the token's own JSON."""
    claims = base_claims() if kind == "gitlab" else claims_of(kind)
    issuer = "gitlab" if kind == "gitlab" else f"our-{kind}"
    assert isinstance(explain(policy(), issuer, claims).decision, Allow)


async def test_a_generic_claim_of_any_name_is_explained(verifier: TokenVerifier) -> None:
    """Its table has no end, and the explanation knows what the token has."""
    shown = explain(policy(), "our-generic", claims_of("generic", organization_slug="evil"))
    assert [(step.claim, step.value) for step in shown.trails[0].missing] == [("organization_slug", "evil")]
    assert isinstance(explain(policy(), "our-generic", claims_of("generic")).decision, Allow)
    await verifier.verify(workload_token("generic"), moment())
    assert verifier.unknown_claims["our-generic"] == 0  # every text is known there
    await verifier.verify(workload_token("okta", custom="x"), moment())
    assert verifier.unknown_claims["our-okta"] == 1


async def test_templates_take_ids_of_every_kind(verifier: TokenVerifier) -> None:
    """`{project_id}` is the stable id; one with a slash in it fits no role, and is refused there."""
    text = POLICY.replace('path = "database/creds/etl-{environment}"', 'path = "database/creds/{project_id}"')
    grant = granted(policy(text), "warehouse")
    for kind, stable_id in (("github", "74"), ("okta", "0oa2hl2inow5Uqc6c357"), ("kubernetes", ACCOUNT_UID)):
        job: JobIdentity = await verifier.verify(token(kind), moment())
        target = fill(grant, f"{kind}-production", job, "")
        assert str(target).count(f"database/creds/{stable_id}") == 1
    other = await verifier.verify(token("generic"), moment())
    with pytest.raises(Refused, match="project_id is 'pipeline/0183a2e1/main'") as caught:
        fill(grant, "generic-production", other, "")
    assert caught.value.code is Code.TEMPLATE_VALUE
    unused = fill(granted(policy(), "warehouse"), "generic-production", other, "")
    assert "database/creds/etl-generic-production" in str(unused)


@pytest.mark.parametrize("kind", PROFILES)
async def test_a_refused_token_of_any_kind_is_known_by_its_stable_id_in_our_log(verifier: TokenVerifier, kind: str) -> None:
    """Its signature holds, its hours are over: whose it was is its issuer's word, also where that is inside an object."""
    now = int(NOON.timestamp())
    with pytest.raises(SignedRefusal) as caught:
        await verifier.verify(token(kind, iat=now - 300, nbf=now - 300, exp=now - 60), moment())
    assert caught.value.code is Code.TOKEN_EXPIRED
    job = await verifier.verify(token(kind), moment())
    assert (caught.value.proven.issuer_name, caught.value.proven.stable_id) == (job.issuer_name, job.stable_id)
    assert "octocat" not in str(dict(caught.value.proven.claims))


async def test_a_key_is_good_for_the_algorithms_of_its_issuer_alone(tmp_path: Path) -> None:
    """One document with an RSA and an elliptic key: Kubernetes takes both, GitHub the first only, neither takes the other's."""
    keys = jwks_file(tmp_path, jwks(json.loads(jwks())["keys"][0], ec_jwk()))
    own = [workload_settings(kind, keys) for kind in ("kubernetes", "github", "generic")]
    both = TokenVerifier([(each, Keys(each)) for each in own])
    assert (await both.verify(workload_token("kubernetes"), moment())).kid != "ec"
    assert (await both.verify(ec_token(claims_of("kubernetes")), moment())).kid == "ec"
    assert (await both.verify(ec_token(claims_of("generic")), moment())).kid == "ec"
    with pytest.raises(Refused, match="not signed with an algorithm that its issuer uses"):
        await both.verify(ec_token(claims_of("github")), moment())
    with pytest.raises(Refused, match="does not hold"):  # an RSA token under the elliptic key's name
        await both.verify(workload_token("kubernetes", header={"kid": "ec"}), moment())
    assert AUDIENCE in claims_of("kubernetes")["aud"]
