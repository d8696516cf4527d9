"""What deciding costs at scale: the real `Sweep`, driven by virtual workers in virtual time.

No process and no channel: up to 10,000 virtual workers ask for trials, report and end, in the order
of a virtual clock. One line of JSON for each size goes to stdout, each size in a process of its
own. Seconds are CPU seconds, so that a busy machine changes little.

    python benchmarks/scale.py [--trials 1000 10000 100000 1000000] [--workers 10000] [--profile]
    python benchmarks/scale.py --jobs 10 100 1000

The second line is about slots that come and go: of so many jobs at a time, ten each. A job has two
hours in the mean, and another one comes some minutes after its end. A trial takes ten minutes to
three hours. Told is the share of the lent time that ended in kept work, with the time that slots
have left minded or not, where trials begin anew when they are lost and where they go on.

A decision is an answer of the sweep: a trial for a free worker, or the verdict on a report. The
figure for all of them has the virtual workers' own cost in it; `sweep only` has it taken out.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import itertools
import json
import math
import pstats
import random
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.samplers import Problem, bind_sampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import Answer, Ended, SweepCfg, TrialState
from slurm_sweeps.trial import Status

MAX_T = 27
SIZES = [1_000, 10_000, 100_000, 1_000_000]
TEMPLATE = {
    "lr": ss.LogUniform(1e-5, 1.0),
    "dropout": ss.Uniform(0.0, 0.5),
    "layers": ss.Integer(1, 8),
    "optimizer": {"name": ss.Choice(["sgd", "adam"]), "decay": 0.1},
}


@dataclass(frozen=True, slots=True)
class Tally:
    """How much was decided."""

    trials: int
    reports: int

    @property
    def decisions(self) -> int:
        return self.trials + self.reports


def build_sweep(trials: int, workers: int) -> Sweep:
    """The sweep that an experiment with these settings has."""
    asha = ss.ASHA("loss", "min", reduction_factor=3, max_t=MAX_T)
    sampler = bind_sampler(None, Problem(SearchSpace(TEMPLATE), 1, asha.metric, asha.mode))
    goal = Goal(asha.metric, asha.mode)
    cfg = SweepCfg(trials, goal, slots=workers)
    return Sweep(cfg, sampler, asha.build_pruner())


def simulate(sweep: Sweep, workers: int) -> Tally:
    """Let virtual workers run the sweep to its end, each trial for at most `MAX_T` reports."""
    rng = random.Random(0)
    draw = rng.random
    reports = 0
    completed, pruned = Ended(Status.COMPLETED), Ended(Status.PRUNED)
    # When; which worker; its trial; the next iteration; how good the trial can get.
    queue: list[tuple[float, int, TrialState, int, float]] = []

    def begin(worker: int, now: float) -> None:
        trial = sweep.assign(now)
        if trial is not None:
            heapq.heappush(queue, (now + 0.5 + draw(), worker, trial, 1, draw()))

    for worker in range(workers):
        begin(worker, 0.0)
    while queue:
        now, worker, trial, iteration, floor = queue[0]
        reports += 1
        loss = floor + draw() / iteration
        decision = sweep.report(trial.number, iteration, {"loss": loss}).decision
        if decision is Decision.GO_ON and iteration < MAX_T:
            heapq.heapreplace(queue, (now + 0.5 + draw(), worker, trial, iteration + 1, floor))
            continue
        heapq.heappop(queue)
        sweep.end(trial.number, pruned if decision is Decision.PRUNE else completed)
        begin(worker, now)
    return Tally(sweep.drawn, reports)


SLOTS_PER_JOB = 10
#: All of the virtual time, a job's mean length, and how long its place then is empty, in seconds.
HORIZON_S, JOB_S, GAP_S = 24 * 3600.0, 7200.0, 600.0
#: The shortest and the longest trial, in seconds; and how often each reports.
SHORTEST_S, LONGEST_S = 600.0, 10_800.0
REPORTS = 8


@dataclass(slots=True, eq=False)
class Job:
    """A virtual job: it lends its slots from `since` to `until`, unless it is released before."""

    since: float
    until: float
    running: dict[int, TrialState] = field(default_factory=dict)  # by number
    is_over: bool = False


@dataclass(slots=True, eq=False)
class Work:
    """What a trial takes, and how far it has come."""

    length_s: float
    done: int = 0  # its reports that are kept
    done_before: int = 0  # as its attempt began


class Lenders:
    """Virtual jobs that lend their slots to a sweep without end.

    Args:
        jobs: How many there are at a time.
        minded: Whether the sweep is told what slots have left, and jobs for which nothing fits go.
        resumes: Whether lost trials go on after their latest report; they begin anew else.
    """

    def __init__(self, jobs: int, minded: bool, resumes: bool) -> None:
        sampler = bind_sampler(None, Problem(SearchSpace(TEMPLATE), 1, "loss", "min"))
        self._sweep = Sweep(SweepCfg(None, Goal("loss", "min")), sampler)
        self._minded = minded
        self._resumes = resumes
        self._lives, self._lengths = random.Random(0), random.Random(1)
        self._work: dict[int, Work] = {}
        # When; in which order; a job that ends, or its trial that reports, or one that comes.
        self._queue: list[tuple[float, int, Job | None, TrialState | None]] = []
        self._pushed = 0
        self.events = self.completed = 0
        self.lent_s = self.kept_s = 0.0
        for _ in range(jobs):
            self._push(self._lives.expovariate(1 / GAP_S), None, None)

    def run(self) -> Lenders:
        """Go on for `HORIZON_S`; what runs then counts as neither lent nor kept."""
        while self._queue[0][0] < HORIZON_S:
            now, _, job, trial = heapq.heappop(self._queue)
            if job is None:
                self._lend(now)
            elif trial is None:
                self._end(job, now)
            elif not job.is_over:
                self._report(job, trial, now)
        for _, _, job, trial in self._queue:
            if job is not None and trial is None and not job.is_over:
                self.lent_s += SLOTS_PER_JOB * (HORIZON_S - job.since)
                begun = [each.began_at or 0.0 for each in job.running.values()]
                self.lent_s -= sum(HORIZON_S - began_at for began_at in begun)
        return self

    def _push(self, at: float, job: Job | None, trial: TrialState | None) -> None:
        self._pushed += 1
        heapq.heappush(self._queue, (at, self._pushed, job, trial))

    def _lend(self, now: float) -> None:
        job = Job(now, now + self._lives.expovariate(1 / JOB_S))
        self._push(job.until, job, None)
        for _ in range(SLOTS_PER_JOB):
            self._fill(job, now)
        self._release(job, now)

    def _fill(self, job: Job, now: float) -> None:
        self.events += 1
        left_s = job.until - now if self._minded else math.inf
        trial = self._sweep.assign(now, left_s=left_s)
        if trial is None:
            return
        job.running[trial.number] = trial
        work = self._work.get(trial.number)
        if work is None:
            work = self._work[trial.number] = Work(self._lengths.uniform(SHORTEST_S, LONGEST_S))
        work.done = work.done_before = work.done if self._resumes else 0
        self._push(now + work.length_s / REPORTS, job, trial)

    def _report(self, job: Job, trial: TrialState, now: float) -> None:
        self.events += 1
        work = self._work[trial.number]
        work.done += 1
        self._sweep.report(trial.number, work.done, {"loss": 1 / work.done}, now)
        if work.done < REPORTS:
            self._push(now + work.length_s / REPORTS, job, trial)
            return
        self.completed += 1
        self._stop(job, trial, Status.COMPLETED, now)
        del self._work[trial.number]
        self._fill(job, now)
        self._release(job, now)

    def _stop(self, job: Job, trial: TrialState, how: Status, now: float) -> None:
        """End an attempt, and count what is kept of it."""
        self.events += 1
        del job.running[trial.number]
        if how is not Status.COMPLETED:
            self._sweep.interrupt(trial.number)
        self._sweep.end(trial.number, Ended(how), now)
        work = self._work[trial.number]
        if how is Status.COMPLETED or self._resumes:
            self.kept_s += work.length_s * (work.done - work.done_before) / REPORTS

    def _release(self, job: Job, now: float) -> None:
        """Let a job go in which nothing runs, as nothing is short enough for it."""
        if self._minded and not job.running:
            self._end(job, now)

    def _end(self, job: Job, now: float) -> None:
        """A job ends, and its trials with it; another one comes in its place."""
        if job.is_over:
            return
        job.is_over = True
        for trial in list(job.running.values()):
            self._stop(job, trial, Status.LOST, now)
        self.lent_s += SLOTS_PER_JOB * (now - job.since)
        self._push(now + self._lives.expovariate(1 / GAP_S), None, None)


def measure_lenders(jobs: int) -> list[dict[str, object]]:
    """Simulate jobs that come and go, in four ways; tell what of their time is kept."""
    lines: list[dict[str, object]] = []
    for resumes, minded in itertools.product([False, True], repeat=2):
        started = time.process_time()
        lenders = Lenders(jobs, minded, resumes).run()
        elapsed_s = time.process_time() - started
        lines.append(
            {
                "slots": jobs * SLOTS_PER_JOB,
                "trials go on": resumes,
                "time is minded": minded,
                "kept share": round(lenders.kept_s / lenders.lent_s, 3),
                "lent_h": round(lenders.lent_s / 3600),
                "completed": lenders.completed,
                "us/event": round(1e6 * elapsed_s / lenders.events, 1),
            }
        )
    return lines


class Nothing:
    """Answers as a sweep does, at no cost: what is left is the virtual workers' own."""

    def __init__(self, tally: Tally) -> None:
        self.drawn = 0
        self._trials = tally.trials
        self._length = max(1, round(tally.reports / tally.trials))

    def assign(self, _now: float) -> TrialState | None:
        if self.drawn == self._trials:
            return None
        self.drawn += 1
        return _BLANK

    def report(self, _number: int, iteration: int, _metrics: dict[str, float]) -> Answer:
        return _GO_ON if iteration < self._length else _PRUNE

    def end(self, _number: int, _ended: Ended) -> None:
        return None


