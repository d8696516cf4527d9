"""ASHA: trials that are not among the best at a rung are stopped, or wait until they are.

The rule stands at `ASHA`. What a trial has at a rung is the value of its smallest iteration at or
beyond the level; levels that were jumped over are entered with that same report. Said that way, the
order of the reports does not matter, and a retried trial that logs an iteration again replaces its
value: the state is a function of the stored metrics alone.

Two things follow. max_t is kept as one more level, without a ranking: whoever has entered it is
past judging. And when a trial that began at 1 logs 0 after all (a retry from the start), all its
resources grow by one, so that the value just below a level must be remembered until then.

With promotion, a trial whose value is NaN or infinite can never come to be among the best, so that
it is pruned. The paper judges with the report that enters a rung. Here each report is judged: a
trial that others have overtaken leaves its slot to them before it has come to the next rung.
Replayed on real learning curves this saves a fifth of the regret early on, and has a few in a
hundred trials more go on again. Rungs below the highest do not count any more: who began slowly and
then overtook those around it is safe from whatever begins faster.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, compress
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checks import (
    as_fraction,
    check_flag,
    check_goals,
    check_integer,
    check_reduction_factor,
    name_goals,
    set_fields,
)
from ..errors import UsageError
from .protocol import Decision
from .ranking import Ranking, compute_rank_correlation

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ASHA:
    """Stop trials early that are not among the best at a rung (Li et al. 2020, arXiv 1810.05934).

    Rungs are the resources min_t · reduction_factor^k up to max_t. A trial's resource is its
    iteration, plus one if its own first iteration is 0. With its first report at or beyond a rung
    a trial enters that rung with the metric's value, and at each report it is judged at every rung
    it has entered: among n finite values it goes on if its own is one of the ⌈n / reduction_factor⌉
    best. Ties pass; NaN and infinities never do, and are not counted. Trials are not waited for:
    as others arrive, a trial that passed may fail.

    With several metrics, best are those in the first non-dominated fronts, and within a front those
    that have the most room around them; see `rules.fronts`.

    With `promote=True`, trials are paused instead of stopped, and promoted as in the paper: at each
    report a trial is judged at the highest rung that it has entered; if it is not among the best
    there, its process ends with that report, and it goes on as a further attempt when it has come
    to be among the best. `train` must then go on from a checkpoint in `checkpoint_dir()`, written
    before each report: unlike the paper's, a trial may be paused between two rungs, too.

    Args:
        metric: The metric's name in `log`, or a list of several: a trial is judged by what it has
            logged at an iteration, once that is all of them.
        mode: "min" if smaller values are better, "max" if larger ones are; for several metrics one
            word for all, or a list.
        reduction_factor: Of how many trials in a rung about one goes on; 2 or more.
        min_t: The resource up to which no trial is stopped; 1 or more.
        max_t: The resource from which on no trial is stopped; min_t or more.
        promote: Pause trials instead of stopping them.

    Raises:
        UsageError: An argument is out of its range.
        UsageTypeError: An argument is of a wrong type.
    """

    metric: str | Sequence[str]
    mode: str | Sequence[str]
    reduction_factor: float = 4
    min_t: int = 1
    max_t: int = 50
    promote: bool = False

    def __post_init__(self) -> None:
        metric, mode = name_goals(check_goals("ASHA", self.metric, self.mode))
        promote = check_flag("ASHA", "promote", self.promote)
        min_t = check_integer("ASHA", "min_t", self.min_t, 1)
        max_t = check_integer("ASHA", "max_t", self.max_t)
        if max_t < min_t:
            raise UsageError(f"ASHA: max_t must be min_t={min_t!r} or more, got {max_t!r}")
        factor = check_reduction_factor("ASHA", self.reduction_factor)
        set_fields(self, metric=metric, mode=mode, min_t=min_t, max_t=max_t)
        set_fields(self, reduction_factor=factor, promote=promote)

    @property
    def rungs(self) -> tuple[int, ...]:
        """The rungs' resources, ascending; a broken one is rounded up to the next whole one."""
        return compute_rungs(self.min_t, self.max_t, self.reduction_factor)

    def build_pruner(self) -> AshaPruner:
        """Return the rule in the form that takes reports one by one, with no trial known yet."""
        return (PromotionPruner if self.promote else AshaPruner)(self, self.rungs)

    def find_trials_to_prune(self, database: pd.DataFrame) -> list[str]:
        """Return the trials that fail at some rung, given all metrics logged so far.

        `promote` makes no difference to it.

        Args:
            database: One row per trial and iteration, with the columns `trial_id`, `iteration`
                (from 0 or 1 on) and `metric_<name>`. Of rows for the same trial and iteration the
                last one counts. A missing value counts as NaN, so leave out the rows in which the
                metric was not logged. The frame is not changed.

        Returns:
            Their ids, in the order in which they first appear.

        Raises:
            UsageError: A column is missing, or a row has no trial_id or no iteration.
        """
        import pandas as pd

        columns = [f"metric_{goal.metric}" for goal in check_goals("ASHA", self.metric, self.mode)]
        _check_columns(database, ["trial_id", "iteration", *columns])
        codes, trial_ids = pd.factorize(database["trial_id"])
        iterations = database["iteration"].to_numpy(dtype=float)
        sides = [database[c].to_numpy(dtype=float, na_value=math.nan).tolist() for c in columns]
        values = sides[0] if len(sides) == 1 else list(zip(*sides, strict=True))
        pruner = AshaPruner(self, self.rungs)
        for row in zip(codes.tolist(), iterations.tolist(), values, strict=True):
            pruner.report(*row)
        failing = (pruner.judge(code) is Decision.PRUNE for code in range(len(trial_ids)))
        return [str(trial_id) for trial_id in compress(trial_ids, failing)]


