"""The search of one experiment: its space, its sampler, its rule; and the sweep made of them."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..checks import Goal
from ..errors import UsageError
from ..rules.asha import ASHA, Hyperband
from ..rules.feasible import Bound
from ..rules.protocol import PrunerPlan
from ..running.processes import PYTHON
from ..samplers import (
    HOW_TO_NAME_A_GOAL,
    Design,
    DesignSampler,
    Grid,
    GridSampler,
    NumberedSampler,
    Problem,
    Random,
    Sampler,
    SamplerPlan,
    bind_sampler,
)
from ..search.draws import describe_where, fill_points, list_guesses
from ..search.repeat import Repeats
from ..search.search_space import SearchSpace, list_differences
from ..storage.database import Database
from ..storage.records import ExperimentRecord, LeaseOwner, TrialRecord
from ..storage.rows import read_trials
from ..sweep import Sweep
from ..sweep_types import SweepCfg
from ..trial import compute_trial_id, compute_trial_seed
from .arguments import RunCfg, describe_pruner, list_constant_lists
from .warm_start import Known

if TYPE_CHECKING:
    from ..race import Race

#: Samplers that propose only what `where` allows.
CAREFUL = NumberedSampler, DesignSampler

#: In a larger space it isn't counted what is left of it where some is skipped.
MOST_COUNTED = 100_000


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched, and by which rules; None is what the user has left open."""

    space: SearchSpace
    goals: tuple[Goal, ...]
    pruner: PrunerPlan | None
    sampler: SamplerPlan | None
    seed: int | None
    points: tuple[dict[str, Any], ...] = ()  # or parts of some, to be tried first
    known: tuple[Known, ...] = ()  # from an earlier sweep
    feasible: Mapping[str, Bound] = field(default_factory=dict)  # by metric
    skipped: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # by id, not to be run
    repeats: Repeats | None = None  # where configurations are run several times
    changed: Mapping[str, Any] | None = None  # the space may have grown: new values of old trials
    again: str | None = None  # the command that goes on with it, where it is of a file

    @property
    def proposed(self) -> SearchSpace:
        """The space of what the sampler proposes: `space`, where nothing is run several times."""
        return self.space if self.repeats is None else self.repeats.space

    @property
    def goal(self) -> Goal | None:
        """The metric that the sweep is after; the first of several."""
        return self.goals[0] if self.goals else None

    @property
    def _several(self) -> tuple[Goal, ...]:
        return self.goals if len(self.goals) > 1 else ()

    def describe(self) -> dict[str, Any]:
        """Write down the settings of a new experiment, JSON-able."""
        return {
            "version": __version__,
            "python": sys.executable,
            "python_version": PYTHON,
            "seed": secrets.randbits(32) if self.seed is None else self.seed,
            "is_seeded": self.seed is not None,
            "space": self.space.describe(),
            "metric": self.goal.metric if self.goal else None,
            "mode": self.goal.mode if self.goal else None,
            "objectives": [list(goal) for goal in self._several] or None,
            "asha": describe_pruner(self.pruner) if self.pruner else None,
            "draws": self._describe_draws(),
            "where": describe_where(self.space.where),
            "feasible": {name: str(bound) for name, bound in self.feasible.items()} or None,
            "repeat": self._describe_repeat(),
            "again": self.again,
        }

    @property
    def _is_grid(self) -> bool:
        """Whether all points of a grid are run, unless another sampler draws from it."""
        return isinstance(self.sampler, Grid) or (self.sampler is None and bool(self.space.grids))

    @property
    def is_of_fixed_size(self) -> bool:
        """Whether what is tried says how many trials there are, and not `n_trials`."""
        return self._is_grid or isinstance(self.sampler, Design)

    def _describe_draws(self) -> dict[str, Any] | None:
        """Write down how configurations are drawn, where seed and number alone decide that."""
        sampler = self.sampler or (Grid() if self.space.grids else Random())
        is_informed = self.known or self.skipped or self.space.where
        if not isinstance(sampler, Grid | Random | Design) or is_informed:
            return None
        kind, arguments = type(sampler).__name__, dataclasses.asdict(sampler)
        n_points = len(self._list_guesses(0)) + len(self.points)  # before the sampler is asked
        return {"sampler": kind, "arguments": arguments, "points": n_points}

    def _list_guesses(self, seed: int) -> list[dict[str, Any]]:
        """Return what the spaces' guesses come to; a design is a study, and takes none."""
        return [] if isinstance(self.sampler, Design) else list_guesses(self.proposed, seed)

    def check_run(self, cfg: RunCfg) -> None:
        """Raise UsageError for a run that would never end, or never know that it has."""
        if cfg.target is not None and self.goal is None:
            raise UsageError(f"target={cfg.target!r} needs a metric: {HOW_TO_NAME_A_GOAL}")
        if cfg.target is not None and self.repeats:
            raise UsageError(
                f"target={cfg.target!r} can be reached by one lucky run, where cfg has a Repeat to "
                "judge configurations by several: leave it out, or pass time_budget_in_sec"
            )
        if cfg.target is not None and self._several:
            raise UsageError(
                f"target={cfg.target!r} is of one metric, and the experiment has several, "
                f"{[goal.metric for goal in self.goals]!r}: leave it out, or name one metric"
            )
        ends = (cfg.n_trials, cfg.time_budget_s, cfg.target)
        if ends == (None, None, None) and not self.is_of_fixed_size:
            raise UsageError("n_trials=None never ends: pass time_budget_in_sec or target too")

    def build_sweep(
        self,
        database: Database,
        record: ExperimentRecord,
        owner: LeaseOwner,
        cfg: RunCfg,
        slots: int,
        more_slots: int,
        notify: Callable[[str], None],
    ) -> Sweep:
        """Build the sweep, at its beginning or where it stopped, and write down its settings.

        Raises:
            UsageError: What is stored was begun with another space or seed.
        """
        settings = dict(record.settings)
        if self.check_same(record.name, settings):
            from .restore import extend

            settings = extend(database, record, owner, self.space, self.changed or {}, notify)
        is_seeded = settings.get("is_seeded", self.seed is not None)
        metric, mode = self.goal or (None, None)
        problem = Problem(self.proposed, settings["seed"], metric, mode, is_seeded, self._several)
        pruner = self.pruner.build_pruner() if self.pruner else None
        sampler = self._build_sampler(problem)
        # All points of a grid, unless another sampler draws from it.
        n_trials = self._limit_to_new(cfg.n_trials)
        if isinstance(sampler, GridSampler):
            n_trials = self._count_grid_trials(sampler.n_left, cfg.n_trials)
        elif isinstance(sampler, DesignSampler):
            n_trials = sampler.n_left + len(self.points)
        allows = None if isinstance(sampler, CAREFUL) else self.space.allows
        race = self._build_race()
        if race is not None and self.repeats is not None:
            from ..race import build_pruner, build_sampler

            if isinstance(sampler, DesignSampler):
                raise UsageError(
                    f"cfg[{self.repeats.path!r}] is a Repeat, and {self.sampler!r} runs each point "
                    "of its design once: leave one of them out"
                )
            pruner, sampler = build_pruner(race, pruner), build_sampler(sampler, race, self.repeats)
        sweep = Sweep(
            SweepCfg(
                n_trials,
                self.goal,
                cfg.max_retries,
                cfg.fail_fast,
                slots + more_slots,
                cfg.target,
                self.pruner.metric if self.pruner else None,
                seed=settings["seed"],
                feasible=self.feasible,
                learns_memory=cfg.out_of_memory == "infeasible",
                goals=self._several,
                allows=allows,
            ),
            sampler,
            pruner,
            self._fill_points(settings["seed"]),
            partial(self._complete, settings["seed"]),
        )
        now = self.describe()
        with _paused_collector():  # of all that is read nothing is garbage
            trials: Sequence[TrialRecord] = read_trials(database, record.id)
            if trials:
                from .restore import restore

                known = dataclasses.replace(record, settings=settings)
                parts = sweep, self.space, pruner, race, database, known
                trials = restore(*parts, trials, self.again, notify)
        if trials:
            from .restore import keep_draws, list_refused

            for text in list_refused(settings, now, self.space, trials):
                notify(text)
            now["draws"] = keep_draws(settings.get("draws"), now["draws"], len(trials))
        settings |= {
            **now,
            "seed": settings["seed"],
            "is_seeded": is_seeded,
            "n_trials": n_trials,
            "time_budget_s": cfg.time_budget_s,
            "target": cfg.target,
            "slots": slots,
            "more_slots": more_slots,
        }
        if not sweep.is_done:  # else no run begins
            done = sum(trial.status.is_final for trial in trials)
            settings |= {"started_at": time.time(), "done_before": done}
        database.set_settings(record.id, settings, owner, time.time())
        return sweep

    def _build_race(self) -> Race | None:
        if self.repeats is None or self.goal is None:
            return None
        from ..race import Race

        counts_at = self._find_counting_rung()
        return Race(self.repeats.path, self.repeats.values, self.goal.sign, counts_at)

    def _describe_repeat(self) -> dict[str, Any] | None:
        if self.repeats is None:
            return None
        return {"path": self.repeats.path, "counts_at": self._find_counting_rung()}

    def _find_counting_rung(self) -> int | None:
        """Return from which iteration on a run counts in the race; None: once it has completed."""
        rule = self.pruner
        if not isinstance(rule, ASHA | Hyperband):
            return None
        from ..race import find_counting_rung

        return find_counting_rung(rule.rungs, rule.max_t, rule.reduction_factor)

    @property
    def _n_runs(self) -> int:
        """How many runs a configuration can have."""
        return 1 if self.repeats is None else len(self.repeats.values)

    def _count_grid_trials(self, n_points: int, n_trials: int | None) -> int:
        """Return how many trials a grid has: each point one, and further runs if there are any."""
        most = n_points * self._n_runs
        return most if n_trials is None else min(max(n_trials, n_points), most)

    def _limit_to_new(self, n_trials: int | None) -> int | None:
        """Return how many trials there can be where some of a finite space's are skipped."""
        space = self.proposed
        size = space.size
        if size is None or size > MOST_COUNTED or not self.skipped:
            return n_trials
        allowed = (cfg for cfg in map(space.at, range(size)) if space.allows(cfg))
        left = sum(compute_trial_id(cfg) not in self.skipped for cfg in allowed) * self._n_runs
        return left if n_trials is None else min(n_trials, left)

    def _fill_points(self, seed: int) -> Sequence[dict[str, Any]]:
        given = fill_points(self.points, self.proposed, seed)
        points = [*self._list_guesses(seed), *given]
        return [cfg for cfg in points if compute_trial_id(cfg) not in self.skipped]

    def _complete(self, seed: int, part: Any, number: int) -> dict[str, Any]:
        """Make a configuration of a part that somebody adds; the same for the same number."""
        (cfg,) = fill_points([part], self.proposed, compute_trial_seed(seed, number), "the cfg")
        return cfg

    def _build_sampler(self, problem: Problem) -> Sampler:
        sampler: Any = bind_sampler(self.sampler, problem)
        if self.known and not hasattr(sampler, "warm_up"):
            raise UsageError(
                "warm_start needs a sampler with a method warm_up(cfg, value), "
                f"which {sampler!r} has not"
            )
        if self.skipped and not hasattr(sampler, "skip"):
            raise UsageError(
                f"skip needs a sampler with a method skip(cfg), which {sampler!r} has not"
            )
        for cfg in self.skipped.values():
            sampler.skip(cfg)
        for cfg, value in self.known:
            sampler.warm_up(cfg, value)
        bound: Sampler = sampler
        return bound

    def list_doubts(self, asked: int | None, n_trials: int | None) -> Iterator[str]:
        """Say what makes sense, but may not be what is meant.

        More trials than points are meant where there is no space at all.

        Args:
            asked: The `n_trials` of `run`.
            n_trials: How many there are to be, the points of a grid for instance.
        """
        points = self.space.n_grid_points
        if self._is_grid and n_trials is not None and n_trials < points:
            why = "another sweep has tried" if self.skipped or self.known else "where refuses"
            if why != "where refuses" and self.space.where is not None:
                why += ", or where refuses,"
            yield (
                f"{why} {points - n_trials} of the {points} points of the grids in cfg, so that "
                f"{n_trials} are run"
            )
        elif self._is_grid and asked not in (None, points) and self._n_runs == 1:
            said = "" if asked == 1 else f" ({asked})"  # by default
            yield (
                f"the grids in cfg have {points} points, each of which is run once, whatever "
                f"n_trials{said} says; sampler=ss.samplers.Random() draws n_trials of them"
            )
        if isinstance(self.sampler, Design):
            left = (n_trials or 0) - len(self.points)
            yield from self.sampler.list_doubts(self.space, asked, left)
        size, wanted = self.space.size, n_trials or 0
        if self.space.leaves and size is not None and size < wanted:
            yield (
                f"the search space has only {size} different configuration{'s' * (size > 1)}: "
                f"{wanted - size} of the {wanted} trials repeat an earlier one"
            )
        if self.space.leaves and not self.space.grids and wanted == 1:
            yield "n_trials is 1, so one trial is run: run(n_trials=100) tries 100 configurations"
        if wanted != 1:
            yield from list_constant_lists(self.space.template, not self.space.leaves)

    def check_same(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Return whether an experiment was begun with a smaller space, which may grow.

        Raises:
            UsageError: It was begun with another space or seed.
        """
        differences = [*list_differences(settings["space"], self.space.describe())]
        if differences and self.changed is None:
            raise UsageError(
                f"experiment {name!r} was begun with another search space: {differences[0]}. "
                'Restore it with the same space, or with changed_space="extend" where it has only '
                "grown; or pass overwrite=True, or choose another name"
            )
        if self.seed is not None and self.seed != settings["seed"]:
            raise UsageError(
                f"experiment {name!r} was begun with seed={settings['seed']}, not "
                f"{self.seed}: leave seed out when restoring, or pass overwrite=True"
            )
        if differences:
            from ..search.extension import check_extends
            from .restore import told_what_to_do

            with told_what_to_do(name):
                check_extends(settings["space"], self.space, self.changed or {})
        return bool(differences)


@contextlib.contextmanager
def _paused_collector() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
