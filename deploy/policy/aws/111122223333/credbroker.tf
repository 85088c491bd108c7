resource "aws_iam_openid_connect_provider" "credbroker" {
  url            = "https://broker.example.com"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "etl_production" {
  name                 = "etl-production"
  path                 = "/"
  assume_role_policy   = file("${path.module}/etl-production.trust.json")
  max_session_duration = 3600
}

resource "aws_iam_role_policy" "etl_production" {
  name   = "credbroker"
  role   = aws_iam_role.etl_production.id
  policy = file("${path.module}/etl-production.permissions.json")
}

resource "aws_iam_role" "etl_review" {
  name                 = "etl-review"
  path                 = "/"
  assume_role_policy   = file("${path.module}/etl-review.trust.json")
  max_session_duration = 3600
}

resource "aws_iam_role_policy" "etl_review" {
  name   = "credbroker"
  role   = aws_iam_role.etl_review.id
  policy = file("${path.module}/etl-review.permissions.json")
}

resource "aws_iam_role" "etl_staging" {
  name                 = "etl-staging"
  path                 = "/"
  assume_role_policy   = file("${path.module}/etl-staging.trust.json")
  max_session_duration = 3600
}

resource "aws_iam_role_policy" "etl_staging" {
  name   = "credbroker"
  role   = aws_iam_role.etl_staging.id
  policy = file("${path.module}/etl-staging.permissions.json")
}

resource "aws_iam_role" "credbroker_revoke" {
  name                 = "credbroker-revoke"
  path                 = "/"
  assume_role_policy   = file("${path.module}/credbroker-revoke.trust.json")
  max_session_duration = 3600
}

resource "aws_iam_role_policy" "credbroker_revoke" {
  name   = "credbroker"
  role   = aws_iam_role.credbroker_revoke.id
  policy = file("${path.module}/credbroker-revoke.permissions.json")
}
