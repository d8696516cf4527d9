"""ASHA, as the user configures it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..checks import (
    as_fraction,
    check_goal,
    check_integer,
    check_reduction_factor,
)
from ..errors import UsageError, UsageTypeError
from ..search.promotion import PromotionPruner
from ..search.rungs import AshaPruner, compute_rungs

if TYPE_CHECKING:
    import numpy as np
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

    With `promote=True`, trials are paused instead of stopped, and promoted as in the paper: at each
    report a trial is judged at the highest rung that it has entered; if it is not among the best
    there, its process ends with that report, and it goes on as a further attempt when it has come
    to be among the best. `train` must then go on from a checkpoint in `checkpoint_dir()`, written
    before each report: unlike the paper's, a trial may be paused between two rungs, too.

    Args:
        metric: The metric's name in `log`.
        mode: "min" if smaller values are better, "max" if larger ones are.
        reduction_factor: Of how many trials in a rung about one goes on; 2 or more.
        min_t: The resource up to which no trial is stopped; 1 or more.
        max_t: The resource from which on no trial is stopped; min_t or more.
        promote: Pause trials instead of stopping them.

    Raises:
        UsageError: An argument is out of its range.
        UsageTypeError: An argument is of a wrong type.
    """

    metric: str
    mode: str
    reduction_factor: float = 4
    min_t: int = 1
    max_t: int = 50
    promote: bool = False

    def __post_init__(self) -> None:
        check_goal("ASHA", self.metric, self.mode)
        if not isinstance(self.promote, bool):
            raise UsageTypeError(f"ASHA: promote must be True or False, got {self.promote!r}")
        min_t = check_integer("ASHA", "min_t", self.min_t)
        max_t = check_integer("ASHA", "max_t", self.max_t)
        if min_t < 1:
            raise UsageError(f"ASHA: min_t must be 1 or more, got {min_t!r}")
        if max_t < min_t:
            raise UsageError(f"ASHA: max_t must be min_t={min_t!r} or more, got {max_t!r}")
        factor = check_reduction_factor("ASHA", self.reduction_factor)
        for name, value in (("min_t", min_t), ("max_t", max_t), ("reduction_factor", factor)):
            object.__setattr__(self, name, value)

    @property
    def rungs(self) -> tuple[int, ...]:
        """The rungs' resources, ascending; a broken one is rounded up to the next whole one."""
        return compute_rungs(self.min_t, self.max_t, self._factor)

    def build_pruner(self) -> AshaPruner:
        """Return the rule in the form that takes reports one by one, with no trial known yet."""
        kind = PromotionPruner if self.promote else AshaPruner
        return kind(self.mode, self.rungs, self.max_t, self._factor)

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

        column = f"metric_{self.metric}"
        _check_columns(database, ["trial_id", "iteration", column])
        codes, trial_ids = pd.factorize(database["trial_id"])
        iterations = database["iteration"].to_numpy(dtype=float)
        values = database[column].to_numpy(dtype=float, na_value=float("nan"))
        signed = values if self.mode == "min" else -values
        fails = _find_failing(codes, iterations, signed, self)
        return [str(trial_id) for trial_id in trial_ids[fails]]

    @property
    def _factor(self) -> Fraction:
        return as_fraction(self.reduction_factor)


def _find_failing(
    codes: np.ndarray[Any, Any],
    iterations: np.ndarray[Any, Any],
    values: np.ndarray[Any, Any],
    asha: ASHA,
) -> np.ndarray[Any, Any]:
    """Apply the rule to columns of n rows, for mode "min".

    Args:
        codes: Trials as integers from 0, [n].
        iterations: Iterations, [n].
        values: Values of the metric, [n].
        asha: The rungs and the reduction factor.

    Returns:
        Of each trial, whether it is to be pruned, [number of trials].
    """
    import numpy as np

    order = np.lexsort((iterations, codes))  # stable: later rows of one iteration come later
    codes, iterations, values = codes[order], iterations[order], values[order]
    last = np.ones(len(codes), dtype=bool)
    last[:-1] = (codes[1:] != codes[:-1]) | (iterations[1:] != iterations[:-1])
    codes, iterations, values = codes[last], iterations[last], values[last]
    trials, first = np.unique(codes, return_index=True)
    resources = iterations + (iterations[first] == 0)[codes]
    fails = np.zeros(len(trials), dtype=bool)
    for level in asha.rungs:
        beyond = resources >= level
        entered, first = np.unique(codes[beyond], return_index=True)
        fails[entered] |= ~_find_best(values[beyond][first], asha._factor)
    fails[codes[resources >= asha.max_t]] = False
    return fails


def _find_best(values: np.ndarray[Any, Any], factor: Fraction) -> np.ndarray[Any, Any]:
    import numpy as np

    finite: np.ndarray[Any, Any] = np.isfinite(values)
    n = int(finite.sum())
    if n == 0:
        return finite
    k = -(-n * factor.denominator // factor.numerator)
    threshold = np.partition(values[finite], k - 1)[k - 1]
    passes: np.ndarray[Any, Any] = finite & (values <= threshold)
    return passes


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
