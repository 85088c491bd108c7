from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from broker.audit import rollup
from broker.audit.rollup import OWN_ENTRIES, BoundedDenials
from broker.errors import Code
from broker.moment import Moment
from tests.strategies import NOON
from tests.unit.audit.samples import an_identity


def _at(seconds: float) -> Moment:
    return Moment(wall=NOON + timedelta(seconds=seconds), mono=1000 + seconds)


def test_a_token_without_a_signature_is_only_ever_counted() -> None:
    denials = BoundedDenials()
    for _ in range(3):
        denials.unsigned(Code.TOKEN_SIGNATURE, "https")
    denials.unsigned(Code.TOKEN_MALFORMED, "unix")
    assert denials.drain(_at(0)) == [("token_malformed", "unix", 1), ("token_signature", "https", 3)]
    assert denials.drain(_at(1)) == []


def test_twenty_denials_of_one_project_get_entries_and_the_rest_is_counted() -> None:
    denials = BoundedDenials()
    admitted = [denials.admit(an_identity(), Code.NO_ENVIRONMENT, "unix", _at(n)) for n in range(25)]
    assert admitted == [True] * OWN_ENTRIES + [False] * 5
    assert denials.drain(_at(25)) == [("no_environment", "unix", 5)]


def test_another_project_is_not_silenced_by_the_first() -> None:
    denials = BoundedDenials()
    for n in range(30):
        denials.admit(an_identity(), Code.NO_ENVIRONMENT, "unix", _at(n / 10))
    assert denials.admit(an_identity(stable_id="4712"), Code.NO_ENVIRONMENT, "unix", _at(4))
    assert denials.admit(an_identity(issuer="https://other.example.com"), Code.NO_ENVIRONMENT, "unix", _at(4))


def test_a_minute_later_there_is_room_again() -> None:
    denials = BoundedDenials()
    for n in range(OWN_ENTRIES):
        assert denials.admit(an_identity(), Code.NO_ENVIRONMENT, "unix", _at(n / 10))
    assert not denials.admit(an_identity(), Code.NO_ENVIRONMENT, "unix", _at(59.9))
    assert denials.admit(an_identity(), Code.NO_ENVIRONMENT, "unix", _at(60.0))
    assert not denials.admit(an_identity(), Code.NO_ENVIRONMENT, "unix", _at(60.05))


def test_too_many_projects_in_one_minute_are_counted_and_forgotten_later() -> None:
    """The memory bound: what does not fit is rolled up, and a quiet minute makes room."""
    denials = BoundedDenials()
    for n in range(rollup._MOST_SUBJECTS):
        assert denials.admit(an_identity(stable_id=str(n)), Code.NO_ENVIRONMENT, "unix", _at(0))
    assert not denials.admit(an_identity(stable_id="one more"), Code.NO_ENVIRONMENT, "unix", _at(30))
    assert denials.admit(an_identity(stable_id="0"), Code.NO_ENVIRONMENT, "unix", _at(30))
    assert denials.admit(an_identity(stable_id="one more"), Code.NO_ENVIRONMENT, "unix", _at(61))
    denials.drain(_at(200))
    assert not denials._admitted


@given(st.lists(st.floats(0, 20), max_size=120))
def test_never_more_than_twenty_in_any_minute(gaps: list[float]) -> None:
    """Whatever the rhythm, and every denial is either an entry or counted."""
    denials, now, entries = BoundedDenials(), 0.0, []
    for gap in gaps:
        now += gap
        if denials.admit(an_identity(), Code.GRANT_DENIED, "session", _at(now)):
            entries.append(now)
    assert all(later - first >= 60 - 1e-6 for first, later in zip(entries, entries[OWN_ENTRIES:], strict=False))
    assert sum(count for *_, count in denials.drain(_at(now))) + len(entries) == len(gaps)
