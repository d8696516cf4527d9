"""What becomes of the trials that there are when a sweep goes on.

The sampler is told of all of them, and the rule hears all their metrics again, so that both are
where they stopped.

Where the search space has grown, the trials are configurations of the larger one from then on: one
that lacks a new parameter has the value of it that the user says, in tables, for the sampler, and
when it is run again. Its id, and the `cfg.yml` in its folder, are those of what it was begun with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..checks import Goal
from ..errors import UsageError, say_count
from ..rules.feasible import Bound, is_infeasible
from ..rules.protocol import Decision, Pruner
from ..search.extension import read_older
from ..search.search_space import SearchSpace, list_differences
from ..storage.database import Database
from ..storage.records import ExperimentRecord, LeaseOwner, Request, TrialRecord
from ..storage.rows import (
    count_failed_attempts,
    read_attempts,
    read_first_reports,
    read_last_iterations,
    read_metric_ids,
    read_reports,
    read_trials,
    read_values,
    write_records,
)
from ..sweep import Sweep
from ..sweep_types import Report, SweepCfg, TrialState, Turn
from ..trial import Status, canonical_json
from ..views.formats import say_how_to_retry

if TYPE_CHECKING:
    from ..race import Race


def restore(
    sweep: Sweep,
    space: SearchSpace,
    pruner: Pruner | None,
    race: Race | None,
    database: Database,
    record: ExperimentRecord,
    trials: Sequence[TrialRecord],
    again: str | None,
    notify: Callable[[str], None],
) -> Sequence[TrialRecord]:
    """Bring a sweep, its rule and its race to where its trials are; return these."""
    states = list(_revive(database, record.id, trials, space, sweep.cfg.goal))
    if race is not None:
        for state in states:
            race.note(state.number, state.cfg)
    beyond = _find_infeasible(database, record.id, trials, sweep.cfg.feasible)
    judged = _replay(database, record.id, states, pruner, sweep.cfg, beyond)
    closed = {
        trial.number: _close(trial, state, pruner, judged, beyond, record.updated_at)
        for trial, state in zip(trials, states, strict=True)
        if trial.status is Status.RUNNING
        or (trial.number in beyond and trial.status is not Status.INFEASIBLE)
    }
    write_records(database, record.id, list(closed.values()))
    trials = [closed.get(trial.number, trial) for trial in trials]
    logged = read_metric_ids(database, record.id)
    unfinished = set(_find_unfinished(trials, database.requests(record.id)))
    failed = {each.number for each in trials if each.status is Status.FAILED}
    if failed - unfinished and not logged and _have_all_failed(trials):
        unfinished |= failed
        these = say_count(len(failed), "trial that failed is", "trials that failed are")
        notify(
            f"nothing was logged before, and no trial has come to its end: the {these} run again"
        )
    past: Sequence[Report | Turn] = ()
    if sweep.student:
        from ..replay.story import read_events

        attempts = read_attempts(database, record.id)
        past = read_events(database, record.id, sweep.cfg.goal_names, trials, attempts)
    named_from = record.settings.get("completed_before", 0)
    sweep.restore(states, unfinished, logged, past, named_from)
    if left := sum(state.status is Status.FAILED for state in states):
        stay = ("failed trial stays as it is", "failed trials stay as they are")
        notify(f"{say_count(left, *stay)}: {say_how_to_retry(record.name, again)}")
    return trials


def _revive(
    database: Database,
    experiment_id: int,
    trials: Sequence[TrialRecord],
    space: SearchSpace,
    goal: Goal | None,
) -> Iterator[TrialState]:
    """Make states of stored trials."""
    firsts = read_first_reports(database, experiment_id, goal.metric) if goal else {}
    latest = read_last_iterations(database, experiment_id)
    failed = count_failed_attempts(database, experiment_id)
    for trial in trials:
        cfg = json.loads(trial.cfg_json)
        drawn = {} if space.template else cfg  # by the trial itself
        state = TrialState(
            number=trial.number,
            trial_id=trial.trial_id,
            repetition=trial.repetition,
            cfg=space.revive({} if drawn else cfg),
            drawn=drawn,
            status=trial.status,
            attempt=trial.attempt,
            lost_count=trial.lost_count,
            failed_count=failed.get(trial.number, 0),
            last_iteration=latest.get(trial.number),
        )
        if trial.number in firsts:
            iteration, attempt, started_at, logged_at = firsts[trial.number]
            state.pace.begin(attempt, started_at)
            state.pace.note(iteration, logged_at)
        yield state


def _replay(
    database: Database,
    experiment_id: int,
    states: Iterable[TrialState],
    pruner: Pruner | None,
    cfg: SweepCfg,
    beyond: Mapping[int, int],
) -> dict[int, tuple[int, Any]]:
    """Let the rule, and the trials themselves, hear again what each has logged.

    Of what an infeasible trial logged neither hears from the iteration on that it is `beyond` a
    bound.

    Returns:
        The last iteration and value that the rule has heard of, by trial.
    """
    curves = {state.number: state.curve for state in states}
    goal, judged_by = cfg.goal_names, cfg.judged_names
    judged: dict[int, tuple[int, Any]] = {}
    for names in {goal, judged_by}:
        listener = pruner if names == judged_by else None
        is_kept = names == goal
        for number, iteration, value, _ in read_values(database, experiment_id, names, [*curves]):
            if beyond and iteration >= beyond.get(number, math.inf):
                continue
            if listener is not None:
                listener.report(number, iteration, value)
                judged[number] = iteration, value
            if is_kept:
                curves[number].note(iteration, value)
    return judged


def _find_infeasible(
    database: Database,
    experiment_id: int,
    trials: Sequence[TrialRecord],
    bounds: Mapping[str, Bound],
) -> dict[int, int]:
    """Find the trials that have reported a value beyond its bound, and the first iteration of it.

    What its driver did not live to say is told by the reports alone.
    """
    first: dict[int, int] = {}
    for name in bounds:
        for table in read_reports(database, experiment_id, name, [t.number for t in trials]):
            for number, iteration, value, _ in table.tolist():
                if is_infeasible(bounds, {name: value}):
                    first[number] = min(iteration, first.get(number, iteration))
    return first


def _have_all_failed(trials: Sequence[TrialRecord]) -> bool:
    """Whether no trial has ended by itself or was stopped by a rule."""
    return all(each.status is Status.FAILED or each.status.is_unfinished for each in trials)


#: What an attempt counts as that was told so.
_TOLD = {Decision.PRUNE: Status.PRUNED, Decision.PAUSE: Status.PAUSED}


def _close(
    trial: TrialRecord,
    state: TrialState,
    pruner: Pruner | None,
    judged: Mapping[int, tuple[int, Any]],
    beyond: Mapping[int, int],
    seen_at: float,
) -> TrialRecord:
    """End an attempt whose driver died; its last report is answered as if it came now."""
    trial = dataclasses.replace(trial, last_iteration=state.last_iteration)
    if trial.number in beyond:
        state.status = Status.INFEASIBLE
        end_time = trial.end_time or max(seen_at, trial.start_time or 0.0)
        return dataclasses.replace(trial, status=state.status, end_time=end_time)
    state.status = Status.INTERRUPTED
    if pruner is not None and trial.number in judged:
        decision = pruner.report(trial.number, *judged[trial.number])
        state.status = _TOLD.get(decision, state.status)
    end_time = max(seen_at, trial.start_time or 0.0)
    return dataclasses.replace(trial, status=state.status, end_time=end_time)


def _find_unfinished(trials: Sequence[TrialRecord], requests: Sequence[Request]) -> list[int]:
    """Number the trials to run again: the unfinished, and the failed ones that were marked.

    A mark counts until the trial is run again: it must be younger than the trial's end.
    """
    marked = {each.argument: each.created_at for each in requests if each.kind == "retry"}
    return [
        trial.number
        for trial in trials
        if trial.status.is_unfinished
        or (
            trial.status is Status.FAILED
            and marked.get(trial.trial_id, -1.0) >= (trial.end_time or 0.0)
        )
    ]


# --- a search space that has grown ---------------------------------------------------------------


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
