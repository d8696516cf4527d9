"""The race of configurations that are run several times: who is given its next run, and who stops.

With a `Repeat` in the cfg each run is a trial as any other. What is particular stands here, around
the sampler and the rule of the sweep, which see configurations where they else see trials:

- `Race` knows which trial is a run of which configuration, and what all have reported. It is asked
  who leads. Runs are rungs of a successive halving (ASHA's promotion, Li et al. 2020, with the
  number of runs as the resource): a configuration whose k runs all count is given another one when
  their mean is among the best ⌈m / FACTOR⌉ of the m that have k runs. So, as in racing (Hutter et
  al. 2011, SMAC; López-Ibáñez et al. 2016, irace), whatever fares worse over the same runs gets no
  more of them, and nobody is waited for. A run counts when it has completed or, where a rule has
  rungs, has come to a high one (`find_counting_rung`), with its best value up to there: all are
  compared at the same resource, and long before their ends.
- `RacingSampler` asks for the next run of whoever leads, else for what the sampler proposes. The
  sampler is told of each configuration once: the mean of its completed runs.
- `RacingPruner` has the rule hear, for each report, the mean of the configuration's runs at that
  iteration, and judges a run at the rungs that it has come to by itself.

All is a function of what is stored of each trial, whatever the order, so that a restored sweep goes
on alike.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from heapq import heappop, heappush
from typing import Any

from .rules.asha import AshaPruner, HyperbandPruner
from .rules.protocol import Decision, DoubtingPruner, PromotingPruner, Pruner
from .rules.ranking import Ranking
from .samplers import Observation, Sampler, StudyingSampler
from .samplers.optuna import OptunaSampler
from .search.repeat import Repeats
from .trial import Status, split_cfg

#: Of so many configurations with k runs about one is given another run.
FACTOR = 2


@dataclass(slots=True, eq=False)
class Configuration:
    """A configuration and its trials."""

    number: int  # that of its first trial
    cfg: dict[str, Any]  # as its first trial had it
    trials: dict[int, int] = field(default_factory=dict)  # the place of each one's value, by number
    statuses: dict[int, Status] = field(default_factory=dict)
    n_given: int = 0  # values that some trial has, or was asked for
    means: list[float] = field(default_factory=list)  # of its first k runs, lower is better


class Race:
    """The configurations of a sweep, their trials, and who of them leads.

    It keeps all values of its trials, about 100 bytes each.

    Args:
        path: The dotted name of the Repeat.
        values: Its values, in order.
        sign: 1 if lower values of the metric are better, -1 if higher ones are.
        counts_at: The iteration from which on a run counts; None: only once it has completed.
    """

    def __init__(
        self, path: str, values: tuple[Any, ...], sign: float, counts_at: int | None = None
    ) -> None:
        self._path = path
        self._counts_at = math.inf if counts_at is None else counts_at
        self._counting: set[int] = set()
        self._places = {value: place for place, value in enumerate(values)}
        self._sign = sign
        self._found: dict[str, Configuration] = {}
        self._of_trial: dict[int, Configuration] = {}
        self._values: dict[int, dict[int, float]] = defaultdict(dict)  # by trial and iteration
        self._rankings = [Ranking(Fraction(FACTOR)) for _ in values[1:]]
        self._waiting: list[list[tuple[float, int, Configuration]]] = [[] for _ in values[1:]]

    def note(self, number: int, cfg: dict[str, Any]) -> Configuration:
        """Take note of a trial; return its configuration."""
        if number not in self._of_trial:
            key, value = split_cfg(cfg, self._path)
            found = self._found.get(key)
            if found is None:
                found = self._found[key] = Configuration(number, cfg)
            place = found.trials[number] = self._places[value]
            found.n_given = max(found.n_given, place + 1)
            self._of_trial[number] = found
        return self._of_trial[number]

    def find(self, number: int) -> Configuration:
        """Return a noted trial's configuration."""
        return self._of_trial[number]

    def note_value(self, number: int, iteration: int, value: float) -> float:
        """Take in a trial's value; return the mean of its configuration at that iteration."""
        self._values[number][iteration] = value
        if iteration >= self._counts_at or number in self._counting:
            is_new = number not in self._counting
            self._counting.add(number)
            if is_new or iteration <= self._counts_at:
                self._rank(self._of_trial[number])
        runs = (self._values.get(each, {}) for each in self._of_trial[number].trials)
        known = [run[iteration] for run in runs if iteration in run]
        return known[0] if len(known) == 1 else math.fsum(known) / len(known)

    def note_status(self, number: int, status: Status) -> None:
        """Take note of what a trial is at; of its values all up to there must be known."""
        found = self._of_trial[number]
        found.statuses[number] = status
        if status is Status.COMPLETED and number not in self._counting:
            self._counting.add(number)
            self._rank(found)

    def leads(self, found: Configuration) -> bool:
        """Whether a configuration is to be given its next run."""
        k = len(found.means)
        if not 0 < k == found.n_given <= len(self._rankings):
            return False
        if not {Status.INFEASIBLE, Status.FAILED}.isdisjoint(found.statuses.values()):
            return False
        return found.means[-1] <= self._rankings[k - 1].threshold

    def pop_leader(self) -> tuple[Configuration, int] | None:
        """Return who is given a run now, the best with the most runs, and its value's place."""
        for heap in reversed(self._waiting):
            while heap and not self._waits(heap[0]):
                heappop(heap)
            if heap and self.leads(found := heap[0][2]):
                found.n_given += 1
                return found, found.n_given - 1
        return None

    def forget_given(self) -> None:
        """Take it that no trial has begun yet, to hear again of each that begins."""
        for found in self._found.values():
            found.n_given = 0

    def give(self, number: int) -> bool:
        """Take note that a trial begins; say whether it is a first run, or of who leads."""
        found = self._of_trial[number]
        place = found.trials[number]
        is_due = place == 0 or (place == found.n_given and self.leads(found))
        found.n_given = max(found.n_given, place + 1)
        return is_due

    def _waits(self, entry: tuple[float, int, Configuration]) -> bool:
        mean, _, found = entry
        k = len(found.means)
        return k == found.n_given and found.means[-1] == mean

    def _rank(self, found: Configuration) -> None:
        means = self._compute_means(found)
        for ranking, old in zip(self._rankings, found.means, strict=False):
            ranking.remove(old)
        for ranking, new in zip(self._rankings, means, strict=False):
            ranking.add(new)
        found.means = means
        if 0 < len(means) <= len(self._waiting):
            heappush(self._waiting[len(means) - 1], (means[-1], found.number, found))

    def _compute_means(self, found: Configuration) -> list[float]:
        """Return the means of its first run, its first two, …, while these count."""
        runs: dict[int, list[float]] = {}
        for number, place in found.trials.items():
            if number in self._counting:
                best = self._find_best(number)
                if math.isfinite(best):
                    runs.setdefault(place, []).append(best)
        values: list[float] = []
        while (same := runs.get(len(values))) is not None:
            values.append(math.fsum(same) / len(same))
        return [math.fsum(values[:k]) / k for k in range(1, len(values) + 1)]

    def _find_best(self, number: int) -> float:
        curve = self._values.get(number, {})
        values = (self._sign * value for at, value in curve.items() if at <= self._counts_at)
        return min(filter(math.isfinite, values), default=math.inf)


