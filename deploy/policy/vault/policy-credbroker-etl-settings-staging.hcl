path "secret/data/etl/staging/+" {
  capabilities = ["read"]
}
