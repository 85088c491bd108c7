"""Every setting of broker.toml is shown in the example, in use or in a comment, with the bounds that hold."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomllib

from broker.config import ConfigInvalid, load
from broker.config.model import Limits
from broker.config.table import Table
from broker.policy.model import Rate
from tests.docs.pages import ROOT

EXAMPLE = (ROOT / "deploy/broker.toml").read_text()
_COMMENTED = re.compile(r"^# (\w+ *= *)", re.MULTILINE)
_BOUNDS = re.compile(r"^(?:# )?(\w+) *= *(\S+) +# (\w+) to (\w+):", re.MULTILINE)
COMMENTED = [match.start() for match in _COMMENTED.finditer(EXAMPLE)]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Puts the text where every file it names is."""
    for name in ("policy/policy.toml", "tls.crt", "tls.key", "ca.pem", "jwks.json", "keys/log.pem", "keys/store.key"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for folder in ("run", "admin", "lib", "keys/issuer"):
        (tmp_path / folder).mkdir(mode=0o700)

    def written(text: str) -> Path:
        for there, here in (
            ("/run/credbroker-admin/", "admin/"),
            ("/run/credbroker/", "run/"),
            ("//var/lib/credbroker/", "/lib/"),
        ):
            text = text.replace(there, here)
        (tmp_path / "broker.toml").write_text(text)
        return tmp_path / "broker.toml"

    return written


def _shown() -> dict[str, set[str]]:
    """The keys of each table, upstreams told apart by their kind."""
    found: dict[str, set[str]] = defaultdict(set)

    def walk(name: str, table: Mapping[str, Any]) -> None:
        name += f" {table['kind']}" if name == "upstream" else ""
        found[name].update(table)
        for key, value in table.items():
            inner = value if isinstance(value, list) else [value]
            for one in inner:
                if isinstance(one, dict):
                    walk(key, one)

    walk("", tomllib.loads(_COMMENTED.sub(r"\1", EXAMPLE)))
    found["https"].update(re.findall(r"(\w+) = ", next(line for line in EXAMPLE.splitlines() if line.startswith("https"))[5:]))
    found["https"].discard("https")
    return dict(found)


def test_every_key_that_the_broker_takes_is_in_the_example(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for while the example is read is what is known; a key that no longer is keeps the example from loading."""
    asked: dict[str, set[str]] = defaultdict(set)
    refuse_others = Table.refuse_others

    def noted(table: Table) -> None:
        name = next((step for step in reversed(table._path) if isinstance(step, str)), "")
        name += f" {table._data['kind']}" if name == "upstream" else ""
        asked[name] |= table._asked
        refuse_others(table)

    monkeypatch.setattr(Table, "refuse_others", noted)
    load(write(EXAMPLE))
    assert {"", "listen", "https", "upstream aws", "limits"} < asked.keys()
    assert _shown() == asked


@pytest.mark.parametrize("start", COMMENTED, ids=[EXAMPLE[start + 2 :].split(" ", 1)[0] for start in COMMENTED])
def test_each_setting_in_a_comment_is_taken_as_it_stands(write: Any, start: int) -> None:
    load(write(EXAMPLE[:start] + EXAMPLE[start + 2 :]))


def test_the_bounds_that_the_example_names_are_the_ones_that_hold(write: Any) -> None:
    """At each bound a value is taken, and just outside it is not."""
    bounds = _BOUNDS.findall(EXAMPLE)
    assert {"body_bytes", "token_chars", "request_seconds", "concurrency", "leeway", "max_lifetime", "rotate_every"} == {
        key for key, *_ in bounds
    }
    for key, value, low, high in bounds:
        line = re.compile(rf"^(# )?{key} *= *\S+", re.MULTILINE)
        inside, outside = (low, high), _outside(low, high)
        if value.startswith('"'):
            inside, outside = (f'"{low}"', f'"{high}"'), (f'"{outside[0]}"', f'"{outside[1]}"')
        for taken in inside:
            load(write(line.sub(f"{key} = {taken}", EXAMPLE, count=1)))
        for refused in outside:
            with pytest.raises(ConfigInvalid, match=f"{key}"):
                load(write(line.sub(f"{key} = {refused}", EXAMPLE, count=1)))


def _outside(low: str, high: str) -> tuple[str, str]:
    if low.isdecimal():
        return str(int(low) - 1), str(int(high) + 1)
    return ("59s" if low == "1m" else "0s"), f"{high}1s"


def test_the_limits_in_comments_are_the_defaults(write: Any) -> None:
    said = tomllib.loads(_COMMENTED.sub(r"\1", EXAMPLE))["limits"]
    assert said.pop("rotate_every")  # an example: its default is none
    rate = Rate.parse(said.pop("project_rate"))
    assert load(write(EXAMPLE)).limits == Limits(**said, project_rate=rate, rotate_every=None)