class RacingSampler:
    """Proposes the next run of whoever leads, else what a sampler proposes; see the module.

    That sampler's are configurations of the space without the Repeat.
    """

    asks_again = True  # somebody may lead when a run has ended

    def __init__(self, sampler: Sampler, race: Race, repeats: Repeats) -> None:
        self._sampler = sampler
        self._race = race
        self._repeats = repeats
        self._n_told = 0  # numbers of the sampler's trials: its own, and those of others' making
        self._asked: dict[str, list[int]] = {}  # not told of yet, by configuration
        self._numbers: dict[int, int] = {}  # the sampler's, by that of a configuration's first run
        self._seen: dict[int, Observation] = {}

    def ask(self, now: float) -> dict[str, Any] | None:
        """Return the cfg of the next trial; None while there is none, until a trial has ended."""
        if leader := self._race.pop_leader():
            found, place = leader
            return self._repeats.write(found.cfg, place)
        cfg = self._sampler.ask(now)
        if cfg is not None:
            self._asked.setdefault(self._key(cfg), []).append(self._begin())
        return cfg

    def tell(self, trial: Observation) -> None:
        """Take note of a trial, and tell the sampler of its configuration."""
        found = self._race.note(trial.number, trial.cfg)
        self._race.note_status(trial.number, trial.status)
        self._seen[trial.number] = trial
        if found.trials[trial.number] == 0 and trial.number not in self._numbers:
            asked = self._asked.get(self._key(trial.cfg))
            self._numbers[trial.number] = asked.pop(0) if asked else self._begin()
        for number in [each for each in found.trials if each in self._numbers]:
            if number == trial.number or self._adds(trial):
                told = self._sum_up(found, self._seen[number])
                self._sampler.tell(replace(told, number=self._numbers[number]))

    def _begin(self) -> int:
        self._n_told += 1
        return self._n_told - 1

    def _key(self, cfg: dict[str, Any]) -> str:
        return split_cfg(cfg, self._repeats.path)[0]

    def _adds(self, trial: Observation) -> bool:
        """Whether a further run changes what the sampler is told of its configuration."""
        # What Optuna was told it keeps: it would have another point.
        tells = trial.status in (Status.COMPLETED, Status.INFEASIBLE)
        return tells and not isinstance(self._sampler, OptunaSampler)

    def _sum_up(self, found: Configuration, first: Observation) -> Observation:
        """Make what is told of a configuration of what is known of its runs."""
        if Status.INFEASIBLE in found.statuses.values():
            return replace(first, status=Status.INFEASIBLE)
        runs = [self._seen[n] for n, s in found.statuses.items() if s is Status.COMPLETED]
        if len(runs) < 2 or first not in runs:
            return first
        shared = set.intersection(*(set(run.curve) for run in runs))
        curve = {at: _mean(run.curve[at] for run in runs) for at in sorted(shared)}
        at, value = next(reversed(curve.items()), (first.iteration, first.value))
        return replace(first, iteration=at, value=value, curve=curve)


