"""`{environment}`, `{project_id}` and `{job_id}` in a text, and nothing else in braces."""

import re
from collections.abc import Iterator, Mapping

PLACEHOLDERS = ("{environment}", "{project_id}", "{job_id}")

_IN_TEXT = re.compile(r"\{([^{}]*)\}")
_IN_IAM = re.compile(r"(\$\{[^{}]*\})|\{([^{}]*)\}")
_IAM_VARIABLE = re.compile(r"\$\{(?:[*?$]|[A-Za-z0-9_-]+:[^{}]+)\}")

Values = Mapping[str, str]


class MisfitError(ValueError):
    """What is wrong with a template, or with what it becomes."""


def filled(template: str, values: Values, *, iam: bool = False) -> str:
    """The text with its values. `iam` leaves IAM's own policy variables (`${aws:…}`) to IAM. Raises MisfitError.

    Checks no value: whoever calls this has.
    """
    return "".join(_pieces(template, values, _IN_IAM if iam else _IN_TEXT))


def has_placeholder(text: str) -> bool:
    """Whether anything but a policy variable of IAM stands in braces."""
    return _IN_TEXT.search(text.replace("${", "$")) is not None


def _pieces(template: str, values: Values, pattern: re.Pattern[str]) -> Iterator[str]:
    at = 0
    for found in pattern.finditer(template):
        yield _literal(template[at : found.start()])
        at = found.end()
        name = found[pattern.groups]
        if name is None:  # an IAM policy variable: IAM's to fill
            if not _IAM_VARIABLE.fullmatch(found[0]):
                raise MisfitError(f"{found[0]} is neither a variable of IAM nor a placeholder")
            yield found[0]
        elif name in values:
            yield values[name]
        else:
            raise MisfitError(f"{{{name}}} is no placeholder")
    yield _literal(template[at:])


def _literal(text: str) -> str:
    if "{" in text or "}" in text:
        raise MisfitError("a brace stands alone; it is no placeholder")
    return text
