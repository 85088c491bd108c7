resource "vault_auth_backend" "credbroker" {
  type = "jwt"
  path = "jwt"
}

resource "vault_policy" "credbroker_etl_production" {
  name   = "credbroker-etl-production"
  policy = file("${path.module}/policy-credbroker-etl-production.hcl")
}

resource "vault_policy" "credbroker_etl_review" {
  name   = "credbroker-etl-review"
  policy = file("${path.module}/policy-credbroker-etl-review.hcl")
}

resource "vault_policy" "credbroker_etl_settings_production" {
  name   = "credbroker-etl-settings-production"
  policy = file("${path.module}/policy-credbroker-etl-settings-production.hcl")
}

resource "vault_policy" "credbroker_etl_settings_review" {
  name   = "credbroker-etl-settings-review"
  policy = file("${path.module}/policy-credbroker-etl-settings-review.hcl")
}

resource "vault_policy" "credbroker_etl_settings_staging" {
  name   = "credbroker-etl-settings-staging"
  policy = file("${path.module}/policy-credbroker-etl-settings-staging.hcl")
}

resource "vault_policy" "credbroker_etl_staging" {
  name   = "credbroker-etl-staging"
  policy = file("${path.module}/policy-credbroker-etl-staging.hcl")
}

resource "vault_policy" "credbroker_upkeep" {
  name   = "credbroker-upkeep"
  policy = file("${path.module}/policy-credbroker-upkeep.hcl")
}

resource "vault_generic_endpoint" "auth_jwt_config" {
  path                 = "auth/jwt/config"
  data_json            = file("${path.module}/auth_jwt_config.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}

resource "vault_generic_endpoint" "database_roles_etl_production" {
  path                 = "database/roles/etl-production"
  data_json            = file("${path.module}/database_roles_etl-production.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}

resource "vault_generic_endpoint" "database_roles_etl_scratch" {
  path                 = "database/roles/etl-scratch"
  data_json            = file("${path.module}/database_roles_etl-scratch.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}

resource "vault_generic_endpoint" "database_roles_etl_staging" {
  path                 = "database/roles/etl-staging"
  data_json            = file("${path.module}/database_roles_etl-staging.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}

resource "vault_generic_endpoint" "auth_jwt_role_etl_production" {
  path                 = "auth/jwt/role/etl-production"
  data_json            = file("${path.module}/auth_jwt_role_etl-production.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}

resource "vault_generic_endpoint" "auth_jwt_role_etl_review" {
  path                 = "auth/jwt/role/etl-review"
  data_json            = file("${path.module}/auth_jwt_role_etl-review.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}

resource "vault_generic_endpoint" "auth_jwt_role_etl_settings_production" {
  path                 = "auth/jwt/role/etl-settings-production"
  data_json            = file("${path.module}/auth_jwt_role_etl-settings-production.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}

resource "vault_generic_endpoint" "auth_jwt_role_etl_settings_review" {
  path                 = "auth/jwt/role/etl-settings-review"
  data_json            = file("${path.module}/auth_jwt_role_etl-settings-review.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}

resource "vault_generic_endpoint" "auth_jwt_role_etl_settings_staging" {
  path                 = "auth/jwt/role/etl-settings-staging"
  data_json            = file("${path.module}/auth_jwt_role_etl-settings-staging.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}

resource "vault_generic_endpoint" "auth_jwt_role_etl_staging" {
  path                 = "auth/jwt/role/etl-staging"
  data_json            = file("${path.module}/auth_jwt_role_etl-staging.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}

resource "vault_generic_endpoint" "auth_jwt_role_credbroker_maintenance" {
  path                 = "auth/jwt/role/credbroker-maintenance"
  data_json            = file("${path.module}/auth_jwt_role_credbroker-maintenance.json")
  ignore_absent_fields = true
  depends_on           = [vault_auth_backend.credbroker]
}