class StudyingRacingSampler(RacingSampler):
    """The same of a sampler that studies; see `StudyingSampler`."""

    def __init__(self, sampler: StudyingSampler, race: Race, repeats: Repeats) -> None:
        super().__init__(sampler, race, repeats)
        self._student = sampler
        self.plan_study = sampler.plan_study
        self.learn = sampler.learn
        if (draw_at_random := getattr(sampler, "draw_at_random", None)) is not None:
            self.draw_at_random = draw_at_random

    @property
    def studies_apart(self) -> bool:
        """Whether someone else has it study."""
        return self._student.studies_apart

    @studies_apart.setter
    def studies_apart(self, value: bool) -> None:
        self._student.studies_apart = value

    @property
    def awaits_study(self) -> bool:
        """Whether the next proposal has to wait for a study."""
        return self._student.awaits_study


class RacingPruner:
    """Has a rule judge configurations, each by the means of its runs; see the module.

    Args:
        race: The configurations; all trials that report must have been noted.
        rule: The rule; None stops nobody.
    """

    def __init__(self, race: Race, rule: Pruner | None) -> None:
        self._race = race
        self._rule = rule
        self._judge_at = None
        if isinstance(rule, AshaPruner | HyperbandPruner) and not isinstance(rule, PromotingPruner):
            self._judge_at = rule.judge_at

    def report(self, trial: Any, iteration: int, value: float) -> Decision:
        """Take in a value and decide on the trial that reported it; see `Pruner.report`."""
        mean = self._race.note_value(trial, iteration, value)
        if self._rule is None:
            return Decision.GO_ON
        number = self._race.find(trial).number
        decision = self._rule.report(number, iteration, mean)
        # Where a run before has come further, that is not held against this one, nor for it.
        return decision if self._judge_at is None else self._judge_at(number, iteration)

    def pop_doubt(self) -> str | None:
        """Say what the rule has to say of itself; see `DoubtingPruner`."""
        return self._rule.pop_doubt() if isinstance(self._rule, DoubtingPruner) else None


class RacingPromotingPruner(RacingPruner):
    """The same of a rule that pauses trials; see `PromotingPruner`."""

    def __init__(self, race: Race, rule: PromotingPruner) -> None:
        super().__init__(race, rule)
        self._promoter = rule
        self._paused: dict[Hashable, list[Any]] = {}  # trials by the number of their configuration

    def pause(self, trial: Any) -> None:
        """Take note that a trial waits; see `PromotingPruner.pause`."""
        number = self._race.find(trial).number
        insort(self._paused.setdefault(number, []), trial)
        self._promoter.pause(number)

    def find_promotable(self) -> Any:
        """Return a trial that is to go on; see `PromotingPruner.find_promotable`."""
        waiting = self._paused.get(self._promoter.find_promotable())
        return waiting[0] if waiting else None

    def promote(self, trial: Any) -> None:
        """Take note that a waiting trial is going on; see `PromotingPruner.promote`."""
        number = self._race.find(trial).number
        self._paused[number].remove(trial)
        self._promoter.promote(number)
        if self._paused[number]:
            self._promoter.pause(number)


def find_counting_rung(rungs: Sequence[int], max_t: int, reduction_factor: float) -> int:
    """Return the highest rung that leaves a run a stretch of its way at least.

    That is the highest of at most max_t / reduction_factor, else the first.
    """
    return max((rung for rung in rungs if rung * reduction_factor <= max_t), default=rungs[0])


def build_pruner(race: Race, rule: Pruner | None) -> RacingPruner:
    """Return what judges the runs of a race by a rule, which may be one that pauses trials."""
    if isinstance(rule, PromotingPruner):
        return RacingPromotingPruner(race, rule)
    return RacingPruner(race, rule)


def build_sampler(sampler: Sampler, race: Race, repeats: Repeats) -> RacingSampler:
    """Return what proposes the runs of a race, and else what a sampler proposes."""
    if isinstance(sampler, StudyingSampler):
        return StudyingRacingSampler(sampler, race, repeats)
    return RacingSampler(sampler, race, repeats)


def _mean(values: Iterator[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known)
