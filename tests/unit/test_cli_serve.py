"""`credbroker serve`, as far as it goes before anything is served."""

from pathlib import Path

from click.testing import CliRunner

from broker.cli.serve import serve


def test_check_prints_every_problem_and_exits_with_78(tmp_path: Path) -> None:
    """On stderr, one a line, no traceback."""
    path = tmp_path / "broker.toml"
    path.write_text('public_url = "http://x.example.com"\nlistn = 1\n')
    result = CliRunner().invoke(serve, ["--config", str(path), "--check"])
    assert result.exit_code == 78
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert any(line.startswith("broker.toml:1: public_url") for line in lines)
    assert any("unknown key 'listn'; did you mean 'listen'?" in line for line in lines)
    assert "Traceback" not in result.output


def test_serving_a_bad_file_exits_the_same_way(tmp_path: Path) -> None:
    """Before anything is opened."""
    result = CliRunner().invoke(serve, ["--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 78
    assert "cannot be read" in result.stderr


def test_help_has_an_example() -> None:
    """And a config has to be named."""
    result = CliRunner().invoke(serve, ["--help"])
    assert result.exit_code == 0
    assert "credbroker serve --config broker.toml --check" in result.stdout
    assert CliRunner().invoke(serve, []).exit_code == 2
