"""`credbroker demo`."""

import importlib.util
import shlex
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from broker.demo.world import World


@click.command(epilog="\b\nExamples:\n  make demo\n  credbroker demo --keep")
@click.option("--keep", is_flag=True, help="Leave everything running afterwards, until Ctrl-C.")
def demo(keep: bool) -> None:
    """The whole story on loopback: a GitLab-like issuer, S3 with IAM, a strict STS, the broker, and jobs that use it.

    With `bao` or `vault` on PATH, a dev server of it joins in and leases the pipeline a key.
    """
    for module in ("rich", "luigi", "boto3", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise click.ClickException(f"the demo needs {module}; `make demo` in a checkout installs what it needs")
    from rich.console import Console
    from rich.text import Text

    from broker.demo.ministack import MiniStackMissing, MiniStackUnfit
    from broker.demo.story import Story, StoryBroken
    from broker.demo.vault import VaultUnfit, find_binary
    from broker.demo.world import World, WorldBroken

    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    try:
        binary = find_binary()
        vault = "" if binary is None else f" `{binary.name}`,"
        console.print(f"[dim]starting a GitLab-like issuer, S3 with IAM,{vault} a strict STS and the broker, on loopback …[/dim]")
        with World(vault=binary) as world:
            story = Story(
                world,
                title=lambda text: console.print(f"\n[bold]{text}[/bold]"),
                line=lambda text: console.print("  [green]✓[/green]", Text(text)),
            )
            story.tell()
            console.print(f"\n[bold green]All of it held.[/bold green] {time.monotonic() - began:.0f} s")
            if keep:
                _keep(console, world)
    except (StoryBroken, WorldBroken, MiniStackMissing, MiniStackUnfit, VaultUnfit) as broken:
        console.print("\n[bold red]✗ [/bold red]", end="")
        console.print(str(broken), markup=False)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        raise SystemExit(130) from None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _keep(console: "Console", world: "World") -> None:
    program = f"{shlex.quote(sys.executable)} -m broker"
    database = shlex.quote(str(world.database))
    job = world.job_environment(world.token(), "1")
    names = ("XDG_RUNTIME_DIR", "CREDBROKER_URL", "CREDBROKER_ID_TOKEN")
    settings = " ".join(f"{name}={shlex.quote(job[name])}" for name in names)
    console.print(f"\nStill running at {world.url} (files in {world.folder}). Three commands to try:\n", markup=False)
    console.print(f"  {settings} {program} get lake\n", markup=False)
    console.print(f"  {program} audit query {database}\n", markup=False)
    console.print(f"  {program} audit verify {database} --key {world.log_key}\n", markup=False)
    console.print("Ctrl-C stops and removes everything.")
    while True:
        signal.pause()
