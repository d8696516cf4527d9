"""The sweep: what decides, free of processes, files and clocks."""

from __future__ import annotations

from .machine import MAX_LOST, Sweep
from .state import Answer, Ended, Outcome, SweepCfg, TrialState

__all__ = ["MAX_LOST", "Answer", "Ended", "Outcome", "Sweep", "SweepCfg", "TrialState"]