@dataclass(frozen=True, slots=True)
class Hyperband:
    """Asynchronous Hyperband: several ASHAs that begin to stop trials at different resources.

    For a metric whose first values may say nothing about later ones: some trials are given more
    time before they are judged. Where they do say something, ASHA alone finds as good a
    configuration sooner. (Li et al. 2018, arXiv 1603.06560.)

    Args:
        metric: The metric's name in `log`, or a list of several, as for `ASHA`.
        mode: "min" if smaller values are better, "max" if larger ones are; or a list.
        max_t: The resource from which on no trial is stopped; 1 or more.
        reduction_factor: Of how many trials in a rung about one goes on; 2 or more.

    Raises:
        UsageError: An argument is out of its range.
        UsageTypeError: An argument is of a wrong type.
    """

    metric: str | Sequence[str]
    mode: str | Sequence[str]
    max_t: int = 50
    reduction_factor: float = 4

    def __post_init__(self) -> None:
        metric, mode = name_goals(check_goals("Hyperband", self.metric, self.mode))
        max_t = check_integer("Hyperband", "max_t", self.max_t, 1)
        factor = check_reduction_factor("Hyperband", self.reduction_factor)
        set_fields(self, metric=metric, mode=mode, max_t=max_t, reduction_factor=factor)

    @property
    def rungs(self) -> tuple[int, ...]:
        """The first bracket's rungs; bracket b has those from number b on."""
        return compute_rungs(1, self.max_t, self.reduction_factor)

    def build_pruner(self) -> HyperbandPruner:
        """Return the rule in the form that takes reports one by one, with no trial known yet."""
        return HyperbandPruner(self)


def _check_columns(database: pd.DataFrame, wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in database.columns]
    if missing:
        raise UsageError(
            f"The frame has no column {missing[0]!r}; ASHA needs {wanted!r}, "
            f"got {list(database.columns)!r}"
        )
    for name in wanted[:2]:
        absent = database[name].isna().to_numpy()
        if absent.any():
            raise UsageError(
                f"Row {absent.argmax()} of the frame (from 0) has no {name}; leave such rows out"
            )


#: So many trials must be in the second rung before the first one is doubted.
N_DOUBT = 50

#: A rank correlation below this is near zero. Only the best of the first rung are in the second,
#: which lowers it: of 0.5 among all trials about 0.27 is left among the best quarter.
LOW_CORRELATION = 0.1


def compute_rungs(min_t: int, max_t: int, reduction_factor: float) -> tuple[int, ...]:
    """Return min_t · reduction_factor^k up to max_t, each rounded up to the next whole resource."""
    levels = []
    level = Fraction(min_t)  # so that none is off by a rounding
    while level <= max_t:
        levels.append(math.ceil(level))
        level *= as_fraction(reduction_factor)
    return tuple(levels)


class _Entry(NamedTuple):
    """A trial's value in a rung, for `mode="min"`; NaN for all that never passes."""

    iteration: int
    value: Any  # a float, or of several metrics a tuple


@dataclass(slots=True)
class _Standing:
    """Where a trial stands: one entry for each level it has entered, lowest first."""

    offset: int = 0
    entries: tuple[_Entry, ...] = ()


def build_rankings(reduction_factor: float, n: int, n_metrics: int) -> tuple[Any, ...]:
    """Return the rankings of n rungs: of numbers, or of points of several metrics."""
    factor = as_fraction(reduction_factor)
    if n_metrics == 1:
        return tuple(Ranking(factor) for _ in range(n))
    from .fronts import FrontRanking  # loads NumPy

    return tuple(FrontRanking(factor) for _ in range(n))


