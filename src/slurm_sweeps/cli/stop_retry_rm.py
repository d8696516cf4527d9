"""The verbs that ask something of a driver, or change what is stored: `stop`, `retry`, `add`, `rm`.

No port is opened: what is asked is written into the database, where the driver looks about once a
second.
"""

from __future__ import annotations

import difflib
import json
import time
from pathlib import Path
from typing import Any

import click

from ..errors import SlurmSweepsError, UsageError, say_count
from ..search.search_space import nest
from ..storage.lease import acquire_lease, build_owner, remove_folder
from ..storage.rows import count_trials, read_trials
from ..trial import Status
from ..views.formats import AGAIN, list_constants, list_spaces
from ..views.sight import look_at_driver
from .common import Store, complete_trial, find_trial, on_experiment, open_store

#: How long `stop` waits for the driver to take note, in seconds.
_ANSWER_S = 10.0


@click.command()
@on_experiment
@click.option("--trial", metavar="ID", shell_complete=complete_trial, help="Prune this one only.")
def stop(name: str, local_dir: Path, trial: str | None) -> None:
    """Ask a running driver to stop, as if its job were told to end (TERM).

    It starts nothing new and lets the running trials leave at their next report; its script ends
    with 75, and restore=True goes on from there. With --trial that one trial is pruned and the
    sweep goes on.
    """
    with open_store(local_dir, name, write=True) as store:
        record = None if trial is None else find_trial(store, trial)
        check_driver(store, "there is nothing to stop")
        if record is not None and record.status is not Status.RUNNING:
            raise UsageError(
                f"trial {record.trial_id} is {record.status}; only a running one can be pruned"
            )
        kind, argument = ("stop", None) if record is None else ("prune", record.trial_id)
        store.database.add_request(store.experiment.id, kind, argument, time.time())
        what = f"experiment {name!r}" if record is None else f"trial {record.trial_id}"
        if wait_until_seen(store):
            click.echo(f"the driver is told: {what} is to stop")
        else:
            click.echo(
                f"{what} is marked to stop; the driver has not looked within {_ANSWER_S:.0f} s, "
                "it may be busy or gone"
            )


def check_driver(store: Store, else_what: str) -> None:
    """Raise SlurmSweepsError if no driver is at work, with what follows from that."""
    sight = look_at_driver(store.experiment, time.time())
    if not sight.is_at_work:
        raise SlurmSweepsError(
            f"no driver is at work on experiment {store.experiment.name!r} ({sight.state}): "
            f"{else_what}"
        )


def wait_until_seen(store: Store) -> bool:
    """Wait until the driver has seen what it was asked; return whether it has."""
    end = time.monotonic() + _ANSWER_S
    while time.monotonic() < end:
        if not store.database.requests(store.experiment.id, unseen_only=True):
            return True
        time.sleep(0.2)
    return False


@click.command()
@on_experiment
@click.argument("trials", metavar="[ID]...", nargs=-1, shell_complete=complete_trial)
@click.option("--failed", is_flag=True, help="All that have failed.")
def retry(name: str, trials: tuple[str, ...], local_dir: Path, failed: bool) -> None:
    """Mark failed trials; the script, run with restore=True, or its sweep file tries them again.

    Trials that were lost or interrupted are run again without a mark.
    """
    if bool(trials) == failed:
        raise click.UsageError("name the trials, or say --failed for all that have failed")
    with open_store(local_dir, name, write=True) as store:
        if failed:
            records = read_trials(store.database, store.experiment.id, statuses=[Status.FAILED])
        else:
            records = [find_trial(store, trial) for trial in trials]
        for record in records:
            if record.status is not Status.FAILED:
                raise UsageError(
                    f"trial {record.trial_id} is {record.status}; only a failed one can be marked"
                )
        for record in records:
            store.database.add_request(store.experiment.id, "retry", record.trial_id, time.time())
    marked = say_count(len(records), "failed trial is", "failed trials are")
    again = store.experiment.settings.get("again") or AGAIN
    click.echo(f"{marked} marked: {again} tries the marked ones again")


@click.command("rm")
@on_experiment
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
def remove(name: str, local_dir: Path, yes: bool) -> None:
    """Delete an experiment: its rows in the database, and its folder."""
    with open_store(local_dir, name, write=True) as store:
        database, asked, folder = store.database, store.experiment, store.layout.folder
        trials = sum(count_trials(database, asked.id).values())
        found = say_count(trials, "trial")
        question = f"Delete experiment {name!r}, its {found} and the folder {folder}?"
        if not yes and not click.confirm(question):
            raise click.exceptions.Exit(1)
        owner = build_owner()
        acquire_lease(database, name, owner)  # refused while a driver is at work
        try:
            _check_same(store, trials)
            remove_folder(folder, lambda: database.renew_lease(asked.id, owner, time.time()))
            database.delete_experiment(asked.id, owner, time.time())
        finally:
            database.release_lease(asked.id, owner)
    click.echo(f"deleted experiment {name!r}")


def _check_same(store: Store, trials: int) -> None:
    """Raise UsageError if the experiment isn't the one that was asked about any more."""
    found = store.database.experiment(store.experiment.name)
    is_same = (found.id, found.created_at) == (store.experiment.id, store.experiment.created_at)
    if not is_same or sum(count_trials(store.database, found.id).values()) != trials:
        raise UsageError(f"experiment {found.name!r} has changed meanwhile; say rm again")


# --- add ------------------------------------------------------------------------------------------

#: Words of Python's for what JSON writes in its own way.
_WORDS = {"None": None, "True": True, "False": False}


@click.command()
@on_experiment
@click.argument("values", metavar="NAME=VALUE...", nargs=-1, required=True)
def add(name: str, local_dir: Path, values: tuple[str, ...]) -> None:
    """Have a running sweep try a configuration next: lr=3e-4 net.width=128.

    Values are JSON, or text; what is left out is drawn. It takes the place of a configuration that
    would be drawn, or comes on top where none would be any more. The driver says whether it is one
    of the search space.
    """
    part = dict(_parse(value) for value in values)
    with open_store(local_dir, name, write=True) as store:
        check_driver(store, "nobody would run it; points_to_evaluate and restore do, or wait")
        _check_names(store, part)
        text = json.dumps(nest(part))
        store.database.add_request(store.experiment.id, "add", text, time.time())
        seen = wait_until_seen(store)
    told = "the driver is told" if seen else "the driver has not looked yet, it may be busy or gone"
    click.echo(f"{told}: {text} is to be tried next")


def _parse(value: str) -> tuple[str, Any]:
    name, is_pair, text = value.partition("=")
    if not is_pair or not name:
        raise click.UsageError(f"{value!r} is not of the form NAME=VALUE, like lr=3e-4")
    if text in _WORDS:
        return name, _WORDS[text]
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def _check_names(store: Store, part: dict[str, Any]) -> None:
    described = store.experiment.settings.get("space")
    known = [*list_spaces(described), *list_constants(described)]
    for name in part:
        is_in_option = any(name.startswith(f"{each}.") for each in known)
        if name not in known and not is_in_option:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise UsageError(f"the cfg of {store.experiment.name!r} has no {name!r}; {hint}")
