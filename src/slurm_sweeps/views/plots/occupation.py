"""Slots over time: which slot ran what, and where it idled. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..pictures.data import SweepData
from .progress import find_start


@dataclass(frozen=True, slots=True)
class Stretch:
    """One attempt in its slot; times in seconds since the first attempt began."""

    slot: int
    begin_s: float
    end_s: float
    status: str
    trial_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Occupation:
    """All slots.

    Args:
        stretches: By trial and attempt.
        labels: The name of each slot: its number and the host it was last seen on.
        end_s: When the last attempt ended.
        busy: The share of the slots' time that was used, between 0 and 1.
    """

    stretches: Sequence[Stretch]
    labels: Sequence[str]
    end_s: float
    busy: float


def compute_occupation(data: SweepData) -> Occupation:
    """Lay the attempts along their slots; what runs yet lasts until now."""
    start = find_start(data)
    stretches = []
    hosts: dict[int, str] = {}
    for each in data.attempts:
        if each.slot is None or each.start_time is None:
            continue
        end = data.now if each.end_time is None and each.status == "running" else each.end_time
        begin_s = each.start_time - start
        end_s = max(begin_s, (each.start_time if end is None else end) - start)
        trial_id = data.trials[each.number].trial_id
        stretches.append(
            Stretch(each.slot, begin_s, end_s, each.status.value, trial_id, each.attempt)
        )
        hosts[each.slot] = each.host or ""
    count = max([int(data.settings.get("slots") or 0), *(s.slot + 1 for s in stretches)])
    end_s = max((stretch.end_s for stretch in stretches), default=0.0)
    used_s = sum(stretch.end_s - stretch.begin_s for stretch in stretches)
    labels = [
        f"{slot} {hosts[slot]}".strip() if slot in hosts else str(slot) for slot in range(count)
    ]
    busy = used_s / (count * end_s) if count and end_s > 0 else 0.0
    return Occupation(stretches, labels, end_s, min(1.0, busy))
