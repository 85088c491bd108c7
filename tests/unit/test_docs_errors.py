"""`docs/errors.md`, the enum and DESIGN's table are one table."""

import re
from pathlib import Path

from broker.errors import Code

DOC = Path(__file__).parents[2] / "docs" / "errors.md"

# DESIGN section 5, copied by hand: HTTP status, OAuth error, exit code, words. A new code needs a row there first.
DESIGN = """
400 invalid_request 65: request_invalid, token_missing, token_malformed, path_invalid
400 invalid_grant 77: token_signature, token_expired, token_audience, token_issuer, token_claims, token_class, token_replayed, session_exists
401 invalid_token 77: handle_invalid, handle_peer, session_expired, session_revoked, session_idle
403 access_denied 77: no_environment, environment_mismatch, grant_denied, subpath_denied, template_value, upstream_denied, blocked
404 invalid_target 77: grant_unknown
409 invalid_request 77: ttl_unavailable
429 temporarily_unavailable 69: rate_limited
500 server_error 70: internal
502 server_error 78: upstream_config
503 temporarily_unavailable 69: upstream_unavailable, issuer_unavailable, store_unavailable, log_unavailable, clock_unsafe
0 - 69: broker_unreachable
0 - 78: job_token_missing, config_invalid
"""  # noqa: E501 - a table

SECTION = re.compile(
    r"^### `(?P<word>\w+)`\n"
    r"(?:HTTP (?P<status>\d+) `(?P<oauth>\w+)`(?P<also> \(at `/v1/token`: 400 `invalid_scope`\))?|(?P<never>no HTTP))"
    r", exit (?P<exit>\d+)\n"
    r"\n\*\*What happened\.\*\* .+?\n\n\*\*What to do\.\*\* .+?$",
    re.MULTILINE | re.DOTALL,
)


def documented() -> dict[str, tuple[int, str, int]]:
    found = {}
    for match in SECTION.finditer(DOC.read_text()):
        assert match["word"] not in found
        found[match["word"]] = (int(match["status"] or 0), match["oauth"] or "", int(match["exit"]))
    return found


def test_every_code_is_documented_with_its_status_and_exit_code() -> None:
    """And nothing is documented that does not exist. Each says what happened and what to do."""
    assert documented() == {code.word: (code.http_status, code.oauth_error, code.exit_code) for code in Code}


def test_every_heading_of_the_document_is_read() -> None:
    """A section in another shape would be missed by the test above."""
    assert len(documented()) == DOC.read_text().count("\n### ")


def test_the_enum_is_the_designs_table() -> None:
    """Row by row."""
    rows: dict[str, tuple[int, str, int]] = {}
    for line in DESIGN.strip().splitlines():
        status, oauth, exit_code, *words = line.replace(":", "").replace(",", "").split()
        rows |= {word: (int(status), oauth.strip("-"), int(exit_code)) for word in words}
    assert rows == {code.word: (code.http_status, code.oauth_error, code.exit_code) for code in Code}


def test_the_one_code_with_two_answers_says_so() -> None:
    """At the token endpoint an unknown grant is an invalid scope (RFC 6749 5.2)."""
    match = next(m for m in SECTION.finditer(DOC.read_text()) if m["word"] == "grant_unknown")
    assert match["also"]
