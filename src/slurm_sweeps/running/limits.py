"""How long a trial may take, and how long it may be silent. Pure.

The worker of a trial's first rank judges: it is the trial's parent, every report passes through it,
and its clock stands still while the job is suspended. What it finds goes to the driver, which has
all ranks end the trial alike; the others can't judge, as they never report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .channel import Record

#: What is beyond its limits has so long to write where its threads are, in seconds, and so long
#: each of its processes but the last: they write to the same file.
STACKS_S, EACH_STACK_S = 5.0, 0.1
#: Of so many processes, the first ones.
MOST_STACKS = 40
#: How often a worker wakes, so that its clock tells a suspension from a wait, in seconds.
LOOK_S = 5.0


class TimeLimits:
    """Those of one attempt, in seconds of any clock.

    Args:
        init: The `init` record: `max_trial_s`, `max_silence_s`, where there are any.
        now_s: When the attempt begins.

    Attributes:
        due: When the next of them is reached; infinity for never.
    """

    def __init__(self, init: Mapping[str, Any], now_s: float) -> None:
        self._trial_s = init.get("max_trial_s", math.inf)
        self._silence_s = init.get("max_silence_s", math.inf)
        self._ends_at = now_s + self._trial_s
        self.note_answer(now_s)

    def note_report(self) -> None:
        """The trial has reported, and waits for the driver's word: it isn't silent meanwhile."""
        self.due = self._ends_at

    def note_answer(self, now_s: float) -> None:
        """It has the word, and nothing else of it is waited for."""
        self.due = min(self._ends_at, now_s + self._silence_s)

    def judge(self, now_s: float) -> Record | None:
        """Say how the attempt fails if one of the limits is reached."""
        if now_s < self.due:
            return None
        if now_s >= self._ends_at:
            message = f"the trial took longer than max_trial_sec={self._trial_s:g}"
            return {"error_type": "TrialTimeout", "message": message}
        message = f"the trial reported nothing for max_silence_sec={self._silence_s:g}"
        return {"error_type": "TrialSilent", "message": message}
