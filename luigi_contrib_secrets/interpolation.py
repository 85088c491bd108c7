"""
`${secret:<grant>[/<subpath>]#<field>}` in luigi.cfg, for the sections that Luigi's own modules read as plain text.

    [smtp]
    password = ${secret:mail#password}

One pass replaces `${secret:…}` and `${ENVVAR}` together: two passes in series would look for `${…}` inside the secret.
Values come from the client's cache (a section may be read a dozen times per task), and nothing but a SecretError is raised:
Luigi takes configparser's own errors for "not configured".
"""

# ruff: noqa: SLF001  configparser and Luigi keep the two places where an interpolation stands private; tests hold them

import os
import re
import warnings
from collections.abc import Mapping, MutableMapping
from configparser import Interpolation
from typing import Any

from luigi.configuration.cfg_parser import (
    CombinedInterpolation,
    EnvironmentInterpolation,
    InterpolationMissingEnvvarError,
    LuigiConfigParser,
)

from luigi_contrib_secrets import settings
from luigi_contrib_secrets.client import client
from luigi_contrib_secrets.errors import ReferenceInvalid, SecretMisconfigured
from luigi_contrib_secrets.reference import Reference
from luigi_contrib_secrets.secret_str import SecretStr

_PLACE = re.compile(r"\$\{([^}]+)\}")
_PREFIX = "secret:"


class SecretInTaskSectionWarning(UserWarning):
    """A live value goes through a task's own section: Luigi reads, warns about and keeps what it finds there as plain text."""


class SecretInterpolation(Interpolation):
    """Luigi's `${ENVVAR}`, and `${secret:…}` beside it."""

    def __init__(self) -> None:
        self._warned: set[tuple[str, str]] = set()

    def before_get(
        self,
        parser: MutableMapping[str, Mapping[str, str]],  # noqa: ARG002  configparser's signature
        section: Any,  # a str here; since 3.13 configparser also knows files without sections, which Luigi does not read
        option: str,
        value: str,
        defaults: Mapping[str, str],  # noqa: ARG002  configparser's signature
    ) -> str:
        """The value with every `${…}` replaced, once. A value that is one secret and nothing else knows its reference."""
        whole = _PLACE.fullmatch(value)
        if whole is not None and whole[1].startswith(_PREFIX):
            return self._secret(section, option, whole[1])
        # A function as replacement: its result is taken as it is, with its backslashes, `%` and `${`.
        return _PLACE.sub(lambda place: self._one(section, option, value, place[1]), value)

    def _one(self, section: str, option: str, value: str, name: str) -> str:
        if name.startswith(_PREFIX):
            return self._secret(section, option, name)
        try:
            return os.environ[name]
        except KeyError:
            missing = InterpolationMissingEnvvarError(option, section, value, name)  # type: ignore[no-untyped-call]  # Luigi's
            raise missing from None

    def _secret(self, section: str, option: str, name: str) -> SecretStr:
        if section == settings.SECTION:
            # The client reads this section to know how to fetch: it would ask for ever.
            raise SecretMisconfigured(f"[{section}] in luigi.cfg has no ${{secret:…}} in it", code="config_invalid")
        reference = Reference.parse_short(name[len(_PREFIX) :])
        if not reference.field:
            raise ReferenceInvalid(f"[{section}] {option} in luigi.cfg: ${{secret:…}} is one field, it ends in #<field>")
        if (section, option) not in self._warned and _is_task(section):
            self._warned.add((section, option))
            warnings.warn(
                f"[{section}] {option} in luigi.cfg holds ${{secret:…}}, and {section} is a task: Luigi will keep the live value "
                f"as a parameter. Make {option} a luigi_contrib_secrets.SecretParameter and write {reference} there",
                SecretInTaskSectionWarning,
                stacklevel=2,
            )
        return client().read(reference)


def _is_task(section: str) -> bool:
    """Whether the section is a task's own, and not one of Luigi's configuration (`luigi.Config` is a Task as well)."""
    from luigi.task import Config
    from luigi.task_register import Register, TaskClassException

    try:
        return not issubclass(Register.get_task_cls(section), Config)  # type: ignore[no-untyped-call]  # Luigi's
    except TaskClassException:
        return False


def install() -> None:
    """`${secret:…}` works in luigi.cfg from now on: in the parser that is there, after a reload, and in a new one.

    Idempotent; before or after Luigi's own import; keeps every other interpolation that somebody has added.
    """
    parsers: Any = LuigiConfigParser
    present = parsers._DEFAULT_INTERPOLATION
    stages = list(present._interpolations) if isinstance(present, CombinedInterpolation) else [present]
    if not any(isinstance(stage, SecretInterpolation) for stage in stages):
        stages = [stage for stage in stages if type(stage) is not EnvironmentInterpolation]
        parsers._DEFAULT_INTERPOLATION = combined(*stages, SecretInterpolation())
    if parsers._instance is not None:  # there since `import luigi`
        parsers._instance._interpolation = parsers._DEFAULT_INTERPOLATION


def combined(*stages: Interpolation) -> Interpolation:
    """Luigi's chain of interpolations. The one with secrets is last: nothing scans what it brings."""
    chain: Interpolation = CombinedInterpolation(stages)  # type: ignore[no-untyped-call]  # Luigi's
    return chain
