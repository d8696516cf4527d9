"""What a turn of the driver's loop costs, by the number of slots, all of them busy.

No process: the slots' connections lead nowhere. One line of JSON for each number of slots, in
microseconds: a turn in which nothing happens, and a report with its answer. The loop is flat where
the last line is like the first.

    python benchmarks/loop_turn.py [--slots 2 36 100 500]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.running.background import StopSignals
from slurm_sweeps.running.deadlines import Patience
from slurm_sweeps.running.driver import Driver
from slurm_sweeps.running.launchers import SlotPlace
from slurm_sweeps.samplers import Problem, bind_sampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import SweepCfg


class Nowhere:
    """What the driver calls of a connection, a launcher and a writer; nothing comes of it."""

    world_size, fresh_workers, notices, is_lent, job_id = 1, False, (), False, None
    begun_at, has_ended, malformed, n_committed = None, False, 0, 0

    def __init__(self, n_slots: int = 0) -> None:
        self.slots = [SlotPlace(number, ("here",)) for number in range(n_slots)]

    def start(self, _slot: int) -> Any:
        return Nowhere()

    def has_exited(self) -> bool:
        return False

    def describe_slot(self, _slot: int) -> dict[str, Any]:
        return {"env": {}}

    def attach(self, _selector: object, _keep: object) -> None:
        return None

    def send(self, _record: object) -> None:
        return None

    def answer(self, _fd: int, _record: object) -> None:
        return None

    def put(self, _record: object) -> None:
        return None

    def check(self) -> None:
        return None


def build_driver(n_slots: int, folder: str) -> Driver:
    """A driver all of whose slots have a worker that is ready."""
    asha = ss.ASHA("loss", "min")
    problem = Problem(SearchSpace({"x": ss.Uniform(0, 1)}), 1, "loss", "min")
    cfg = SweepCfg(10**6, Goal("loss", "min"), slots=n_slots)
    sweep = Sweep(cfg, bind_sampler(None, problem), asha.build_pruner())
    nowhere: Any = Nowhere(n_slots)
    return Driver(sweep, nowhere, nowhere, Layout(folder, "turns"), "", print, Patience())


def measure(n_slots: int) -> dict[str, float]:
    """Return the costs with so many slots."""
    with tempfile.TemporaryDirectory() as folder, StopSignals() as signals:
        driver = build_driver(n_slots, folder)
        driver._tick()
        for slot in driver._slots.with_worker:
            driver._follow(slot, Nowhere(), 0, {"kind": "ready"})  # type: ignore[arg-type] # as below
        (slot, *_) = driver._slots.busy
        assert slot.trial is not None
        assert len(driver._slots.busy) == n_slots
        report: Any = {"kind": "report", "number": slot.trial.number, "attempt": 1}
        report |= {"iteration": 0, "metrics": {"loss": 0.5}}

        def turn() -> None:
            driver._tick()
            driver._follow_signals(signals)

        def take_report() -> None:
            report["iteration"] += 1
            driver._take_report(slot, Nowhere(), 0, report)  # type: ignore[arg-type] # it acts so

        return {
            "slots": n_slots,
            "turn_us": time_us(turn, 300),
            "report_us": time_us(take_report, 300),
        }


def time_us(call: Callable[[], object], count: int) -> float:
    """Return the least of several means."""
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, time.perf_counter() - began)
    return round(1e6 * best / count, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 36, 100, 500])
    for n_slots in parser.parse_args().slots:
        print(json.dumps(measure(n_slots)), flush=True)


if __name__ == "__main__":
    main()
