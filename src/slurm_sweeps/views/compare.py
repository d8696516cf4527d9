"""Configurations that were run several times: which is the best, and which are as good. Pure.

The best is the one with the best mean among those with at least half as many runs as any has, of
runs that count: that have completed or come to a high rung (see `race`). A mean of fewer is low
by chance more easily. In racing (Hutter et al. 2011, SMAC) the incumbent has the most runs, and a
challenger needs as many; half of them let one that was found late win before it has had all, which
chooses better on replayed tables.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from ..errors import UsageError
from ..storage.records import TrialRecord
from ..trial import Status, split_cfg
from .formats import format_columns, format_number, format_value, shorten

#: Of differences with a larger p-value it is not said that there are any.
ALPHA = 0.05


@dataclass(slots=True)
class Runs:
    """A configuration, and what its trials came to."""

    key: str  # the configuration, as JSON with dotted names
    values: dict[Any, float]  # the mean of its trials that count, by the value of its Repeat
    best: tuple[TrialRecord, float, int]  # of those that count if any does: value, iteration

    @property
    def n(self) -> int:
        """How many of its runs count; 1 where none does, as its best is that of one."""
        return max(1, len(self.values))

    @property
    def mean(self) -> float:
        """Over its runs that count; the best value of all where none does."""
        return fmean(self.values.values()) if self.values else self.best[1]


def rank_configurations(
    found: Iterable[tuple[TrialRecord, float, int]], repeat: Mapping[str, Any], mode: str
) -> list[Runs]:
    """Rank configurations, the best first: see the module; then those with fewer runs.

    Args:
        found: Trials with what each is worth, and at which iteration.
        repeat: What the experiment's settings say of its Repeat.
    """
    sign = -1.0 if mode == "max" else 1.0
    groups: dict[str, list[tuple[Any, tuple[TrialRecord, float, int]]]] = {}
    for each in found:
        key, value = split_cfg(json.loads(each[0].cfg_json), repeat["path"])
        groups.setdefault(key, []).append((value, each))
    ranked = [_sum_up(key, group, sign, repeat["counts_at"]) for key, group in groups.items()]
    most = max((len(runs.values) for runs in ranked), default=0)
    # Those with half of the most or more are equals, as far as their number of runs goes.
    return sorted(ranked, key=lambda r: (-min(len(r.values), (most + 1) // 2), sign * r.mean))


def _sum_up(
    key: str,
    group: Sequence[tuple[Any, tuple[TrialRecord, float, int]]],
    sign: float,
    counts_at: int | None,
) -> Runs:
    whole = [(value, each) for value, each in group if _counts(each[0], counts_at)]
    by_value: dict[Any, list[float]] = {}
    for value, each in whole:
        by_value.setdefault(value, []).append(each[1])
    best = min((each for _, each in whole or group), key=lambda each: sign * each[1])
    return Runs(key, {value: fmean(same) for value, same in by_value.items()}, best)


def _counts(trial: TrialRecord, counts_at: int | None) -> bool:
    has_come = counts_at is not None and (trial.last_iteration or 0) >= counts_at
    return trial.status is Status.COMPLETED or has_come


@dataclass(frozen=True)
class Compared:
    """A configuration beside the best one.

    Attributes:
        cfg: Its configuration, dotted names, without the Repeat.
        trial_id: Its best trial.
        n: How many of its runs count: have completed, or come to a high rung.
        mean: Of these.
        spread: Their standard deviation (n - 1); None of fewer than two.
        interval: Where the mean lies with 95 % confidence, by Student's t; None likewise.
        difference: The mean difference to the best over the runs that both have, more than 0 where
            its values are larger; None for the best itself, or without two such runs.
        p: The p-value of the paired t-test of that difference, corrected for the number of
            comparisons (Holm 1979); None likewise.
    """

    cfg: Mapping[str, Any]
    trial_id: str
    n: int
    mean: float
    spread: float | None = None
    interval: tuple[float, float] | None = None
    difference: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The best configurations side by side; printed, it is a table and a sentence.

    Attributes:
        metric: What they are compared by.
        rows: The configurations, the best first.
        indistinguishable: How many of the others can't be told from the best.
        unknown: How many of them have fewer than two runs in common with it.
    """

    metric: str
    rows: tuple[Compared, ...]
    indistinguishable: int = field(init=False)
    unknown: int = field(init=False)

    def __post_init__(self) -> None:
        others = self.rows[1:]
        unknown = sum(row.p is None for row in others)
        same = sum(row.p is not None and row.p >= ALPHA for row in others)
        object.__setattr__(self, "unknown", unknown)
        object.__setattr__(self, "indistinguishable", same)

    @property
    def sentence(self) -> str:
        """What came out, in words."""
        best, worse = self.rows[0], len(self.rows) - 1 - self.indistinguishable - self.unknown
        parts = [
            f"best is {best.trial_id}, mean {self.metric} {format_number(best.mean)} of {best.n} "
            f"run{'s' * (best.n != 1)}"
        ]
        if len(self.rows) > 1:
            parts.append(f"indistinguishable from the best: {self.indistinguishable}")
            parts.append(f"worse: {worse}")
        if self.unknown:
            parts.append(f"too few runs to tell: {self.unknown}")
        return "; ".join(parts)

    def __str__(self) -> str:
        """Say it in a table and a sentence."""
        head = ("trial", "runs", "mean", "spread", "95 % interval", "to best", "p", "cfg")
        cells = [head, *map(format_row, self.rows)]
        return "\n".join([*format_columns(cells), self.sentence])


