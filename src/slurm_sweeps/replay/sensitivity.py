"""Which parameters a metric depends on, and how far: variance-based sensitivity indices.

The first-order index of a parameter is the share of the metric's variance that it explains by
itself; its total index adds all that it does together with others. Of Saltelli's design both
follow; of points that were spread evenly or at random the first (RBD-FAST). All of the computation
is SALib's. Only trials that were completed have a value: base points of Saltelli's design that lack
one of theirs are left out whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from .. import samplers
from ..errors import UsageError, say_count
from ..samplers.designs import describe_units
from ..samplers.protocol import import_extra
from ..samplers.simple import build_point
from ..search.draws import digest
from ..search.extension import build_template
from ..search.search_space import SearchSpace
from ..storage.records import TrialRecord
from ..trial import Status

Array = np.ndarray[Any, Any]

#: With fewer base points of Saltelli's design, or fewer trials of another, nothing is said. Of half
#: of the trials RBD-FAST still has to tell twenty harmonics from noise.
MIN_BASE_POINTS, MIN_TRIALS = 8, 64

#: Intervals are bootstrapped from so many samples, the same each time.
_BOOTSTRAP: dict[str, Any] = {"num_resamples": 200, "conf_level": 0.95, "seed": 1}


@dataclass(frozen=True)
class Indices:
    """The indices of one parameter.

    Attributes:
        first: The share of the variance that it explains by itself. Estimates may be a little below
            0 or above 1.
        first_conf: Half the width of the 95 % interval around it.
        total: The share that it has a part in, alone or with others; None where the design can't
            tell.
        total_conf: Half the width of the 95 % interval around it.
    """

    first: float
    first_conf: float
    total: float | None = None
    total_conf: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivity of a metric to each parameter; printed, it is a table.

    Attributes:
        metric: The metric, at each trial's last iteration.
        method: "Saltelli" or "RBD-FAST".
        n_used: From how many base points of Saltelli's design, or else trials, it follows.
        n_all: How many there are.
        indices: By the dotted name of each parameter, in the order of the cfg.
        pairs: The second-order index of each pair, and half the width of its 95 % interval: the
            share that they explain together beyond what each does. Empty without `second_order`.
        missing: How many trials have no value, by what became of them.
    """

    metric: str
    method: str
    n_used: int
    n_all: int
    indices: Mapping[str, Indices]
    pairs: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say it in a few lines."""
        width = max(map(len, self.indices))
        lines = [f"{'':{width}}  {'first-order':>14}  {'total':>14}"]
        for name, each in self.indices.items():
            first = f"{each.first:.3f} ± {each.first_conf:.3f}"
            total = "–" if each.total is None else f"{each.total:.3f} ± {each.total_conf:.3f}"
            lines.append(f"{name:{width}}  {first:>14}  {total:>14}")
        for (one, other), (index, conf) in self.pairs.items():
            lines.append(f"{one} with {other}: {index:.3f} ± {conf:.3f}")
        return "\n".join([*lines, *self.notes])

    @property
    def notes(self) -> list[str]:
        """What it is made of, and what is to be kept in mind, in sentences."""
        is_whole = self.method == "Saltelli"
        unit = "base points" if is_whole else "trials"
        notes = [f"{self.metric}: {self.method}, {self.n_used} of {self.n_all} {unit}."]
        if self.missing:
            lacking = ", ".join(f"{count} {status}" for status, count in self.missing.items())
            notes.append(f"Trials without a value: {lacking}.")
        if {Status.PRUNED.value, Status.PAUSED.value, Status.INFEASIBLE.value} & {*self.missing}:
            notes.append(
                "What a rule has stopped is not missing by chance: run a study without a pruner."
            )
        if not is_whole:
            notes.append("Total indices need samplers.Saltelli.")
        return notes


def is_study(settings: Mapping[str, Any]) -> bool:
    """Whether the points of a sweep are those of a design."""
    kind = (settings.get("draws") or {}).get("sampler")
    return kind in ("Sobol", "LatinHypercube", "Saltelli")


def compute_sensitivity(
    settings: Mapping[str, Any], trials: Sequence[TrialRecord], metric: str, values: Array
) -> Sensitivity:
    """Estimate the indices of a sweep's parameters.

    Args:
        settings: The experiment's.
        trials: All, by number.
        values: The last of the metric in each of the trials, NaN where there is none; [trials].

    Raises:
        UsageError: The sweep's points say nothing of the kind, too many lack a value, or SALib is
            missing.
    """
    draws = settings.get("draws")
    if not draws or draws["sampler"] not in ("Random", "Sobol", "LatinHypercube", "Saltelli"):
        raise UsageError(
            "sensitivity indices need points that are spread by samplers.Saltelli, Sobol, "
            "LatinHypercube or Random, without where and warm_start: others are no fair sample"
        )
    space = SearchSpace(build_template(settings["space"]))
    if not space.leaves or any(leaf.parent is not None for leaf in space.leaves):
        raise UsageError(
            "sensitivity indices need parameters that vary independently: not spaces within an "
            "option, which are there in some trials only"
        )
    is_known = np.isfinite(values)
    is_known &= [trial.status is Status.COMPLETED for trial in trials]
    done = np.flatnonzero(is_known).tolist()
    if len(done) > 1 and np.ptp(values[done]) == 0:
        raise UsageError(f"{metric!r} is {values[done[0]]} in all trials: it depends on nothing")
    lacking = Counter(
        "without a finite value" if trial.status is Status.COMPLETED else trial.status.value
        for at, trial in enumerate(trials)
        if not is_known[at]
    )
    if draws["sampler"] == "Saltelli":
        known = {digest(json.loads(trials[at].cfg_json)): values[at] for at in reversed(done)}
        plan = samplers.Saltelli(**draws["arguments"])
        return _analyze_saltelli(space, plan, settings["seed"], metric, known, lacking)
    # What the user wanted tried first is no part of the sample.
    sample = [at for at in done if at >= draws["points"]]
    rows = [_read_row(space, trials[at]) for at in sample]
    n_all = len(trials) - draws["points"]
    return _analyze_sample(space, metric, np.array(rows), values[sample], n_all, lacking)


def _analyze_saltelli(
    space: SearchSpace,
    plan: samplers.Saltelli,
    seed: int,
    metric: str,
    known: Mapping[bytes, float],
    missing: Mapping[str, int],
) -> Sensitivity:
    analysis = import_extra("SALib.analyze.sobol", "sensitivity", "SALib", "sensitivity")
    points = (build_point(space, row) for row in plan.draw_units(space, seed))
    found = np.array([known.get(digest(cfg), np.nan) for cfg in points])
    blocks = found.reshape(plan.n, plan.per_point(len(space.leaves)))
    whole = blocks[np.isfinite(blocks).all(axis=1)]
    if len(whole) < MIN_BASE_POINTS:
        raise UsageError(
            f"{len(whole)} of {plan.n} base points of Saltelli's design have a finite value of "
            f"{metric!r} in all of their {blocks.shape[1]} trials; {MIN_BASE_POINTS} are needed"
        )
    problem = describe_units(space)
    of = analysis.analyze(problem, whole.ravel(), calc_second_order=plan.second_order, **_BOOTSTRAP)
    columns = (of[key].tolist() for key in ("S1", "S1_conf", "ST", "ST_conf"))
    indices = dict(zip(problem["names"], map(Indices, *columns), strict=True))
    pairs = {}
    if plan.second_order:
        for (i, one), (j, other) in combinations(enumerate(problem["names"]), 2):
            pairs[one, other] = float(of["S2"][i, j]), float(of["S2_conf"][i, j])
    return Sensitivity(metric, "Saltelli", len(whole), plan.n, indices, pairs, missing)


def _read_row(space: SearchSpace, trial: TrialRecord) -> list[float]:
    units = space.to_units(space.revive(json.loads(trial.cfg_json)))
    return [units[leaf] for leaf in space.leaves]


def _analyze_sample(
    space: SearchSpace,
    metric: str,
    rows: Array,
    values: Array,
    n_all: int,
    missing: Mapping[str, int],
) -> Sensitivity:
    analysis = import_extra("SALib.analyze.rbd_fast", "sensitivity", "SALib", "sensitivity")
    if len(rows) < MIN_TRIALS:
        have = say_count(len(rows), "completed trial has", "completed trials have")
        raise UsageError(f"{have} a finite value of {metric!r}; {MIN_TRIALS} are needed")
    problem = describe_units(space)
    of = analysis.analyze(problem, rows, values, **_BOOTSTRAP)
    columns = (map(float, of[key]) for key in ("S1", "S1_conf"))
    indices = dict(zip(problem["names"], map(Indices, *columns), strict=True))
    return Sensitivity(metric, "RBD-FAST", len(rows), n_all, indices, {}, missing)
