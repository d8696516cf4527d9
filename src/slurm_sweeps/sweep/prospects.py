"""Whether going on makes sense, judged by the first trials that have ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ..trial import Status, TrialError
from .state import SweepCfg, TrialState

#: At least this many trials have to fail before the sweep takes it for a rule.
MIN_FAILURES = 3

#: So many errors are kept to see what the first failures have in common.
MAX_FIRST_ERRORS = 100

#: This many names of metrics are kept to tell what was logged instead of the one that is needed.
MAX_NAMES = 20


class Prospects:
    """What speaks for going on.

    Args:
        cfg: What the user asked for.
        needed: The metric that decides which trials are stopped; None where none does.
    """

    def __init__(self, cfg: SweepCfg, needed: str | None) -> None:
        self._n_first = max(MIN_FAILURES, cfg.slots)
        self._fail_fast = cfg.fail_fast
        self._needed = needed
        self._ended = 0
        self._failed = 0
        self._reported = False
        self._saw_needed = False
        self._seen: set[str] = set()
        self._first_errors: list[TrialError] = []

    def note_report(self, metrics: Mapping[str, float]) -> None:
        """Some trial has logged these metrics."""
        self._reported = True
        self._saw_needed = self._saw_needed or self._needed in metrics
        if len(self._seen) < MAX_NAMES:
            self._seen.update(metrics)

    def note_restored(self, trial: TrialState) -> None:
        """There is this trial of an earlier run."""
        worked = trial.status in (Status.COMPLETED, Status.PRUNED)
        self._reported |= worked or trial.last_iteration is not None
        self._saw_needed |= trial.last_value is not None

    def judge(self, trial_id: str, status: Status, error: TrialError | None) -> str | None:
        """Take note of a trial that has ended for good; say why going on makes no sense, if so."""
        if status in (Status.LOST, Status.INTERRUPTED):
            return None
        self._ended += 1
        if status is Status.FAILED:
            self._failed += 1
            if error is not None and len(self._first_errors) < MAX_FIRST_ERRORS:
                self._first_errors.append(error)
        elif status is Status.COMPLETED and self._needed is not None and not self._saw_needed:
            return self._describe_missing(trial_id, self._needed)
        all_failed = self._ended == self._failed == self._n_first and not self._reported
        return self._describe_failures() if self._fail_fast and all_failed else None

    def _describe_missing(self, trial_id: str, needed: str) -> str:
        names = sorted(map(repr, self._seen))
        logged = ", ".join(names[:MAX_NAMES]) or "nothing at all"
        return (
            f"trial {trial_id} is complete and never logged {needed!r}, the metric that "
            f"decides which trials are stopped; it logged {logged}. Log {needed!r}, or name "
            "another metric in ASHA"
        )

    def _describe_failures(self) -> str:
        errors = self._first_errors
        common = Counter((error.type, error.message) for error in errors).most_common(1)
        text = f"the first {self._failed} trials have all failed and none has logged a metric"
        if not common:
            return f"{text}; see their stderr.log"
        (kind, message), shared = common[0]
        example = next(error for error in errors if error.type == kind)
        return (
            f"{text}; {shared} of them with {kind}: {message}. Mend train and begin anew "
            f"(overwrite=True), or pass fail_fast=False to go on regardless\n{example.traceback}"
        ).rstrip()
