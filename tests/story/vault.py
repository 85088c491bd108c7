"""Vault set up as docs/quickstart.md says: it trusts the broker's published keys, one role for each environment and grant."""

import json

from broker.demo.world import World
from tests.contract.vault_servers import CREATE, DROP, MAINTENANCE, Server


def prepare(vault: Server, world: World) -> None:
    """Mounts, policies, roles, one secret. The broker has to be running: Vault fetches its keys."""
    vault.api("POST", "sys/auth/jwt", {"type": "jwt"})
    vault.api("POST", "auth/jwt/config", {"jwks_url": f"{world.url}/jwks", "bound_issuer": world.url})
    vault.api("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    vault.api("POST", "sys/mounts/database", {"type": "database"})
    connection = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": ["*"],
        "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@{vault.postgres or '127.0.0.1:54330'}/postgres",
        "username": "postgres",
        "password": "x",
    }
    vault.api("POST", "database/config/pg", connection)
    role = {"db_name": "pg", "creation_statements": [CREATE], "revocation_statements": [DROP]}
    vault.api("POST", "database/roles/etl-production", {**role, "default_ttl": "15m", "max_ttl": "1h"})
    vault.api("POST", "secret/data/etl/production/mail", {"data": {"password": "s3cret-of-mail"}})
    vault.api("POST", "secret/data/etl/review/mail", {"data": {"password": "of-review"}})

    revoking = {"sys/leases/revoke": ["update"]}
    rules: dict[str, dict[str, list[str]]] = {
        "warehouse": {"database/creds/etl-production": ["read"], **revoking},
        "settings": {"secret/data/etl/production/*": ["read"], **revoking},
    }
    rules["maintenance"] = MAINTENANCE
    for policy, paths in rules.items():
        text = json.dumps({"path": {path: {"capabilities": able} for path, able in paths.items()}})
        vault.api("POST", f"sys/policies/acl/{policy}", {"policy": text})
    shared = {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": [vault.url],
        "token_ttl": "20m",
        "token_explicit_max_ttl": "1h",
    }
    for name, grant in (("etl-production", "warehouse"), ("etl-settings-production", "settings")):
        subject = f"environment:production:grant:{grant}:issuer:gitlab:project:4711"
        vault.api("POST", f"auth/jwt/role/{name}", {**shared, "bound_subject": subject, "token_policies": [grant]})
    bound = {"bound_subject": "broker:maintenance", "token_policies": ["maintenance"], "token_no_default_policy": True}
    vault.api("POST", "auth/jwt/role/credbroker-maintenance", {**shared, **bound})
