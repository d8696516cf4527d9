"""What all verbs share: options, the open database, finding a trial, printing, exit codes.

A database may come from anyone: what is printed of it holds nothing that steers a terminal, and
what names a file is checked before a path is made of it.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem, get_completion_class

from ..errors import SlurmSweepsError, StorageError, UsageError
from ..storage.database import Database
from ..storage.layout import DEFAULT_DIR, DIR_VARIABLE, Layout, build_database_path
from ..storage.records import ExperimentRecord, TrialRecord
from ..storage.rows import read_trials
from ..views.formats import clean, clean_lines, format_columns, wrap_words

Function = TypeVar("Function", bound=Callable[..., Any])

#: How long completion waits for the database: somebody waits at a prompt.
_COMPLETION_TIMEOUT_S = 0.5

#: Steers a terminal, and is left as it is by JSON.
_C1 = re.compile(r"[\x7f-\x9f]")


class Commands(click.Group):
    """The `verbs` of each module; turns our errors into a line on standard error, an exit code."""

    def __init__(self, verbs: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        words = ((home, *word.partition("=")) for home in verbs for word in verbs[home].split())
        self._homes = {verb: (home, function or verb) for home, verb, _, function in words}

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb: 2 for what the caller got wrong, 1 for what could not be done."""
        try:
            return super().invoke(ctx)
        except SlurmSweepsError as error:
            click.echo(_fit(clean_lines(f"slurm-sweeps: {error}"), sys.stderr), err=True)
            sys.exit(2 if isinstance(error, UsageError) else 1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or suggest the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if close and close[0] not in error.message:
                text = f"{error.message} Did you mean {close[0]!r}?"
                raise click.UsageError(text, ctx) from error
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's, as below
        """The verbs in the order of their table."""
        return list(self._homes)

    def get_command(self, ctx: click.Context, verb: str) -> click.Command | None:  # noqa: ARG002
        if verb not in self._homes:
            return None
        home, function = self._homes[verb]
        found: click.Command = getattr(importlib.import_module(f".{home}", __package__), function)
        return found


@dataclass(frozen=True, slots=True)
class Store:
    """An open database, and the experiment in it that a verb is about."""

    database: Database
    experiment: ExperimentRecord
    layout: Layout


@contextlib.contextmanager
def open_store(local_dir: Path, name: str, write: bool = False) -> Iterator[Store]:
    """Open the database of an experiment.

    Raises:
        ExperimentNotFoundError: It holds no such experiment; the message suggests one.
        StorageError: There is no database, or it can't be read.
    """
    layout = Layout(local_dir, name)
    with Database.open(layout.database, read_only=not write) as database:
        yield Store(database, database.experiment(name), layout)


def find_trial(store: Store, prefix: str) -> TrialRecord:
    """Find the trial whose id begins with `prefix`.

    Raises:
        UsageError: There is none, or more than one; the message says which come near.
        StorageError: Its id is none that we write, and might lead out of the experiment's folder.
    """
    found = read_trials(store.database, store.experiment.id, id_prefix=prefix, limit=4)
    where = f"experiment {store.experiment.name!r}"
    if not found or not prefix:
        known = [trial.trial_id for trial in read_trials(store.database, store.experiment.id)]
        close = difflib.get_close_matches(prefix, known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"{where} has no trial {prefix!r}{hint}")
    if len(found) > 1:
        some = ", ".join(trial.trial_id for trial in found[:3])
        more = ", …" if len(found) > 3 else ""
        raise UsageError(f"{prefix!r} could be more than one trial of {where}: {some}{more}")
    if not re.fullmatch("[0-9a-f]{12}", found[0].trial_id):
        raise StorageError(
            f"{where} in {store.layout.database} has a trial with the id {found[0].trial_id!r}, "
            "which is not 12 hex digits: slurm-sweeps has not written that; don't trust this file"
        )
    return found[0]


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, each in one line and without what steers a terminal."""
    for line in lines:
        click.echo(_fit(clean_lines(line.replace("\n", " ")), sys.stdout))


def _fit(text: str, stream: TextIO) -> str:
    """Break what is too long for a terminal between words, which it would not do by itself."""
    return wrap_words(text, shutil.get_terminal_size().columns) if stream.isatty() else text


def print_columns(lines: Iterable[Sequence[str]]) -> None:
    """Print lines of cells as columns, titles first."""
    print_lines(format_columns([clean(cell) for cell in line] for line in lines))


def print_json(data: Any) -> None:
    """Print JSON; NaN and infinities, which JSON does not know, become null."""
    text = json.dumps(_make_json_able(data), indent=2, ensure_ascii=False)
    click.echo(_C1.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def print_answer(answer: Any, as_json: bool, describe: Callable[[Any], Any]) -> None:
    """Print an answer in its own words, or what describes it as JSON."""
    if as_json:
        print_json(describe(answer))
    else:
        print_lines(str(answer).splitlines())


def _make_json_able(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _make_json_able(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_make_json_able(each) for each in data]
    return data


def _complete_name(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    names = _read_to_complete(ctx, lambda database: [each.name for each in database.experiments()])
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_trial(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the id of a trial of the experiment that was named before."""

    def read(database: Database) -> list[TrialRecord]:
        key = database.experiment(str(ctx.params.get("name"))).id
        return read_trials(database, key, id_prefix=incomplete, limit=100)

    trials = _read_to_complete(ctx, read)
    return [CompletionItem(trial.trial_id, help=trial.status.value) for trial in trials]


def _read_to_complete(ctx: click.Context, read: Callable[[Database], list[Any]]) -> list[Any]:
    """Read for somebody at a prompt, who is told nothing where that can't be done."""
    path = build_database_path(ctx.params.get("local_dir") or DEFAULT_DIR)
    with (
        contextlib.suppress(SlurmSweepsError),
        Database.open(path, read_only=True, timeout_s=_COMPLETION_TIMEOUT_S) as database,
    ):
        return read(database)
    return []


def prefer_own(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Take the folder that was said before the verb, unless one is said after it."""
    said_before = ctx.parent.params.get("local_dir") if ctx.parent is not None else None
    is_said = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    return value if is_said or said_before is None else said_before


_FOLDER = click.Path(path_type=Path, file_okay=False)
local_dir_option = click.option(
    "--local-dir",
    type=_FOLDER,
    default=DEFAULT_DIR,
    envvar=DIR_VARIABLE,
    show_default=True,
    show_envvar=True,
    callback=prefer_own,
    help="The folder of the database.",
)
early_local_dir_option = click.option("--local-dir", type=_FOLDER, help="The same, for any verb.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
trial_argument = click.argument("trial", metavar="ID", shell_complete=complete_trial)


def on_experiment(function: Function) -> Function:
    """Add the experiment's name, with completion, and `--local-dir`."""
    return click.argument("name", shell_complete=_complete_name)(local_dir_option(function))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete this command.

    bash: eval "$(slurm-sweeps completion bash)" in ~/.bashrc; zsh and fish likewise.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click has these three since version 8.0
    root = ctx.find_root().command
    click.echo(kind(root, {}, "slurm-sweeps", "_SLURM_SWEEPS_COMPLETE").source())
