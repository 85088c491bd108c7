"""What bad input gets: an exit code, a code, one clear sentence; nothing half-issued. Real processes all the way.

Every refusal stands beside its allowed twin: `test_the_job_that_does_everything_right`.
"""

import json
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.demo.sts import Fault
from tests.story.conftest import Town

NOW = int(time.time())
FEATURE = {"ref": "x", "ref_path": "refs/heads/x", "ref_protected": "false"}


def entries(town: Town, *filters: str) -> list[dict[str, Any]]:
    done = town.run("audit", "query", str(town.world.database), "--json", "--limit", "100000", *filters)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["entry"] for line in done.stdout.splitlines()]


def refused(done: Any, exit_code: int, code: str) -> str:
    """The one sentence, once exit code and code are right and nothing was printed."""
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    line: str = next(line for line in done.stderr.splitlines() if f"[{code}]" in line or f"({code})" in line)
    assert len(line) < 400
    return line


def test_the_job_that_does_everything_right(town: Town) -> None:
    done = town.run("exec", "--grant", "lake", "--grant", "warehouse", "--", "true", token=town.world.token())
    assert done.returncode == 0, done.stderr
    got = town.run("get", "settings/mail", "--field", "password", token=town.world.token())
    assert (got.returncode, got.stdout.strip()) == (0, "s3cret-of-mail")


def test_no_token_in_the_job_names_the_lines_to_add(town: Town) -> None:
    done = town.run("exec", "--grant", "lake", "--", "true")
    assert done.returncode == 78
    assert "job_token_missing" in done.stderr
    assert re.search(r"id_tokens:\s+CREDBROKER_ID_TOKEN:\s+aud: ", done.stderr)


@pytest.mark.parametrize(
    ("claims", "code", "words"),
    [
        (
            {"exp": int(time.time()) - 120, "iat": int(time.time()) - 3600, "nbf": int(time.time()) - 3605},
            "token_expired",
            "expired",
        ),
        ({"pipeline_source": None}, "token_claims", "pipeline_source"),
        ({"ref_protected": True}, "token_claims", "ref_protected"),
    ],
)
def test_a_token_that_is_not_right(town: Town, claims: dict[str, Any], code: str, words: str) -> None:
    done = town.run("exec", "--grant", "lake", "--wait", "0s", "--", "true", token=town.world.token(**claims))
    assert words in refused(done, 77, code)


def test_a_token_for_somebody_else(town: Town) -> None:
    """Over the socket, whose owner is trusted, so that the broker's own check is what refuses it."""
    token = town.world.token(aud="https://vault.example.com")
    line = refused(town.run("exec", "--grant", "lake", "--", "true", token=token), 77, "token_audience")
    assert "https://vault.example.com" in line
    assert town.world.url in line


def test_a_token_of_another_issuer(town: Town) -> None:
    token = town.world.token(iss="https://gitlab.evil.example")
    assert "issuer" in refused(town.run("exec", "--grant", "lake", "--", "true", token=token), 77, "token_issuer")


def test_a_token_with_a_changed_claim(town: Town) -> None:
    head, payload, signature = town.world.token().split(".")
    other = town.world.token(ref="evil").split(".")[1]
    assert other != payload
    forged = f"{head}.{other}.{signature}"
    refused(town.run("exec", "--grant", "lake", "--", "true", token=forged), 77, "token_signature")


def test_a_merge_request_from_a_fork(town: Town) -> None:
    """New GitLab: `project_id` is the fork's. Old GitLab: the target's, without `job_project_id`."""
    merge_request = {**FEATURE, "pipeline_source": "merge_request_event"}
    new = town.world.token(**merge_request, project_id="666")
    old = town.world.token(**merge_request, job_project_id=None)
    for token in (new, old):
        refused(town.run("exec", "--grant", "lake", "--", "true", token=token), 77, "no_environment")


def test_a_branch_where_the_environment_needs_main(town: Town) -> None:
    """The sentence names the job's own claim and value, and never what the policy wants."""
    claims = {"ref": "stable", "ref_path": "refs/tags/stable", "ref_type": "tag"}
    line = refused(town.run("exec", "--grant", "lake", "--", "true", token=town.world.token(**claims)), 77, "no_environment")
    assert "refs/tags/stable" in line
    assert "refs/heads/main" not in line


def test_an_environment_that_the_job_is_not_in(town: Town) -> None:
    token = town.world.token(**FEATURE)
    arguments = ("exec", "--environment", "production", "--grant", "lake", "--", "true")
    assert "review" in refused(town.run(*arguments, token=token), 77, "environment_mismatch")


def test_a_grant_that_does_not_exist(town: Town) -> None:
    refused(town.run("exec", "--grant", "lakes", "--", "true", token=town.world.token()), 77, "grant_unknown")


def test_a_grant_of_another_environment(town: Town) -> None:
    refused(town.run("exec", "--grant", "warehouse", "--", "true", token=town.world.token(**FEATURE)), 77, "grant_denied")


@pytest.mark.parametrize("path", ["settings/../x", "settings/a/b", "settings/a%2e%2e", "lake/x"])
def test_a_path_that_climbs_or_that_the_grant_does_not_have(town: Town, path: str) -> None:
    done = town.run("get", path, token=town.world.token())
    assert done.returncode in (64, 65, 77), done.stderr
    assert done.stdout == ""


