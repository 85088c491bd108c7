"""Task parameters that keep a reference and read as the live credential."""

import sys
from typing import Any, Generic, TypeVar, overload

from luigi.parameter import Parameter, ParameterVisibility

from luigi_contrib_secrets.bundle import Bundle
from luigi_contrib_secrets.client import client
from luigi_contrib_secrets.errors import ReferenceInvalid, SecretMisconfigured
from luigi_contrib_secrets.reference import Reference
from luigi_contrib_secrets.secret_str import SecretStr

T = TypeVar("T")

# Luigi's own code that looks at every parameter of a task by name: the summary at the end of a run (where an exception would
# end the whole run, and not one task), `clone()`, and `@requires`/`@inherits`. None of them wants the value. What tasks are
# built from (luigi.contrib.*) does, and is not here.
_LUIGI_LOOKING = frozenset({"luigi.execution_summary", "luigi.task", "luigi.util"})


class _ReferenceParameter(Parameter[T], Generic[T]):
    """What both have in common: Luigi, wherever it keeps or sends the value, only ever has the reference."""

    def __init__(
        self,
        default: str | Reference | None = None,
        *,
        significant: bool = False,
        description: str | None = None,
        positional: bool = False,
        always_in_help: bool = False,
        batch_method: Any = None,
        visibility: ParameterVisibility = ParameterVisibility.PUBLIC,
    ) -> None:
        """Raises ReferenceInvalid for a default that is no reference, and SecretMisconfigured for PRIVATE.

        PUBLIC is right: a reference is not secret. PRIVATE would not survive the way to another process (dynamic
        dependencies, batches, assistants), and the task there would silently get the default. Two tasks that differ in an
        insignificant reference alone are one task to Luigi; `significant=True` tells them apart and leaks nothing.
        """
        if visibility == ParameterVisibility.PRIVATE:
            raise SecretMisconfigured("a secret parameter is PUBLIC or HIDDEN: it holds a reference", code="config_invalid")
        super().__init__(
            significant=significant,
            description=description,
            positional=positional,
            always_in_help=always_in_help,
            batch_method=batch_method,
            visibility=visibility,
        )
        if default is not None:
            self._default = self.normalize(default)

    def normalize(self, x: object) -> Any:
        """The reference in what was given: text, a reference, or something live that came out of one of these parameters."""
        if isinstance(x, SecretStr | Bundle):
            x = x.reference
        return x if isinstance(x, Reference) else Reference.parse(x)

    def parse(self, x: object) -> Any:
        return self.normalize(x)

    def serialize(self, x: object) -> str:
        return str(self.normalize(x))


class SecretParameter(_ReferenceParameter[str]):
    """One field of a credential.

        class LoadOrders(CopyToTable):
            user = SecretParameter()            # secret://warehouse#username, in luigi.cfg or on the command line
            password = SecretParameter(default="secret://warehouse#password")

    `task.password` is a live `str`: of the version that is current, and of the same one as `task.user` read just before.
    Reading raises SecretError. Everywhere else the task has the reference: task_id, repr, pickles, the scheduler, mails.
    """

    @overload
    def __get__(self, instance: None, owner: Any) -> "Parameter[str]": ...

    @overload
    def __get__(self, instance: Any, owner: Any) -> str: ...

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return self
        reference = instance.__dict__[self._attribute_name]
        if sys._getframe(1).f_globals.get("__name__") in _LUIGI_LOOKING:  # noqa: SLF001  as inspect and warnings do; nothing public is as cheap
            return reference
        return client().read(reference, task=instance.__dict__.get("task_id", ""))

    def normalize(self, x: object) -> Reference:
        reference: Reference = super().normalize(x)
        if not reference.field:
            raise ReferenceInvalid("a SecretParameter is one field: its reference ends in #<field>; a BundleParameter is all")
        return reference


class BundleParameter(_ReferenceParameter[Bundle]):
    """All fields of a credential, as one snapshot.

        class Big(luigi.Task):
            db = BundleParameter(default="secret://warehouse")

            def run(self):
                with self.db.lease(min_ttl="3h") as c:
                    connect(c.username, c.password)

    `task.db` fetches nothing; `lease()` does.
    """

    @overload
    def __get__(self, instance: None, owner: Any) -> "Parameter[Bundle]": ...

    @overload
    def __get__(self, instance: Any, owner: Any) -> Bundle: ...

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return self
        return Bundle(instance.__dict__[self._attribute_name], instance.__dict__.get("task_id", ""))

    def normalize(self, x: object) -> Reference:
        return Bundle(super().normalize(x)).reference