_GO_ON, _PRUNE = Answer(Decision.GO_ON), Answer(Decision.PRUNE)
_BLANK = TrialState(0, "", 0, {})


def measure(trials: int, workers: int) -> dict[str, object]:
    """Simulate one sweep; tell what a decision and a trial cost."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    tally = simulate(build_sweep(trials, workers), workers)
    elapsed_s = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    simulate(Nothing(tally), workers)  # type: ignore[arg-type] # it answers alike
    own_s = time.process_time() - started
    return {
        "trials": tally.trials,
        "workers": workers,
        "reports": tally.reports,
        "decisions/s": round(tally.decisions / elapsed_s),
        "decisions/s, sweep only": round(tally.decisions / max(elapsed_s - own_s, 1e-9)),
        "cpu_s": round(elapsed_s, 2),
        "bytes/trial": round((peak - before) * 1024 / tally.trials),
    }


def profile(trials: int, workers: int) -> None:
    """Print where the time goes."""
    profiler = cProfile.Profile()
    profiler.runcall(simulate, build_sweep(trials, workers), workers)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Measure each size in a process of its own: memory that was freed would be used again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=SIZES)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, nargs="+", help="simulate jobs that come and go")
    parser.add_argument("--profile", action="store_true", help="of the first size, with cProfile")
    options = parser.parse_args()
    for jobs in options.jobs or ():
        for line in measure_lenders(jobs):
            print(json.dumps(line), flush=True)
    if options.jobs:
        return
    if options.profile:
        profile(options.trials[0], options.workers)
    elif len(options.trials) == 1:
        print(json.dumps(measure(options.trials[0], options.workers)), flush=True)
    else:
        for trials in options.trials:
            argv = ["--trials", str(trials), "--workers", str(options.workers)]
            subprocess.run([sys.executable, __file__, *argv], check=True)


if __name__ == "__main__":
    main()
