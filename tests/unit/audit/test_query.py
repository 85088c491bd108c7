from datetime import timedelta
from typing import Any

import pytest

from broker.audit.facets import parsed
from broker.audit.query import Line, Query, told
from tests.strategies import NOON
from tests.unit.audit.samples import Script

ISSUED = Script().issued("intent-1")


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        ({"project": "4711"}, {"project": "4712"}),
        ({"project": "group/etl"}, {"project": "group"}),
        ({"job": "900"}, {"job": "901"}),
        ({"session": "session-1"}, {"session": "session-2"}),
        ({"environment": "production"}, {"environment": "review"}),
        ({"grant": "lake"}, {"grant": "warehouse"}),
        ({"kind": "issued"}, {"kind": "denied"}),
        ({"credential": "accessor-1"}, {"credential": "accessor"}),
        ({"credential": "lease-1"}, {"credential": "req-2"}),
        ({"since": NOON}, {"since": NOON + timedelta(seconds=1)}),
        ({"until": NOON + timedelta(seconds=1)}, {"until": NOON}),
    ],
)
def test_each_condition_takes_its_own_and_leaves_the_others(wanted: dict[str, Any], other: dict[str, Any]) -> None:
    assert Query(**wanted).matches(ISSUED.facets)
    assert not Query(**other).matches(ISSUED.facets)


def test_every_kind_can_be_told_in_one_line() -> None:
    lines = {entry.kind: told(7, parsed(entry.body)) for entry in Script().day()}
    assert lines["issued"] == Line(
        "2026-11-23 12:00:00",
        "issued",
        "group/etl#900",
        "production/lake",
        "lease_id database/creds/etl/abc, version 1, until 2026-11-23T13:00:00Z",
    )
    assert lines["rollup"].what == "7 x token_signature on https"
    assert lines["policy_loaded"].what == "policy sha256:abc"
    assert lines["intent_failed"].what == "upstream_denied, 403 permission denied"
    assert all("\n" not in line.what and line.what for line in lines.values())
