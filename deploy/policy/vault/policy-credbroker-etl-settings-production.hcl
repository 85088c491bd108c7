path "secret/data/etl/production/+" {
  capabilities = ["read"]
}