class AshaPruner:
    """The incremental ASHA, of all its rungs or a bracket's: O(rungs · log n) a report.

    It takes about 300 bytes a trial. Of several metrics a report costs more, see `rules.fronts`.
    """

    def __init__(self, plan: ASHA | Hyperband, rungs: tuple[int, ...]) -> None:
        goals = check_goals("", plan.metric, plan.mode)
        self._sign = goals[0].sign
        self._signs = tuple(goal.sign for goal in goals) if len(goals) > 1 else ()
        self._levels = (*(level for level in rungs if level < plan.max_t), plan.max_t)
        self._rankings = build_rankings(plan.reduction_factor, len(self._levels) - 1, len(goals))
        self._standings: dict[Hashable, _Standing] = {}
        self._level_above = {level - 1: i for i, level in enumerate(self._levels)}
        self._just_below: dict[tuple[Hashable, int], float] = {}
        self._doubt_at = N_DOUBT

    def pop_doubt(self) -> str | None:
        """Say, once, that the first rung tells nothing of the second; None while it seems to.

        Costs O(n log n), but only as the number of trials in the second rung doubles.
        """
        if len(self._rankings) < 2 or len(self._rankings[1]) < self._doubt_at:
            return None
        pairs = [
            (standing.entries[0].value, standing.entries[1].value)
            for standing in self._standings.values()
            if len(standing.entries) > 1
        ]
        pairs = [pair for pair in pairs if all(value == value for value in pair)]
        if self._signs:  # the metric that says the most
            sides = ([(a[i], b[i]) for a, b in pairs] for i in range(len(self._signs)))
            correlation = max(map(compute_rank_correlation, sides))
        else:
            correlation = compute_rank_correlation(pairs)
        self._doubt_at = 2 * len(self._rankings[1])  # many at once, where they are told again
        if correlation >= LOW_CORRELATION:
            return None
        self._doubt_at = sys.maxsize
        first, second = self._levels[:2]
        return (
            f"at resource {first} the metric says next to nothing about resource {second} (rank "
            f"correlation {correlation:.2f} over {len(pairs)} trials), so trials are stopped there "
            "almost at random: leave out a report before any training, or try a larger min_t"
        )

    def report(self, trial: Hashable, iteration: int, value: Any) -> Decision:
        """Take in a value and decide on the trial that reported it; see `Pruner.report`."""
        standing = self._standings.get(trial)
        if standing is None:
            standing = self._standings[trial] = _Standing()
        if self._signs:
            signed = self._sign_all(value)
        else:
            signed = self._sign * value if math.isfinite(value) else math.nan
        if standing.offset == 0:
            if iteration == 0:
                self._count_from_zero(trial, standing)
            elif (above := self._level_above.get(iteration)) is not None:
                self._just_below[trial, above] = signed
        if self._may_enter(standing, iteration):
            self._enter(standing, _Entry(iteration, signed))
        return self._judge(standing)

    def _sign_all(self, values: Sequence[float]) -> Any:
        if not all(map(math.isfinite, values)):
            return math.nan
        return tuple(sign * value for sign, value in zip(self._signs, values, strict=True))

    def judge(self, trial: Hashable) -> Decision:
        """Decide on a trial as it stands now, without a report of its own."""
        return self._judge(self._standings.get(trial, _Standing()))

    def judge_at(self, trial: Hashable, iteration: int) -> Decision:
        """Decide on a trial as it would be at an iteration: at the rungs up to that one alone."""
        standing = self._standings.get(trial, _Standing())
        n_entered = bisect(self._levels, iteration + standing.offset)
        return self._judge(_Standing(standing.offset, standing.entries[:n_entered]))

    def _judge(self, standing: _Standing) -> Decision:
        if len(standing.entries) < len(self._levels):
            for entry, ranking in zip(standing.entries, self._rankings, strict=False):
                if not entry.value <= ranking.threshold:  # as NaN never is
                    return Decision.PRUNE
        return Decision.GO_ON

    def _may_enter(self, standing: _Standing, iteration: int) -> bool:
        # Most reports lie between two levels, beyond all that the trial has entered.
        n_entered = len(standing.entries)
        if n_entered and iteration <= standing.entries[-1].iteration:
            return True
        if n_entered == len(self._levels):
            return False
        return iteration + standing.offset >= self._levels[n_entered]

    def _enter(self, standing: _Standing, entry: _Entry) -> None:
        resource = entry.iteration + standing.offset
        for i, level in enumerate(self._levels):
            if level > resource:
                return
            if i == len(standing.entries) or entry.iteration <= standing.entries[i].iteration:
                self._put(standing, i, entry)

    def _put(self, standing: _Standing, i: int, entry: _Entry) -> None:
        entries = standing.entries
        if i < len(self._rankings):
            if i < len(entries):
                self._rankings[i].remove(entries[i].value)
            self._rankings[i].add(entry.value)
        standing.entries = (*entries[:i], entry, *entries[i + 1 :])

    def _count_from_zero(self, trial: Hashable, standing: _Standing) -> None:
        standing.offset = 1
        for iteration, above in self._level_above.items():
            value = self._just_below.pop((trial, above), None)
            if value is not None:
                self._put(standing, above, _Entry(iteration, value))


