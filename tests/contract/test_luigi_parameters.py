"""Where Luigi keeps, prints, sends or compares a parameter there is a reference; where a task reads it there is the value."""

# mypy: allow-untyped-calls
# Luigi types neither its tasks' constructors nor get_config().

import pickle
from collections.abc import Iterator
from typing import Any

import luigi
import pytest
from luigi.parameter import ParameterVisibility
from luigi.task_register import Register, load_task
from luigi.util import inherits, requires

import luigi_contrib_secrets as secrets
from luigi_contrib_secrets.client import client
from tests.fakes.luigi_job import LuigiJob

REF = "secret://warehouse#password"


class Load(luigi.Task):
    day = luigi.Parameter(default="monday")
    user = secrets.SecretParameter(default="secret://warehouse#username")
    password = secrets.SecretParameter(default=REF)
    db = secrets.BundleParameter(default="secret://warehouse")


class Loud(luigi.Task):
    """The reference made significant, as for two tasks that differ in nothing else."""

    password = secrets.SecretParameter(default=REF, significant=True, visibility=ParameterVisibility.HIDDEN)


class Bare(luigi.Task):
    password = secrets.SecretParameter()


@inherits(Load)
class Inheriting(luigi.Task):
    def requires(self) -> Any:
        return self.clone(Load)


@requires(Load)
class Requiring(luigi.Task):
    pass


@pytest.fixture
def marker(inside_job: LuigiJob) -> Iterator[str]:
    """A password that must not be found anywhere."""
    inside_job.wire.grants["warehouse"].data = {"password": "m4rker-hunter2-XYZ"}
    inside_job.open_session()
    yield "m4rker-hunter2-XYZ"
    Register.clear_instance_cache()


def test_a_read_is_a_real_str_of_the_current_version(marker: str) -> None:
    task = Load()
    assert task.password == marker
    assert isinstance(task.password, str)
    assert f"postgresql://etl:{task.password}@db" == f"postgresql://etl:{marker}@db"
    with task.db.lease() as c:
        assert (c.username, c.password) == (task.user, marker)


def test_the_task_id_travels_with_the_request(marker: str, inside_job: LuigiJob) -> None:
    task = Load()
    _ = task.password
    assert inside_job.wire.calls("GET", "/v1/credentials/")[0].headers["x-luigi-task"] == task.task_id


def test_the_marker_is_nowhere_that_luigi_keeps_or_shows(marker: str) -> None:
    """task_id, repr, what goes over RPC, the instance's dict, param_kwargs, the instance cache, pickles (L1, L7, L8)."""
    tasks: list[Any] = [Load(), Loud(), Inheriting(), Requiring()]
    for task in tasks:
        assert task.password == marker
        cache = Register._Register__instance_cache  # type: ignore[attr-defined]  # where Luigi keeps instances by parameter
        shown = [
            task.task_id,
            repr(task),
            str(task),
            repr(task.to_str_params()),
            repr(vars(task)),
            repr(task.param_kwargs),
            repr(cache),
            pickle.dumps(task).decode("latin-1"),
            repr(task.password),
            repr([task.password]),
            repr({"password": task.password}),
            pickle.dumps(task.password).decode("latin-1"),
        ]
        for text in shown:
            assert marker not in text
        assert task.to_str_params()["password"] == REF
        assert all(marker not in str(value) for value in task.param_kwargs.values())


def test_an_error_of_luigis_own_about_parameters_shows_references(marker: str) -> None:
    """`exc_desc` is the repr of the call (task.py): a live value that was handed on shows as its reference (L2)."""
    with pytest.raises(luigi.parameter.UnknownParameterException) as error:
        Bare(password=Load().password, nope=1)
    assert marker not in str(error.value)
    assert REF in str(error.value)
    with pytest.raises(luigi.parameter.MissingParameterException, match="requires the 'password' parameter"):
        Bare()


