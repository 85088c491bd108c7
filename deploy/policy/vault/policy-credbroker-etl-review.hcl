path "database/creds/etl-scratch" {
  capabilities = ["read"]
}
