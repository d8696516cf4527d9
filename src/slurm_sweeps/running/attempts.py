"""An attempt at a trial, as the driver has it: what it is told, how it ended, what is stored of it.

The parts of several ranks are put together here, and words of the channel become those of the sweep
and of the database, and the other way round.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..storage.layout import Layout
from ..storage.records import TrialRecord
from ..sweep_types import Ended, SweepCfg, TrialState
from ..trial import Status, TrialError, compute_trial_seed, describe_value, make_storable
from .channel import Record
from .train import describe_cfg
from .usage import FIELDS

if TYPE_CHECKING:
    from .slots import SlotState

#: What a worker may say of an attempt's end.
HOWS = frozenset({"completed", "pruned", "failed", "lost", "interrupted"})

#: How a rank fails that has lost another one: Python's errors, and what gloo and NCCL say.
_LOST_PEER = re.compile(
    r"Connection\w*Error|BrokenPipe|EOFError|DistNetworkError|ncclRemoteError|Broken pipe"
    r"|connection (was )?(closed|reset|refused|aborted|lost)|(closed|reset) by (remote )?peer",
    re.IGNORECASE,
)

_encode_json = json.JSONEncoder(default=describe_value).encode


def build_run(slot: SlotState, trial: TrialState, cfg: SweepCfg, layout: Layout) -> dict[str, Any]:
    """Build the `run` record of a trial in this slot; the layout's folder is absolute."""
    return {
        "kind": "run",
        "trial_id": trial.trial_id,
        "number": trial.number,
        "attempt": trial.attempt,
        "dir": str(layout.trial(trial.trial_id).folder),
        "seed": compute_trial_seed(cfg.seed, trial.number),
        "journal": str(layout.slot_journal(slot.number)),
        "repetition": trial.repetition,
        "host": slot.host,
        "at": trial.began_at,
        "iteration": trial.last_iteration or 0,
        "has_logged": trial.last_iteration is not None,
        "metric": cfg.goal.metric if cfg.goal else "value",
        **slot.found,
        **describe_cfg(trial.cfg),
    }


def judge_ends(ends: Mapping[int, Record]) -> Record:
    """Decide how a trial of several ranks ended, from what each rank's worker said.

    The first rank that failed or was killed decides: what the others say then follows from it. One
    that lost a connection speaks only where no other reason is known: as a rank unwinds its stack
    it hangs up, and the others may fail of that before it has come to its end. A killed rank is a
    failure of the trial: the others live and its worker saw it, so nothing is unknown. One that met
    a problem no attempt can get around speaks before all others. Where no rank failed, rank 0
    speaks for all.

    Args:
        ends: The `ended` records by rank; `at` in them is when that was (seconds since 1970).
    """
    if len(ends) == 1:
        return next(iter(ends.values()))
    for end in ends.values():
        if "problem" in end:
            return end
    broken = [end for end in ends.values() if end["how"] in ("failed", "lost")]
    if not broken:
        return ends[0]
    first = min(broken, key=lambda end: (_is_lost_peer(end), end.get("at") or float("inf")))
    message = f"rank {first.get('rank', 0)}: {first.get('message', '')}"
    return {**first, "how": "failed", "message": message}


def _is_lost_peer(end: Record) -> bool:
    said = f"{end.get('error_type', '')}: {end.get('message', '')}"
    return end["how"] == "failed" and _LOST_PEER.search(said) is not None


def parse_end(end: Record) -> Ended:
    """Read an `ended` record."""
    error = None
    if end.get("error_type"):
        texts = (end.get("error_type"), end.get("message"), end.get("traceback"))
        error = TrialError(*(make_storable(text or "") for text in texts))
    return Ended(Status(end["how"]), error, end.get("exit_code"), end.get("signal"))


def build_trial_record(
    trial: TrialState, status: Status, slot: SlotState | None = None
) -> TrialRecord:
    """Describe a trial for the database: in a slot, or one that waits."""
    where: dict[str, Any] = {}
    if slot is not None:
        where = {
            "slot": slot.number,
            "job_id": slot.launcher.job_id,
            "host": slot.host,
            "gpus": slot.found.get("gpus"),
            "start_time": trial.began_at,
        }
    return TrialRecord(
        number=trial.number,
        trial_id=trial.trial_id,
        repetition=trial.repetition,
        cfg_json=_encode_json(trial.whole_cfg),
        status=status,
        attempt=trial.attempt,
        lost_count=trial.lost_count,
        last_iteration=trial.last_iteration,
        **where,
    )


def complete_record(
    begun: TrialRecord,
    trial: TrialState,
    status: Status,
    ended: Ended,
    used: Mapping[str, Any],
    now: float,
) -> TrialRecord:
    """Add to an attempt's record how it ended, what that counts as, and what it used."""
    return dataclasses.replace(
        begun,
        status=status,
        lost_count=trial.lost_count,
        end_time=max(now, begun.start_time or 0.0),  # a clock may be set back
        error=ended.error,
        exit_code=ended.exit_code,
        signal=ended.signal,
        **{name: used[name] for name in FIELDS if name in used},
    )