def test_an_upstream_that_refuses_is_final(town: Town) -> None:
    """Exit 77 at once, an intent with its outcome, and no `issued`."""
    town.world.sts.fail(Fault(code="AccessDenied", status=403))
    began = time.monotonic()
    done = town.run("exec", "--grant", "lake", "--", "true", token=town.world.token(), job="9101")
    refused(done, 77, "upstream_denied")
    assert time.monotonic() - began < 20
    kinds = [entry["unmapped"]["kind"] for entry in entries(town) if "session" in str(entry)]
    assert "intent_failed" in kinds
    _every_intent_has_its_outcome(town)


def test_an_upstream_that_is_down_is_69_and_says_so(town: Town) -> None:
    town.world.sts.fail(*[Fault(status=503)] * 30)
    try:
        done = town.run("exec", "--grant", "lake", "--wait", "1s", "--", "true", token=town.world.token())
        refused(done, 69, "upstream_unavailable")
        _every_intent_has_its_outcome(town)
    finally:
        town.world.sts._faults.clear()
    assert town.run("exec", "--grant", "lake", "--", "true", token=town.world.token()).returncode == 0


def test_a_vault_whose_role_does_not_know_the_job_is_refused(town: Town) -> None:
    """`settings` of another environment does not exist upstream, whatever the path says."""
    done = town.run("get", "settings/nothing-there", token=town.world.token())
    assert done.returncode in (77, 78), done.stderr
    assert "production/nothing-there" not in done.stderr
    _every_intent_has_its_outcome(town)


def test_a_broker_that_is_not_running(town: Town, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    done = town.run(
        *("exec", "--grant", "lake", "--wait", "1s", "--", "true"),
        token=town.world.token(),
        CREDBROKER_URL=f"unix://{tmp_path}/broker.sock",
    )
    refused(done, 69, "broker_unreachable")


def test_a_malformed_config_shows_every_problem_with_its_line(town: Town, tmp_path: Path) -> None:
    text = (town.world.folder / "broker.toml").read_text()
    broken = text.replace('profile = "gitlab"', 'profile = "gitlob"').replace("rotate_every", "rotate_evry")
    (tmp_path / "broker.toml").write_text(broken)
    done = town.run("serve", "--config", str(tmp_path / "broker.toml"), "--check")
    assert done.returncode == 78
    assert re.search(r"broker\.toml:\d+: .*gitlob", done.stderr)
    assert re.search(r"broker\.toml:\d+: .*rotate_evry.*rotate_every", done.stderr)
    assert town.run("serve", "--config", str(town.world.folder / "broker.toml"), "--check").returncode == 0


def test_a_malformed_policy_shows_every_problem_with_its_line(town: Town, tmp_path: Path) -> None:
    good = town.world.folder / "policy.toml"
    (tmp_path / "lake.json").write_text((town.world.folder / "lake.json").read_text())
    (tmp_path / "policy.toml").write_text(
        good.read_text().replace("when.ref_protected = true", 'when.ref_protected = "yes"\nwhen.reff = "x"')
    )
    done = town.run("policy", "check", str(tmp_path / "policy.toml"))
    assert done.returncode == 78
    assert re.search(r"policy\.toml:\d+.*ref_protected", done.stderr + done.stdout)
    assert re.search(r"policy\.toml:\d+.*reff", done.stderr + done.stdout)
    assert town.run("policy", "check", str(good)).returncode == 0


def test_a_database_file_that_cannot_be_written(town: Town, tmp_path: Path) -> None:
    """A folder where the file should be: nobody can write that, root included."""
    (tmp_path / "broker.db").mkdir()
    text = (town.world.folder / "broker.toml").read_text()
    for name in ("policy.toml", "lake.json"):
        (tmp_path / name).write_text((town.world.folder / name).read_text())
    text = text.replace('= "keys/', f'= "{town.world.folder}/keys/').replace(str(town.world.socket), f"{tmp_path}/b.sock")
    (tmp_path / "broker.toml").write_text(text)
    done = town.run("serve", "--config", str(tmp_path / "broker.toml"))
    assert done.returncode == 78, done.stderr
    assert "broker.db" in done.stderr


def test_the_log_verifies_after_all_of_that(town: Town) -> None:
    done = town.run("audit", "verify", str(town.world.database), "--key", town.world.log_key)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_that_was_secret_is_in_the_database_or_the_broker_s_log(town: Town) -> None:
    """Values of credentials, handles and tokens, in the forms they travel in."""
    token = town.world.token()
    got = town.run("get", "lake", "--format", "json", token=token)
    secrets = [token, token.split(".")[2], json.loads(got.stdout)["data"]["secret_access_key"], "s3cret-of-mail"]
    files = [town.world.database, town.world.database.with_suffix(".db-wal"), town.world.folder / "broker.log"]
    for path in files:
        content = path.read_bytes() if path.exists() else b""
        for secret in secrets:
            assert secret.encode() not in content, path
        assert b"cbs_" not in content, path


def _every_intent_has_its_outcome(town: Town) -> None:
    """No promise is left open once the command is back."""
    found = entries(town)
    intents = {entry["metadata"]["uid"] for entry in found if entry["unmapped"]["kind"] == "intent"}
    outcomes = {
        entry["unmapped"].get("intent_id")  # a lease that was only extended has none
        for entry in found
        if entry["unmapped"]["kind"] in ("issued", "intent_failed", "intent_swept", "renewed")
    }
    assert intents <= outcomes


def test_a_token_s_lifetime_bounds_what_it_opens(town: Town) -> None:
    """A token that ends in five minutes opens a session that ends in five minutes."""
    soon = int(time.time()) + 300
    got = town.run("get", "lake", "--format", "json", token=town.world.token(exp=soon))
    assert got.returncode == 0, got.stderr
    expires = json.loads(got.stdout)["expires_at"]
    assert expires <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(soon + timedelta(seconds=1).total_seconds()))