def test_repr_and_identity_ask_nobody(inside_job: LuigiJob) -> None:
    """A broker that is away breaks no repr, no task_id, no comparison: the worker lives on those (R8)."""
    inside_job.wire.vanish()
    task, loud = Load(), Loud()
    assert repr(task) == "Load(day=monday)"
    assert repr(loud) == f"Loud(password={REF})"
    assert task == Load()
    assert hash(task)
    assert task.db == Load().db
    assert hash(task.db) == hash(Load().db)
    assert repr(task.db) == "secret://warehouse"
    assert pickle.loads(pickle.dumps(task)).task_id == task.task_id
    assert pickle.loads(pickle.dumps(task.db)) == task.db
    assert isinstance(Load.password, secrets.SecretParameter)
    assert isinstance(Load.db, secrets.BundleParameter)
    assert Requiring().requires() == Load()
    assert task.clone(Bare).param_kwargs == {"password": secrets.Reference.parse(REF)}
    assert inside_job.wire.seen[1:] == []
    with pytest.raises(secrets.SecretUnavailable):
        _ = task.password


def test_a_rotation_changes_no_identity(marker: str, inside_job: LuigiJob) -> None:
    """Same instance, same task_id, new value (R4)."""
    inside_job.wire.grants["warehouse"].data = {}
    task = Loud()
    before, old = task.task_id, task.password
    inside_job.wire.rotate("warehouse")
    client()._entry(secrets.Reference.parse(REF)).drop()
    assert task.password != old
    assert Loud() is task
    assert task.task_id == before


def test_handing_a_live_value_on_hands_on_its_reference(marker: str) -> None:
    """clone(), keyword arguments, @inherits, @requires, load_task: what arrives is the reference (R6)."""
    task = Load(password="secret://warehouse#password", day="friday")
    with task.db.lease() as c:
        handed = [
            task.clone(),
            task.clone(day="sunday"),
            Bare(password=task.password),
            Bare(password=c.password),
            Bare(password=secrets.Reference.parse(REF)),
            Inheriting(day="friday").requires(),
            Requiring(day="friday").requires(),
            load_task(Load.__module__, "Load", task.to_str_params()),
            Load(db=task.db),
        ]
    for other in handed:
        assert other.param_kwargs["password"] == secrets.Reference.parse(REF)
        assert other.password == marker
    assert task.clone() is task
    assert load_task(Load.__module__, "Load", task.to_str_params()) is task


@pytest.mark.parametrize(
    "literal", ["hunter2", "", "postgres://u:hunter2@db", "secret://warehouse", "${secret:warehouse#hunter2}", 5, None]
)
def test_a_literal_is_refused_and_not_repeated(literal: Any) -> None:
    with pytest.raises(secrets.ReferenceInvalid) as refused:
        Bare(password=literal)
    assert "hunter2" not in str(refused.value)
    if literal is not None:
        with pytest.raises(secrets.ReferenceInvalid):
            secrets.SecretParameter(default=literal)


def test_a_bundle_is_a_whole_grant() -> None:
    with pytest.raises(secrets.ReferenceInvalid, match="has no #field"):
        secrets.BundleParameter(default=REF)
    with pytest.raises(secrets.ReferenceInvalid, match="ends in #<field>"):
        secrets.SecretParameter(default="secret://warehouse")


def test_private_is_refused_because_it_does_not_survive_the_way() -> None:
    for kind in (secrets.SecretParameter, secrets.BundleParameter):
        with pytest.raises(secrets.SecretMisconfigured, match="PUBLIC or HIDDEN"):
            kind(visibility=ParameterVisibility.PRIVATE)


def test_a_batch_of_references_is_a_reference() -> None:
    class Batched(luigi.Task):
        password = secrets.SecretParameter(batch_method=max)

    task = Batched.from_str_params({"password": ["secret://a#x", "secret://b#x"]})
    assert task.to_str_params() == {"password": "secret://b#x"}


def test_a_snapshots_missing_field_is_no_attribute_error(marker: str) -> None:
    """`hasattr` would hide that; only a protocol's own questions are answered with one."""
    with Load().db.lease() as c:
        with pytest.raises(secrets.SecretMisconfigured, match="has no field 'pasword'; it has password, username"):
            _ = c.pasword
        assert not hasattr(c, "__len__")
        with pytest.raises(TypeError, match="a Snapshot holds live values and is not pickled"):
            pickle.dumps(c)


def test_a_secret_is_read_in_a_luigi_config_class_as_well(marker: str) -> None:
    class warehouse(luigi.Config):  # noqa: N801 - a Config is named as its section
        password = secrets.SecretParameter(default=REF)

    assert warehouse().password == marker
