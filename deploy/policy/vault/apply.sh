#!/bin/sh
# Applies what stands beside it. VAULT_ADDR and VAULT_TOKEN say where and as whom.
set -eu
cd "$(dirname "$0")"
vault="${VAULT:-vault}"   # or bao
"$vault" auth list -format=json | grep -q '"jwt/"' || "$vault" auth enable -path=jwt jwt
"$vault" policy write credbroker-etl-production policy-credbroker-etl-production.hcl
"$vault" policy write credbroker-etl-review policy-credbroker-etl-review.hcl
"$vault" policy write credbroker-etl-settings-production policy-credbroker-etl-settings-production.hcl
"$vault" policy write credbroker-etl-settings-review policy-credbroker-etl-settings-review.hcl
"$vault" policy write credbroker-etl-settings-staging policy-credbroker-etl-settings-staging.hcl
"$vault" policy write credbroker-etl-staging policy-credbroker-etl-staging.hcl
"$vault" policy write credbroker-upkeep policy-credbroker-upkeep.hcl
"$vault" write auth/jwt/config @auth_jwt_config.json
"$vault" write database/roles/etl-production @database_roles_etl-production.json
"$vault" write database/roles/etl-scratch @database_roles_etl-scratch.json
"$vault" write database/roles/etl-staging @database_roles_etl-staging.json
"$vault" write auth/jwt/role/etl-production @auth_jwt_role_etl-production.json
"$vault" write auth/jwt/role/etl-review @auth_jwt_role_etl-review.json
"$vault" write auth/jwt/role/etl-settings-production @auth_jwt_role_etl-settings-production.json
"$vault" write auth/jwt/role/etl-settings-review @auth_jwt_role_etl-settings-review.json
"$vault" write auth/jwt/role/etl-settings-staging @auth_jwt_role_etl-settings-staging.json
"$vault" write auth/jwt/role/etl-staging @auth_jwt_role_etl-staging.json
"$vault" write auth/jwt/role/credbroker-maintenance @auth_jwt_role_credbroker-maintenance.json
