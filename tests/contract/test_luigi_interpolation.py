"""`${secret:…}` in real luigi.cfg files: resolved once per read, in one pass, only where it belongs."""

# mypy: allow-untyped-calls
# Luigi types neither its tasks' constructors nor get_config().

import configparser
import warnings
from pathlib import Path

import luigi
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from luigi.configuration import add_config_path, get_config
from luigi.configuration.cfg_parser import (
    CombinedInterpolation,
    EnvironmentInterpolation,
    InterpolationMissingEnvvarError,
    LuigiConfigParser,
)
from luigi.notifications import smtp

import luigi_contrib_secrets as secrets
from luigi_contrib_secrets.client import client
from luigi_contrib_secrets.interpolation import SecretInterpolation
from tests.fakes.broker_wire import FakeGrant
from tests.fakes.luigi_job import LuigiJob


@pytest.fixture
def job(inside_job: LuigiJob) -> LuigiJob:
    inside_job.wire.grants["mail"] = FakeGrant(data={"password": "p%4x"})
    inside_job.open_session()
    return inside_job


def read(job: LuigiJob, text: str, section: str = "smtp", option: str = "password") -> str:
    job.configure(text)
    config = get_config()
    config.clear()
    config.reload()
    value = config.get(section, option)
    assert isinstance(value, str)
    return value


@pytest.mark.filterwarnings("ignore:Parameter .* is not of type string:UserWarning")
def test_luigis_own_section_reads_the_live_value_and_rotates(job: LuigiJob) -> None:
    """`smtp()` is read at each mail: the next one has the new password."""
    read(job, "[smtp]\nusername = me\npassword = ${secret:mail#password}\n")
    assert smtp().password == "p%4x"
    job.wire.grants["mail"].data = {"password": "new"}
    job.wire.rotate("mail")
    client()._entry(secrets.Reference.parse("secret://mail")).drop()
    assert smtp().password == "new"


def test_a_section_that_is_read_often_asks_once(job: LuigiJob) -> None:
    read(job, "[smtp]\npassword = ${secret:mail#password}\n")
    for _ in range(20):
        dict(get_config()["smtp"].items())
    assert job.fetches("mail") == 1


def test_a_value_of_several_parts(job: LuigiJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_USER", "me")
    text = "[smtp]\nhost = db\npassword = %(host)s://${SMTP_USER}:${secret:mail#password}@100%%\n"
    assert read(job, text) == "db://me:p%4x@100%"


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.sampled_from(["%", "%(host)s", "${HOME}", "${secret:mail#password}", "a\nb = c\n[x]", "\\1\\g<0>", "$", "}{", "%%"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    )
)
def test_a_value_is_taken_as_it_is_whatever_is_in_it(job: LuigiJob, value: str) -> None:
    """`%`, `${…}`, newlines, backslashes: nothing scans what a secret brings (L17)."""
    job.wire.grants["mail"].data = {"password": value}
    job.wire.rotate("mail")
    client()._entry(secrets.Reference.parse("secret://mail")).drop()
    text = "[smtp]\nhost = db\npassword = ${secret:mail#password}\nurl = %(host)s:${secret:mail#password}!\n"
    assert read(job, text) == value
    assert get_config().get("smtp", "url") == f"db:{value}!"


def test_a_missing_variable_is_luigis_own_error_still(job: LuigiJob) -> None:
    with pytest.raises(InterpolationMissingEnvvarError, match="NO_SUCH_VARIABLE"):
        read(job, "[smtp]\npassword = ${NO_SUCH_VARIABLE}\n")


def test_raw_shows_the_reference(job: LuigiJob) -> None:
    read(job, "[smtp]\npassword = ${secret:mail#password}\n")
    assert get_config().get("smtp", "password", raw=True) == "${secret:mail#password}"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("${secret:mail}", r"it ends in #<field>"),
        ("${secret:Mail#hunter2}", "does not have the shape"),
        ("${secret:}", "does not have the shape"),
        ("${secret:nope#password}", r"secret://nope: .*\[grant_unknown\]"),
        ("x${secret:mail#nope}x", "has no field 'nope'"),
    ],
)
def test_only_a_secret_error_is_raised_and_not_the_default_taken(job: LuigiJob, written: str, says: str) -> None:
    """Not even where a default is at hand: `get(…, default)` swallows configparser's errors, and none of ours."""
    with pytest.raises(secrets.SecretError, match=says) as error:
        read(job, f"[smtp]\npassword = {written}\n")
    assert "hunter2" not in str(error.value)
    with pytest.raises(secrets.SecretError):
        get_config().get("smtp", "password", "default")


