"""TOML with the line of every key."""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import toml_lines
from broker.toml_lines import KeyPath, locate
from broker.toml_source import (
    Problem,
    SourceInvalid,
    did_you_mean,
    duration,
    parse,
    read_text,
    reader_beside,
)

# --- documents written with their lines known beforehand ----------------------------------------------------------------

_ODD_NAMES = ["with space", "do.t", 'quo"te', "", "#hash", "[x]", "ü", "a=b"]
_NAMES = st.text("ab-_1", min_size=1, max_size=3) | st.sampled_from(_ODD_NAMES)
_QUOTED = st.booleans()


@dataclass
class Writer:
    """Writes TOML, and notes for every path the line it has just been written on."""

    text: str = ""
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def note(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)


def _spelled(name: str, quoted: bool) -> str:
    if quoted or not name or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
        if '"' in name or quoted:
            return '"' + name.replace("\\", "\\\\").replace('"', '\\"').replace("ü", "\\u00fc") + '"'
        return f"'{name}'"
    return name


_SCALARS = st.sampled_from(
    [
        "1", "true", "1979-05-27 07:32:00", '"x # no comment"', "'[not.a.table]'", '"""\n[no]\nkey = 1\n"""', "'''\na = 1\n'''",
        '"""ends in quotes"""""', '"""an escaped \\""" within\n"""', '""', "''", '""""""', '"\\\\"', "'''it''s'''",
        '"]"', '"}"', "-0.5",
    ]
)  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> Writer:
    out = Writer()
    taken: set[KeyPath] = set()

    def filler() -> None:
        out.text += draw(st.sampled_from(["", "", "\n", "# [comment]\n", "  \t# x = 1\n\n"]))

    def value(path: KeyPath, depth: int, inline: bool) -> None:
        kind = draw(st.sampled_from(["scalar", "scalar", "array", "table"] if depth < 3 else ["scalar"]))
        if kind == "scalar":
            out.text += draw(_SCALARS)
        elif kind == "array":
            out.text += "["
            count = draw(st.integers(0, 3))
            for index in range(count):
                out.text += draw(st.sampled_from(["", " ", "\n", "\n # c ]\n", " \n\n"]))
                out.note((*path, index))
                value((*path, index), depth + 1, inline)
                out.text += draw(st.sampled_from(["", "\n", "# c\n"]))
                if index < count - 1 or draw(st.booleans()):
                    out.text += ","
            out.text += draw(st.sampled_from(["", "\n"])) + "]"
        else:
            out.text += "{" + draw(st.sampled_from(["", " "]))
            names = draw(st.lists(_NAMES, max_size=3, unique=True))
            for index, name in enumerate(names):
                out.text += ", " if index else ""
                out.note((*path, name))
                out.text += _spelled(name, draw(_QUOTED)) + " = "
                value((*path, name), depth + 1, inline=True)
            out.text += " }"

    def pairs(table: KeyPath) -> None:
        for name in draw(st.lists(_NAMES, max_size=3, unique=True)):
            keys = [name, *draw(st.lists(_NAMES, max_size=2))]
            if any((*table, *keys[:n]) in taken for n in range(1, len(keys) + 1)):
                continue
            taken.update((*table, *keys[:n]) for n in range(1, len(keys) + 1))
            filler()
            for n in range(1, len(keys) + 1):
                out.note((*table, *keys[:n]))
            dot = draw(st.sampled_from([".", " . "]))
            out.text += dot.join(_spelled(key, draw(_QUOTED)) for key in keys) + draw(st.sampled_from(["=", " = ", "\t="]))
            value((*table, *keys), 0, inline=False)
            out.text += draw(st.sampled_from(["\n", " # trailing = 1\n"]))

    pairs(())
    for number in range(draw(st.integers(0, 3))):
        filler()
        name = f"t{number}"
        if draw(st.booleans()):
            out.note((name,))
            out.note((name, "sub"))
            out.text += f"[ {name} . 'sub' ] # c\n"
            pairs((name, "sub"))
        else:
            for element in range(draw(st.integers(1, 3))):
                out.note((name,))
                out.note((name, element))
                out.text += f"[[{name}]]\n"
                pairs((name, element))
                if draw(st.booleans()):
                    out.note((name, element, "zz"))
                    out.note((name, element, "zz", "yy"))
                    out.text += f'[{name}.zz."yy"]\n'
                    pairs((name, element, "zz", "yy"))
    return out


