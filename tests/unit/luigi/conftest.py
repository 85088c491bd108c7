"""Luigi warns at its own import until a luigi.cfg says otherwise; it is imported here first, once, without that warning."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import luigi  # noqa: F401  for its warning