def test_our_own_section_resolves_nothing(job: LuigiJob) -> None:
    """The client reads it to know how to fetch: it would ask itself for ever."""
    read(job, "[secrets]\nurl = ${secret:mail#password}\n[smtp]\npassword = ${secret:mail#password}\n", "core", "autoload_range")
    with pytest.raises(secrets.SecretMisconfigured, match=r"\[secrets\] in luigi.cfg has no \$\{secret:…\}"):
        get_config().get("smtp", "password")


# -- a task's own section ---------------------------------------------------------------------------------------------------


class Interpolated(luigi.Task):
    password = luigi.Parameter(significant=False)


class Referenced(luigi.Task):
    password = secrets.SecretParameter()


def test_in_a_tasks_section_it_warns_and_says_what_to_write_instead(job: LuigiJob) -> None:
    """Once per key: Luigi reads it again at every turn."""
    job.configure("[Interpolated]\npassword = ${secret:mail#password}\n")
    get_config().reload()
    with pytest.warns(secrets.SecretInTaskSectionWarning, match=r"SecretParameter and write secret://mail#password there"):
        task = Interpolated()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repr(task)
    assert task.password == "p%4x"


def test_a_secret_parameter_takes_its_reference_back_out_of_it(job: LuigiJob) -> None:
    """The mistake then costs a warning and leaks nothing: the parameter holds the reference."""
    job.configure("[Referenced]\npassword = ${secret:mail#password}\n")
    get_config().reload()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", secrets.SecretInTaskSectionWarning)
        task = Referenced()
    assert task.to_str_params() == {"password": "secret://mail#password"}
    assert task.password == "p%4x"


def test_a_reference_in_a_tasks_section_does_not_warn(job: LuigiJob) -> None:
    job.configure("[Referenced]\npassword = secret://mail#password\n")
    get_config().reload()
    luigi.task_register.Register.clear_instance_cache()
    assert Referenced().password == "p%4x"


def test_no_section_is_a_task_that_luigi_does_not_know(job: LuigiJob) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(job, "[nobody]\npassword = ${secret:mail#password}\n", "nobody") == "p%4x"


# -- installing it ----------------------------------------------------------------------------------------------------------

CFG = "[smtp]\npassword = ${secret:mail#password}\n"


def test_it_survives_a_reload_another_path_and_a_new_parser(
    job: LuigiJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """R13, for cfg files."""
    assert read(job, CFG) == "p%4x"
    get_config().reload()
    assert get_config().get("smtp", "password") == "p%4x"
    other = tmp_path / "other.cfg"
    other.write_text("[presto]\npassword = ${secret:mail#password}\n")
    assert add_config_path(str(other))
    assert get_config().get("presto", "password") == "p%4x"
    monkeypatch.setattr(LuigiConfigParser, "_instance", None)
    assert get_config().get("smtp", "password") == "p%4x"


def test_installing_twice_is_installing_once(job: LuigiJob) -> None:
    before = LuigiConfigParser._DEFAULT_INTERPOLATION
    secrets.install()
    assert LuigiConfigParser._DEFAULT_INTERPOLATION is before
    assert read(job, CFG) == "p%4x"


def test_somebody_elses_interpolation_is_kept(job: LuigiJob, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shout(configparser.Interpolation):
        def before_get(self, parser, section, option, value, defaults):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - configparser's
            return value.replace("mail", "lake").replace("#password", "#region")

    theirs = CombinedInterpolation([configparser.BasicInterpolation(), Shout(), EnvironmentInterpolation()])
    monkeypatch.setattr(LuigiConfigParser, "_DEFAULT_INTERPOLATION", theirs)
    monkeypatch.setattr(LuigiConfigParser, "_instance", None)
    secrets.install()
    assert read(job, CFG) == "eu-central-1"


def test_a_parser_with_one_stage_gets_a_chain(monkeypatch: pytest.MonkeyPatch, job: LuigiJob) -> None:
    monkeypatch.setattr(LuigiConfigParser, "_DEFAULT_INTERPOLATION", configparser.BasicInterpolation())
    secrets.install()
    stages = LuigiConfigParser._DEFAULT_INTERPOLATION._interpolations
    assert isinstance(stages[-1], SecretInterpolation)
    assert read(job, CFG) == "p%4x"


@pytest.mark.parametrize(
    "order",
    [
        "import luigi, luigi_contrib_secrets",
        "import luigi_contrib_secrets, luigi",
        "import luigi; luigi.configuration.get_config(); import luigi_contrib_secrets",
    ],
)
def test_the_order_of_imports_does_not_matter(job: LuigiJob, order: str) -> None:
    job.configure(CFG)
    ran = job.python(f"{order}\nprint(luigi.configuration.get_config().get('smtp', 'password'))")
    assert (ran.code, ran.output.strip()) == (0, "p%4x")
