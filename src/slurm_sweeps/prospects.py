"""Whether it makes sense to go on, and what the user is told of trials that go wrong. Pure.

A sweep whose first trials have all failed, or that never hears of the metrics by which trials are
stopped or chosen, ends with the reason. What only wastes time is said once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from .errors import BEGIN_ANEW, SAID_LAST
from .sweep_types import SweepCfg, TrialState
from .trial import Status, TrialError

#: At least this many trials have to fail before the sweep takes it for a rule.
MIN_FAILURES = 3

#: So many errors are kept to see what the first failures have in common.
MAX_FIRST_ERRORS = 100

#: So many trials of one report must have been stopped at it, and as many not, before it is said.
MIN_SINGLES = 2

#: This many names of metrics are kept to tell what was logged instead of the one that is needed.
MAX_NAMES = 20


class Prospects:
    """The prospects of one sweep; it is told what happens, in its order."""

    def __init__(self, cfg: SweepCfg) -> None:
        self._n_first = max(MIN_FAILURES, cfg.slots)
        self._fail_fast = cfg.fail_fast
        self._needed = {names for names in (cfg.judged_names, cfg.goal_names) if names} | {
            (name,) for name in cfg.feasible
        }
        self._ended = 0
        self._failed = 0
        self._reported = False
        self._seen: set[str] = set()
        self._first_errors: list[tuple[str, TrialError]] = []
        self._saw_restart = False
        self._singles: Counter[bool] | None = Counter()  # trials of one report; whether cut short

    def note_report(self, metrics: Mapping[str, float]) -> None:
        """Some trial has logged these metrics."""
        self._reported = True
        if self._needed:
            self._needed = {n for n in self._needed if not all(each in metrics for each in n)}
        if len(self._seen) < MAX_NAMES:
            self._seen.update(metrics)

    def note_restored(self, trial: TrialState) -> None:
        """There is this trial of an earlier run."""
        worked = trial.status in (Status.COMPLETED, Status.PRUNED)
        self._reported |= worked or trial.last_iteration is not None

    def judge(self, trial_id: str, status: Status, error: TrialError | None) -> str | None:
        """Take note of a trial that has ended for good; say why going on makes no sense, if so."""
        if status in (Status.LOST, Status.INTERRUPTED):
            return None
        self._ended += 1
        if status is Status.FAILED:
            self._failed += 1
            if error is not None and len(self._first_errors) < MAX_FIRST_ERRORS:
                self._first_errors.append((trial_id, error))
        elif status is Status.COMPLETED and self._needed:
            return self._describe_missing(trial_id, min(self._needed))
        all_failed = self._ended == self._failed == self._n_first and not self._reported
        return self._describe_failures() if self._fail_fast and all_failed else None

    def note_resumption(self, trial: TrialState, iteration: int) -> tuple[str, ...]:
        """Say it if a trial that was paused does not go on where it was."""
        paused_at, trial.resumes_after = trial.resumes_after, None
        if paused_at is None or iteration > paused_at or self._saw_restart:
            return ()
        self._saw_restart = True
        return (
            f"trial {trial.trial_id} was paused at iteration {paused_at} and began again at "
            f"iteration {iteration}: with promote=True, train should save its state in "
            "ss.checkpoint_dir() and go on from there, else paused work is done twice",
        )

    def note_single_report(self, trial: TrialState, status: Status) -> tuple[str, ...]:
        """Say it, once, if trials report once, and some are stopped with nothing left to stop."""
        if self._singles is None or trial.attempt > 1 or trial.n_reports == 0:
            return ()
        if trial.n_reports > 1:
            self._singles = None
            return ()
        self._singles[status.is_cut_short] += status.is_cut_short or status is Status.COMPLETED
        whole, cut = self._singles[False], self._singles[True]
        if min(whole, cut) < MIN_SINGLES:
            return ()
        self._singles = None
        return (
            f"each trial logs once, and {cut} of {whole + cut} were stopped at that, so that what "
            "train does after its ss.log is not run there: let train return the value instead of "
            "logging it (return {'loss': loss}), or leave the pruner out and pass metric= and "
            "mode= to the experiment",
        )

    def _describe_missing(self, trial_id: str, missing: tuple[str, ...]) -> str:
        names = sorted(map(repr, self._seen))
        logged = ", ".join(names[:MAX_NAMES]) or "nothing at all"
        if len(missing) > 1:
            wanted = " and ".join(map(repr, missing))
            return (
                f"trial {trial_id} is complete and never logged {wanted} at one iteration, which "
                f"together decide which trials are stopped or best; it logged {logged}. Log them "
                "with one ss.log, or leave one out of the experiment's metric"
            )
        (needed,) = missing
        return (
            f"trial {trial_id} is complete and never logged {needed!r}, the metric that "
            f"decides which trials are stopped or best; it logged {logged}. Log {needed!r}, or "
            "name another metric in ASHA or the experiment"
        )

    def _describe_failures(self) -> str:
        errors = self._first_errors
        common = Counter(error.kind for _, error in errors).most_common(1)
        have = "trial has" if self._failed == 1 else f"{self._failed} trials have all"
        text = f"the first {have} failed and none has logged a metric"
        if not common:
            return f"{text}; see their stderr.log"
        kind, shared = common[0]
        trial_id, example = next(each for each in errors if each[1].kind == kind)
        said = str(example).partition(SAID_LAST)[0]
        advice = "Mend train and go on with restore=True, which runs them again, or pass"
        if BEGIN_ANEW in said:  # it says itself what to mend
            advice = "Or pass"
        return (
            f"{text}; {shared} of them with {said} (trial {trial_id}). {advice} fail_fast=False to "
            f"go on regardless\n{example.traceback}"
        ).rstrip()
