path "database/creds/etl-staging" {
  capabilities = ["read"]
}
path "secret/data/etl/staging/+" {
  capabilities = ["read"]
}
