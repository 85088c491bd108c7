path "secret/data/etl/review/+" {
  capabilities = ["read"]
}
