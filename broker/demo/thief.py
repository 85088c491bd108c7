"""What somebody does who has copied a job's token out of its log: run beside the job, with nothing but the token.

Prints one JSON object: how the broker answered a second exchange, and how the STS answered the token itself.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path


def main() -> None:
    token, sts = Path(os.environ["STOLEN"]).read_text(), os.environ["DEMO_STS"]
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": elsewhere,
            "XDG_RUNTIME_DIR": elsewhere,
            "CREDBROKER_URL": os.environ["CREDBROKER_URL_OF_JOB"],
            "CREDBROKER_ID_TOKEN": token,
        }
        replay = subprocess.run(
            [sys.executable, "-m", "broker", "get", "lake", "--wait", "0s"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": "arn:aws:iam::111122223333:role/etl-production",
        "RoleSessionName": "thief",
        "WebIdentityToken": token,
    }
    try:
        with urllib.request.urlopen(sts, urllib.parse.urlencode(form).encode(), timeout=10) as answer:  # noqa: S310 - loopback
            upstream = answer.status
    except urllib.error.HTTPError as error:
        upstream = error.code
        error.close()
    sys.stdout.write(
        json.dumps({"exit": replay.returncode, "said": replay.stderr, "printed": replay.stdout, "upstream": upstream})
    )


if __name__ == "__main__":
    main()
