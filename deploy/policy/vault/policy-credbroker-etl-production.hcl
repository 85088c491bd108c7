path "database/creds/etl-production" {
  capabilities = ["read"]
}
path "secret/data/etl/production/+" {
  capabilities = ["read"]
}
