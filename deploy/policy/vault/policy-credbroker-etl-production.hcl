path "database/creds/etl-production" {
  capabilities = ["read"]
}
