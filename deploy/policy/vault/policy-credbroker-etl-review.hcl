path "secret/data/etl/review/+" {
  capabilities = ["read"]
}
path "database/creds/etl-scratch" {
  capabilities = ["read"]
}