class PromotionPruner(AshaPruner):
    """The incremental ASHA with promotion: O(rungs · log n) a report and a promotion."""

    def __init__(self, plan: ASHA, rungs: tuple[int, ...]) -> None:
        super().__init__(plan, rungs)
        self._unsorted: list[Hashable] = []
        self._queues = tuple(ranking.build_queue() for ranking in self._rankings)
        self._rung_of: dict[Hashable, int] = {}  # of those that wait

    def _judge(self, standing: _Standing) -> Decision:
        rung = len(standing.entries) - 1
        if not 0 <= rung < len(self._rankings):
            return Decision.GO_ON
        value = standing.entries[rung].value
        if value <= self._rankings[rung].threshold:
            return Decision.GO_ON
        return Decision.PAUSE if value == value else Decision.PRUNE  # NaN

    def pause(self, trial: Hashable) -> None:
        """Take note that a trial waits; see `PromotingPruner.pause`."""
        # Its metrics may be replayed only after this, so its place is looked up when asked for.
        self._unsorted.append(trial)

    def promote(self, trial: Hashable) -> None:
        """Take note that a waiting trial is going on; see `PromotingPruner.promote`."""
        self._sort_in()
        if trial in self._rung_of:
            self._queues[self._rung_of.pop(trial)].drop(trial)

    def find_promotable(self) -> Hashable | None:
        """Return a trial of the highest rung that has one; see `PromotingPruner.promote`."""
        self._sort_in()
        if self._rung_of:
            for queue in reversed(self._queues):
                trial: Hashable | None = queue.find_best()
                if trial is not None:
                    return trial
        return None

    def _sort_in(self) -> None:
        for trial in self._unsorted:
            standing = self._standings.get(trial)
            rung = len(standing.entries) - 1 if standing else -1
            if standing is None or not 0 <= rung < len(self._queues):
                continue
            value = standing.entries[-1].value
            if trial in self._rung_of:
                self._queues[self._rung_of.pop(trial)].drop(trial)
            if value == value:  # no NaN
                self._rung_of[trial] = rung
                self._queues[rung].put(trial, value)
        self._unsorted.clear()


#: The golden ratio's fraction: its multiples are spread most evenly.
_GOLDEN = 0.6180339887498949


class HyperbandPruner:
    """Asynchronous Hyperband, several ASHAs side by side: O(rungs · log n) a report.

    Bracket b has the rungs from number b on. Each trial belongs to one bracket for good, and is
    judged among the trials of that bracket alone. Brackets get trials in the shares of Hyperband,
    spread evenly over the trial numbers.
    """

    def __init__(self, plan: Hyperband) -> None:
        rungs, n = plan.rungs, len(plan.rungs)
        self._brackets = [AshaPruner(plan, rungs[b:]) for b in range(n)]
        shares = [plan.reduction_factor ** (n - 1 - b) * n / (n - b) for b in range(n)]
        self._bounds = [bound / sum(shares) for bound in accumulate(shares[:-1])]

    def report(self, trial: Hashable, iteration: int, value: Any) -> Decision:
        """Take in a value and decide on the trial that reported it; see `Pruner.report`."""
        return self._find_bracket(trial).report(trial, iteration, value)

    def judge_at(self, trial: Hashable, iteration: int) -> Decision:
        """Decide on a trial as it would be at an iteration; see `AshaPruner.judge_at`."""
        return self._find_bracket(trial).judge_at(trial, iteration)

    def _find_bracket(self, trial: Hashable) -> AshaPruner:
        return self._brackets[bisect(self._bounds, _spread(trial))]


def _spread(trial: Hashable) -> float:
    """Return a number in [0, 1) for a trial, the same in every process."""
    if isinstance(trial, int):
        return (trial + 1) * _GOLDEN % 1.0
    import hashlib  # as in `trial`: for OpenSSL

    digest = hashlib.blake2s(str(trial).encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
