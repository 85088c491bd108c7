"""The command line `credbroker`. Each command is imported only when it is used: `--help` starts in under 0.2 s."""

import importlib

import click

from broker.errors import BrokerError

_COMMANDS = {  # name: (module, attribute, the line `--help` shows)
    "serve": ("broker.cli.serve", "serve", "Run the broker."),
    "exec": ("broker.cli.exec", "exec_", "Run a command with the job's short-lived credentials, rotated while it runs."),
    "get": ("broker.cli.get", "get", "Print one credential."),
    "doctor": ("broker.cli.doctor", "doctor", "Say, from inside a job, what stands between it and its credentials."),
    "policy": ("broker.cli.policy", "policy", "Check, test, explain and prove a policy; show what a change changes."),
    "audit": ("broker.cli.audit", "audit", "Verify and query the issuance log."),
    "init": ("broker.cli.init", "init", "A first broker in one folder: configuration, keys, policy, files for Vault and AWS."),
    "keygen": ("broker.cli.keys", "keygen", "Make the keys of a broker: log, issuer, store."),
    "issuer": ("broker.cli.keys", "issuer", "The broker as an OIDC issuer."),
    "demo": ("broker.cli.demo", "demo", "The whole story on loopback, nothing installed beforehand."),
}


class _Commands(click.Group):
    """Lists the commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="credbroker")
def cli() -> None:
    """Short-lived AWS and Vault credentials for GitLab CI jobs, rotated while they run and taken back when they end."""


def main() -> None:
    """The entry point. A usage error exits with 64 (sysexits.h), where click alone would say 2."""
    try:
        code = cli.main(
            prog_name="credbroker", standalone_mode=False
        )  # what `ctx.exit(code)` was called with is returned; no command returns anything
    except click.UsageError as error:
        error.show()
        raise SystemExit(64) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.Abort:
        raise SystemExit(130) from None
    except BrokerError as error:
        click.echo(f"credbroker: {error.public} [{error.code.word}]", err=True)
        raise SystemExit(error.code.exit_code) from None
    raise SystemExit(code)
