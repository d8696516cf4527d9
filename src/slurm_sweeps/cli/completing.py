"""`completion`: the script that lets a shell complete verbs, experiments and trials."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_SLURM_SWEEPS_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete this command.

    bash: eval "$(slurm-sweeps completion bash)" in ~/.bashrc; zsh and fish likewise.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    root = ctx.find_root().command
    click.echo(kind(root, {}, "slurm-sweeps", _VARIABLE).source())
