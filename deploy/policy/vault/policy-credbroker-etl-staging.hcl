path "database/creds/etl-staging" {
  capabilities = ["read"]
}
