"""
Credentials in Luigi that rotate while a task runs and leak nowhere: a reference is stored, a value is read.

    import luigi_contrib_secrets as secrets

    class LoadOrders(CopyToTable):
        user = secrets.SecretParameter()       # in luigi.cfg: user = secret://warehouse#username
        password = secrets.SecretParameter()

Run the pipeline as `credbroker exec -- luigi …`. For Luigi's own sections in luigi.cfg, `password = ${secret:mail#password}`
works as soon as this package is imported. Needs Luigi and the standard library; speaks to the broker over its wire alone.
"""

from luigi_contrib_secrets.bundle import Bundle, Snapshot
from luigi_contrib_secrets.errors import ReferenceInvalid, SecretError, SecretMisconfigured, SecretRefused, SecretUnavailable
from luigi_contrib_secrets.interpolation import SecretInTaskSectionWarning, install
from luigi_contrib_secrets.parameters import BundleParameter, SecretParameter
from luigi_contrib_secrets.reference import Reference
from luigi_contrib_secrets.secret_str import SecretStr

__all__ = [
    "Bundle",
    "BundleParameter",
    "Reference",
    "ReferenceInvalid",
    "SecretError",
    "SecretInTaskSectionWarning",
    "SecretMisconfigured",
    "SecretParameter",
    "SecretRefused",
    "SecretStr",
    "SecretUnavailable",
    "Snapshot",
    "install",
]

install()
