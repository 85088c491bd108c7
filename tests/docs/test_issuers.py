"""What docs/issuers.md says of each kind of issuer is what its profile does."""

import re

import pytest
import yaml

from broker.identity import jwks, keyset
from broker.identity.profiles import PROFILES
from broker.policy.decide import decide
from broker.policy.language import parse
from broker.policy.model import Allow
from tests.docs.pages import ROOT, blocks
from tests.fakes.workloads import workload

PAGE = (ROOT / "docs" / "issuers.md").read_text()
ROWS = {row[0].strip("` "): row for row in (line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `"))}


def _told(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def test_every_profile_has_its_row() -> None:
    assert set(ROWS) == set(PROFILES)


@pytest.mark.parametrize("kind", PROFILES)
def test_a_row_says_what_the_profile_does(kind: str) -> None:
    _, _, stable_id, pins, audience, known_by, longest, algorithms = ROWS[kind]
    profile = PROFILES[kind]
    assert _told(stable_id) == {profile.stable_id}
    assert _told(pins) == set(profile.pins) - {profile.stable_id}
    assert audience.strip().startswith("a list" if profile.audience_list else "one text")
    assert int(longest.split()[0]) * 3600 == profile.longest.total_seconds()
    assert set(algorithms.replace(",", " ").split()) == profile.algorithms
    assert ("digest" in known_by) is (kind in ("kubernetes", "generic"))


def test_the_limits_on_keys_are_those_that_are_kept() -> None:
    assert f"{keyset.MAX_BYTES // 1024} KiB and {keyset.MAX_KEYS} keys" in PAGE
    assert jwks.COOL_DOWN.total_seconds() == 30
    assert jwks.REFRESH_AGE.total_seconds() == 1800
    assert jwks.MAX_AGE.total_seconds() == 3600


@pytest.mark.parametrize("kind", ["github", "okta", "kubernetes"])
def test_the_policy_that_is_shown_admits_the_token_that_is_documented(kind: str) -> None:
    """Under the issuer's name as the page has it."""
    text = next(b.text for b in blocks("toml") if b.page == "docs/issuers.md" and f'when.issuer = "{kind}"' in b.text)
    policy = parse(text, "policy.toml", lambda name: name, issuers={kind: kind})
    (environment,) = policy.environments
    assert environment.pinned_by == PROFILES[kind].stable_id
    job = workload(kind)
    renamed = type(job).from_record(job.to_record() | {"issuer_name": kind})
    assert isinstance(decide(policy, renamed, None), Allow)


def test_the_list_of_events_is_the_profiles() -> None:
    said = re.search(r"`when.event_name` takes (.*?)\. Pull requests", PAGE, re.DOTALL)
    assert said is not None
    assert _told(said[1]) == PROFILES["github"].open_sources


def test_the_projected_volume_is_kubernetes_own() -> None:
    (block,) = (b for b in blocks("yaml") if b.text.startswith("volumes:"))
    (volume,) = yaml.safe_load(block.text)["volumes"]
    (source,) = volume["projected"]["sources"]
    assert set(source["serviceAccountToken"]) == {"path", "audience", "expirationSeconds"}
    assert 600 <= source["serviceAccountToken"]["expirationSeconds"] <= PROFILES["kubernetes"].longest.total_seconds()


def test_every_sign_that_a_subject_may_have_is_told() -> None:
    """As `broker.assertions` has them."""
    from broker.assertions import _SUBJECT_PART

    said = re.search(r"letters, digits and `([^`]+)`", PAGE)
    assert said is not None
    for sign in (chr(code) for code in range(33, 127)):
        assert (_SUBJECT_PART.fullmatch(sign) is not None) is (sign.isalnum() or sign in said[1].split()), sign
