"""`add`: a configuration that somebody wants tried next, by a sweep that runs."""

from __future__ import annotations

import difflib
import json
import time
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..views.formats import list_constants, list_spaces
from .common import Store, on_experiment, open_store
from .stop_retry_rm import check_driver, wait_until_seen

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
        text = json.dumps(_nest(part))
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
        if name not in known and not _is_below(name, known):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise UsageError(f"the cfg of {store.experiment.name!r} has no {name!r}; {hint}")


def _is_below(name: str, known: list[str]) -> bool:
    """Whether a name is that of something in an option."""
    return any(name.startswith(f"{each}.") for each in known)


def _nest(part: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in part.items():
        *parents, key = name.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[key] = value
    return nested
