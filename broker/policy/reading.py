"""A policy is read as tables, like every TOML file of the broker's."""

from broker.toml_table import Table

__all__ = ["Table"]