def _paths(value: object, path: KeyPath = ()) -> set[KeyPath]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for name, inner in value.items():
            found |= _paths(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found |= _paths(inner, (*path, index))
    return found


@given(documents(), st.booleans())
def test_every_path_of_a_document_stands_where_its_key_is_written(document: Writer, windows: bool) -> None:
    """For tables, arrays of tables, dotted and quoted keys, inline and multi-line values, and both line endings."""
    source = parse(document.text.replace("\n", "\r\n") if windows else document.text, "x.toml")
    assert _paths(source.data) == set(document.lines)
    assert locate(source.text) == document.lines


@given(st.text("[]{}\"'=.,#ab1 \n\\", max_size=60))
def test_random_text_is_a_document_with_lines_or_a_problem_with_a_line(text: str) -> None:
    """Never another exception; and whatever parses, the locator finds every path of it."""
    try:
        source = parse(text, "x.toml")
    except SourceInvalid as invalid:
        assert 1 <= invalid.problems[0].line <= text.count("\n") + 1  # noqa: PT017  either outcome is right
    else:
        assert _paths(source.data) <= set(locate(source.text))


def test_no_pattern_has_a_possessive_repeat() -> None:
    """Python 3.11.2, which Debian 12 has, misreads a group in one; this suite mostly runs on a newer one."""
    for pattern in toml_lines._STRINGS:
        assert not any(possessive in pattern.pattern for possessive in ("*+", "++", "?+", "}+", "(?>"))


# --- by hand --------------------------------------------------------------------------------------------------------------


def test_a_table_written_after_its_children_stands_where_it_is_written() -> None:
    source = parse("[a.b]\n\n[a]\nx = 1\n", "x.toml")
    assert source.line_of(("a",)) == 3
    assert source.line_of(("a", "b")) == 1


def test_a_missing_key_stands_with_the_table_it_is_missing_from() -> None:
    source = parse("\n[[environment]]\nname = 'x'\n", "x.toml")
    assert source.line_of(("environment", 0, "when", "issuer")) == 2
    assert source.line_of(("grant",)) == 1
    assert str(source.problem(("environment", 0, "name"), "no", "yes")) == "x.toml:3: no; yes"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a = 1\nb = \n", 2, "invalid value"),
        ("a = 1\na = 2\n", 2, "cannot overwrite a value"),
        ("a = [1 2]\n", 1, "unclosed array"),
        ("[[a]\n", 1, "expected"),
        ('x = """\n\n', 2, "unterminated string|expected"),
    ],
)
def test_a_syntax_error_is_a_problem_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(SourceInvalid, match=f"(?i)this is not TOML: .*({words})") as caught:
        parse(text, "policy.toml")
    assert caught.value.problems[0].file == "policy.toml"
    assert caught.value.problems[0].line == line


def test_what_python_cannot_hold_is_a_problem_and_not_a_crash() -> None:
    """Nesting beyond the stack, and integers beyond the interpreter's limit of digits."""
    with pytest.raises(SourceInvalid, match="nested too deeply"):
        parse("a = " + "[" * 100_000, "x.toml")
    with pytest.raises(SourceInvalid, match="cannot be read"):
        parse("a = " + "1" * 5_000, "x.toml")


def test_problems_come_once_and_in_the_order_of_their_lines() -> None:
    late, early = Problem("x.toml", 9, "b"), Problem("x.toml", 2, "a")
    assert SourceInvalid([late, early, late]).problems == (early, late)
    assert str(SourceInvalid([late, early])) == "x.toml:2: a\nx.toml:9: b"


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("ü = 1", encoding="utf-8")
    bad.write_bytes(b"a = 1\nb = '\xff'\n")
    assert read_text(good) == "ü = 1"
    with pytest.raises(SourceInvalid, match=r"bad\.toml:2: this line is not UTF-8 text"):
        read_text(bad)
    with pytest.raises(SourceInvalid, match="No such file"):
        read_text(tmp_path / "none.toml")
    with pytest.raises(SourceInvalid, match="cannot be read"):
        read_text("nul\0byte")


def test_a_file_beyond_the_limit_is_a_problem(tmp_path: Path) -> None:
    huge = tmp_path / "huge.toml"
    with huge.open("wb") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    with pytest.raises(SourceInvalid, match="the limit is 16777216"):
        read_text(huge)


def test_only_plain_names_beside_the_file_are_read(tmp_path: Path) -> None:
    """A policy does not reach out of its folder."""
    (tmp_path / "lake.json").write_text("{}")
    read = reader_beside(tmp_path / "policy.toml")
    assert read("lake.json") == "{}"
    for name in ("../lake.json", "/etc/passwd", "a/b.json", "", ".hidden", "lake.json\n"):
        with pytest.raises(SourceInvalid, match="is not a plain file name"):
            read(name)


def test_an_unknown_word_gets_the_closest_known_one_or_all_of_them() -> None:
    assert did_you_mean("max_sesion", ["max_session", "name"]) == "did you mean 'max_session'?"
    assert did_you_mean("zzz", ["b", "a"]) == "known are a, b"


def test_lengths_of_time_have_units() -> None:
    assert duration("90s") == timedelta(seconds=90)
    assert duration("1h30m") == timedelta(minutes=90)
    assert duration("30d") == timedelta(days=30)
    for text in ("", "90", "1 h", "-1h", "1.5h", "1H", "h", "0s", "1h\n", "\u0661h", "9999999d"):
        with pytest.raises(ValueError, match=r"is not a length of time|is no time at all"):
            duration(text)
