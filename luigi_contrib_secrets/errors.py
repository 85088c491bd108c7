"""
Why a secret could not be had.

    SecretError(RuntimeError)    .code, .grant, .correlation_id; its text never holds a value
    ├── SecretRefused            the broker said no. Final: what was cached is dropped
    ├── SecretUnavailable        an outage, and nothing that is still valid is left
    ├── SecretMisconfigured      luigi.cfg, the session file or an operator's setting has to change first
    └── ReferenceInvalid         what stands where a `secret://…` reference belongs is none

Never a KeyError, an AttributeError or configparser's NoOptionError: Luigi takes the first and the last for "no value
configured" and goes on with the parameter's default (luigi/parameter.py, `_get_value_from_config`), and `hasattr()` hides
the second.
"""


class SecretError(RuntimeError):
    """A secret could not be had. `code` is a word of docs/errors.md; the text names grant and code and says what to do."""

    def __init__(self, sentence: str, *, code: str, grant: str = "", correlation_id: str = "") -> None:
        where = f"secret://{grant}: " if grant else ""
        traced = f" (correlation id {correlation_id})" if correlation_id else ""
        super().__init__(f"{where}{sentence} [{code}]{traced}")
        self.sentence = sentence
        self.code = code
        self.grant = grant
        self.correlation_id = correlation_id

    def __reduce__(self) -> tuple[object, ...]:
        # Luigi hands failures across processes; the stock __reduce__ of exceptions would drop the keyword arguments.
        return _again, (type(self), self.sentence, self.code, self.grant, self.correlation_id)


class SecretRefused(SecretError):
    """The broker refused. Asking again with the same session will not help."""


class SecretUnavailable(SecretError):
    """The broker, or what is behind it, is away, longer than we wait. `retry_after` is in seconds, 0 when nobody named it."""

    def __init__(
        self, sentence: str, *, code: str, grant: str = "", correlation_id: str = "", retry_after: float = 0.0, again: bool = True
    ) -> None:
        super().__init__(sentence, code=code, grant=grant, correlation_id=correlation_id)
        self.retry_after = retry_after
        self.again = again  # False: a valid lease is served through it, but asking again at once is pointless


class SecretMisconfigured(SecretError):
    """Somebody has to change a setting before this can work."""


class ReferenceInvalid(SecretError):
    """Not a reference. The text says what is missing and never repeats what was given: it may be a secret."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, code="config_invalid")

    def __reduce__(self) -> tuple[object, ...]:
        return ReferenceInvalid, (self.sentence,)


def _again(kind: type[SecretError], sentence: str, code: str, grant: str, correlation_id: str) -> SecretError:
    return kind(sentence, code=code, grant=grant, correlation_id=correlation_id)
