"""A restored sweep whose search space has grown: what becomes of the trials that there are.

They stay, and are configurations of the larger space from then on: one that lacks a new parameter
has the value of it that the user says, in tables, for the sampler, and when it is run again. Its
id, and the `cfg.yml` in its folder, are those of what it was begun with.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError, say_count
from ..search.extension import read_older
from ..search.search_space import SearchSpace, list_differences
from ..storage.database import Database
from ..storage.records import ExperimentRecord, LeaseOwner, TrialRecord
from ..storage.rows import read_trials
from ..trial import canonical_json


@contextlib.contextmanager
def told_what_to_do(name: str) -> Iterator[None]:
    """Complete an error that says which parameter is in the way."""
    try:
        yield
    except UsageError as error:
        raise UsageError(
            f"the search space of experiment {name!r} can't be extended to this one: {error}. "
            "Ranges may grow, and options and parameters be added; for any other space take "
            f'another name, with warm_start=ss.Result("{name}")'
        ) from None


def extend(
    database: Database,
    record: ExperimentRecord,
    owner: LeaseOwner,
    space: SearchSpace,
    values: Mapping[str, Any],
    notify: Callable[[str], None],
) -> dict[str, Any]:
    """Make the stored trials configurations of a larger space; return the settings of now.

    Raises:
        UsageError: One of them can't be; nothing has changed then.
    """
    changes = "; ".join(list_differences(record.settings["space"], space.describe()))
    trials, cfgs = read_trials(database, record.id), {}
    for trial in trials:
        stored = json.loads(trial.cfg_json)
        with told_what_to_do(record.name):
            try:
                cfg = read_older(stored, space, values)
            except UsageError as error:
                raise UsageError(f"trial {trial.trial_id}: {error}") from None
        if cfg != stored:
            cfgs[trial.number] = canonical_json(cfg)
    text = f"after {say_count(len(trials), 'trial')}: {changes}"
    settings = {
        **record.settings,
        "space": space.describe(),
        "extended": [*record.settings.get("extended", ()), text],
        "draws": None,
    }
    if cfgs:  # those before it have ids of what they were begun with
        settings["completed_before"] = len(trials)
    database.set_settings(record.id, settings, owner, time.time(), cfgs)
    notify(f"the search space of {record.name!r} is extended {text}")
    return settings


def list_refused(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    space: SearchSpace,
    trials: Sequence[TrialRecord],
) -> Iterator[str]:
    """Say that `where` is another than before; which of the earlier trials it refuses stay."""
    is_other_python = before.get("python_version") != now["python_version"]
    is_changed = not is_other_python and before.get("where") != now["where"]
    if space.where is None:
        if is_changed:
            yield (
                "the earlier trials were drawn with a where, and there is none now: new ones may "
                "be what it refused"
            )
        return
    cfgs = (json.loads(each.cfg_json) if space.template else {} for each in trials)
    n_refused = sum(not space.allows(space.revive(cfg)) for cfg in cfgs)
    if is_changed or n_refused:
        stay = f"; {n_refused} of the {len(trials)} earlier ones, which it refuses, stay and count"
        yield f"where has changed: it decides about new trials{stay if n_refused else ''}"


def keep_draws(
    before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, n_trials: int
) -> Mapping[str, Any] | None:
    """Say how configurations are drawn, from a trial on: those before were drawn otherwise."""
    if now is None:
        return None
    same = before is not None and {**before, "points": 0} == {**now, "points": 0}
    given = before["points"] if before is not None and same else n_trials
    return {**now, "points": max(now["points"], given)}