def format_row(row: Compared) -> tuple[str, ...]:
    """Write a configuration's numbers as the table shows them."""
    low, high = row.interval or (None, None)
    return (
        row.trial_id,
        str(row.n),
        format_number(row.mean),
        "-" if row.spread is None else format_number(row.spread),
        "-" if low is None or high is None else f"{format_number(low)} to {format_number(high)}",
        "-" if row.difference is None else format_number(row.difference),
        "-" if row.p is None else f"{row.p:.2g}",
        shorten(", ".join(f"{name}={format_value(value)}" for name, value in row.cfg.items()), 100),
    )


def compare(ranked: Sequence[Runs], metric: str) -> Comparison:
    """Compare configurations, the best first, to the first one.

    Raises:
        UsageError: SciPy is missing.
    """
    try:
        from scipy import special
    except ImportError as error:
        raise UsageError(
            f"compare needs SciPy ({error}): pip install 'slurm-sweeps[model]'"
        ) from error

    pairs = [_pair(runs, ranked[0]) for runs in ranked[1:]]
    raw = [_test(differences, special) for differences in pairs]
    differences = [None, *(fmean(each) if len(each) > 1 else None for each in pairs)]
    ps = [None, *correct(raw)]
    rows = (
        _describe(runs, difference, p, special)
        for runs, difference, p in zip(ranked, differences, ps, strict=True)
    )
    return Comparison(metric, tuple(rows))


def _pair(runs: Runs, best: Runs) -> list[float]:
    """Return the differences to the best where both have the same value of the Repeat."""
    return [value - best.values[seed] for seed, value in runs.values.items() if seed in best.values]


def _test(differences: Sequence[float], special: Any) -> float | None:
    """Return the p-value of the paired t-test; None of fewer than two differences."""
    if len(differences) < 2:
        return None
    mean, spread = fmean(differences), stdev(differences)
    if spread == 0.0:  # all are the same
        return 1.0 if mean == 0.0 else 0.0
    t = mean / (spread / math.sqrt(len(differences)))
    return float(2 * special.stdtr(len(differences) - 1, -abs(t)))


def correct(ps: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number by Holm's step-down method; None is no comparison."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, i) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        corrected[i] = least
    return corrected


def _describe(runs: Runs, difference: float | None, p: float | None, special: Any) -> Compared:
    values = list(runs.values.values())
    cfg, trial_id = json.loads(runs.key), runs.best[0].trial_id
    if len(values) < 2:
        return Compared(cfg, trial_id, len(values), runs.mean, None, None, difference, p)
    spread = stdev(values)
    half = float(special.stdtrit(len(values) - 1, 0.975)) * spread / math.sqrt(len(values))
    interval = runs.mean - half, runs.mean + half
    return Compared(cfg, trial_id, len(values), runs.mean, spread, interval, difference, p)
