"""Trial, its identity, and which status may follow which.

A trial is one configuration and what became of it. Its status is recorded by whoever knows
(`TRANSITIONS` says what may follow what); it is never guessed from exit codes or timestamps, with
one exception that the documented interface asks for: a `Trial` that was given a live `process`
answers with that process's state.
"""

from __future__ import annotations

import html
import json
import math
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from .errors import OUT_OF_MEMORY


class Status(str, Enum):
    """What a trial is at. The values are the words used in the database, tables and docs."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"
    PAUSED = "paused"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    LOST = "lost"
    INTERRUPTED = "interrupted"

    def __str__(self) -> str:
        return self.value

    @property
    def is_final(self) -> bool:
        """Whether no further attempt follows by itself: completed, pruned, infeasible, failed."""
        return self in (Status.COMPLETED, Status.PRUNED, Status.INFEASIBLE, Status.FAILED)

    @property
    def tells_value(self) -> bool:
        """Whether it says what the cfg is worth: it came of the trial and of nothing else."""
        return self.is_final or self is Status.PAUSED

    @property
    def is_unfinished(self) -> bool:
        """Whether a restored sweep runs the trial again, without anyone asking for it."""
        return self in (Status.SCHEDULED, Status.RUNNING, Status.LOST, Status.INTERRUPTED)

    @property
    def is_done(self) -> bool:
        """Whether a progress bar counts it: it neither waits, runs nor was interrupted."""
        return self not in (Status.SCHEDULED, Status.RUNNING, Status.INTERRUPTED)

    @property
    def is_broken(self) -> bool:
        """Whether it ended neither by itself nor because it was told to: failed or lost."""
        return self in (Status.FAILED, Status.LOST)

    @property
    def is_cut_short(self) -> bool:
        """Whether a rule kept it from running to its end: pruned or paused."""
        return self in (Status.PRUNED, Status.PAUSED)


#: Which status may follow which. What ends in `SCHEDULED` is an attempt that is run again.
TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.SCHEDULED: frozenset({Status.RUNNING}),
    Status.RUNNING: frozenset(Status) - {Status.SCHEDULED, Status.RUNNING},
    Status.PAUSED: frozenset({Status.SCHEDULED}),
    Status.FAILED: frozenset({Status.SCHEDULED}),
    Status.LOST: frozenset({Status.SCHEDULED}),
    Status.INTERRUPTED: frozenset({Status.SCHEDULED}),
    Status.COMPLETED: frozenset(),
    Status.PRUNED: frozenset(),
    Status.INFEASIBLE: frozenset(),
}


def make_storable(text: str) -> str:
    """Write halves of surrogate pairs out, so that the text can be stored and printed as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def describe_value(value: Any) -> str:
    """Name a cfg value that JSON can't hold, the same in every process.

    Functions and classes give their qualified name, sets their members in order, other objects
    their `repr`, or their type's name where the `repr` holds a memory address.
    """
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({sorted(map(canonical_json, value))})"
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{getattr(value, '__module__', '?')}.{name}"
    kind, text = type(value), repr(value)
    return text if " at 0x" not in text else f"<{kind.__module__}.{kind.__qualname__}>"


_ENCODER = json.JSONEncoder(sort_keys=True, default=describe_value)


def canonical_json(cfg: Any) -> str:
    """Write a cfg as JSON with sorted keys; what JSON can't hold goes through `describe_value`."""
    return _ENCODER.encode(cfg)  # `json.dumps` would make an encoder each time


def compute_trial_id(cfg: Any, repetition: int = 0) -> str:
    """Identify a cfg: blake2s (6 bytes, 12 hex digits) of its canonical JSON.

    The second trial with the same cfg has `repetition` 1 and, as this is hashed too, another id.
    """
    text = canonical_json(cfg)
    if repetition:
        text += f"#{repetition}"
    import hashlib  # not at the top: scripts' spaces load this module into hosts, it loads OpenSSL

    return hashlib.blake2s(text.encode(), digest_size=6).hexdigest()


def compute_trial_seed(seed: int, number: int) -> int:
    """Return a trial's own seed, from 0 to 2**32 - 1: of the experiment's, and the trial's number.

    It is the first four bytes, the highest first, of the SHA-256 of the text "<seed>:<number>". No
    version of this library changes that.
    """
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


#: What differs between errors that are alike: paths, addresses and ids, numbers.
_VARYING = (
    r"(?<![\w.~])(?:~|\.\.?)?/[^\s'\"():;,]*|(?<![\w./-])[\w.-]+/[\w./-]*\.\w+"
    r"|0x[\da-f]+|\b[\da-f]{8,}[\da-f-]*\b|[-+]?\d[\d.,_]*(?:e[-+]?\d+)?"
)


@dataclass(frozen=True, slots=True)
class TrialError:
    """Why a trial failed or was lost."""

    type: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        """Say it; what failed in a program is told by its message, which begins with the cause."""
        said = self.message if self.type == "ProgramError" else f"{self.type}: {self.message}"
        return said.rstrip(": ")

    @property
    def kind(self) -> tuple[str, str]:
        """The same for errors that differ in numbers, paths or addresses alone, or lack memory."""
        if self.type == OUT_OF_MEMORY:
            return self.type, ""
        first = self.message.strip().partition("\n")[0][:1000]
        return self.type, re.sub(_VARYING, "#", first, flags=re.IGNORECASE)


@dataclass
class Trial:
    """One configuration and what became of it.

    Args:
        cfg: The configuration. In the result that `Experiment.run` returns it is as `train`
            received it; in one that is read from the database by name, as JSON holds it: a tuple
            is a list there, and an object its name or `repr`.
        process: A process that runs the trial by itself; while given, `status` is asked of it.
        start_time: When the (latest) attempt began.
        end_time: When the (latest) attempt ended.
        status: The recorded status.
        metrics: `{name: {iteration: value}}`.
        repetition: How many trials with an equal cfg came before this one; part of the id.
        number: The trial's position in its sweep, from 0.
        attempt: 1 for the first run, 2 and more for retries.
        host: The host that the (latest) attempt ran on.
        error: Why it failed or was lost.
        memory_mb: The peak of the (latest) attempt's memory, in MiB; of its largest process where
            its job step has no cgroup of its own. None while it runs, or where that isn't known.
        cpu_sec: Its CPU time, with that of processes that it has waited for.
        gpu_memory_mb: The peak of what it took of GPUs, in MiB; None without one.
        value: Its best finite value of the experiment's metric, or, where it was chosen by another
            metric or by the last value, that one; None if it has none, or no metric is known.
        best_iteration: Where that was.
        path: Its folder, which is its working directory.
        checkpoint_dir: Its `checkpoint_dir()`, with what it has saved there last. For the state of
            `best_iteration`, have `train` save each under its iteration, or the best by itself.
    """

    cfg: dict[str, Any]
    process: subprocess.Popen[Any] | None = field(default=None, repr=False)
    start_time: datetime | None = None
    end_time: datetime | None = None
    status: Status | None = None
    metrics: dict[str, dict[int, float]] | None = field(default=None, repr=False)
    repetition: int = field(default=0, kw_only=True, repr=False)
    number: int | None = field(default=None, kw_only=True)
    attempt: int = field(default=1, kw_only=True)
    host: str | None = field(default=None, kw_only=True)
    error: TrialError | None = field(default=None, kw_only=True, repr=False)
    memory_mb: float | None = field(default=None, kw_only=True, repr=False, compare=False)
    cpu_sec: float | None = field(default=None, kw_only=True, repr=False, compare=False)
    gpu_memory_mb: float | None = field(default=None, kw_only=True, repr=False, compare=False)
    value: float | None = field(default=None, kw_only=True, compare=False)
    best_iteration: int | None = field(default=None, kw_only=True, repr=False, compare=False)
    path: Path | None = field(default=None, kw_only=True, repr=False, compare=False)
    checkpoint_dir: Path | None = field(default=None, kw_only=True, repr=False, compare=False)

    _id: str | None = field(default=None, kw_only=True, repr=False, compare=False)

    @property
    def trial_id(self) -> str:
        """The 12 hex digits that name this trial in the database, on disk and in tables.

        They are made of its cfg and repetition, but where a trial draws its cfg as it runs.
        """
        return self._id or compute_trial_id(self.cfg, self.repetition)

    @property
    def runtime(self) -> timedelta | None:
        """Time from start to end, or to now while it runs; None if it never started."""
        if self.start_time is None:
            return None
        end = self.end_time
        if end is None:
            if self.is_terminated():
                return None
            end = datetime.now(self.start_time.tzinfo)
        return end - self.start_time

    @property
    def last_metrics(self) -> dict[str, float]:
        """The last value of each metric; empty where nothing was logged."""
        return {name: curve[max(curve)] for name, curve in (self.metrics or {}).items() if curve}

    def is_terminated(self) -> bool:
        """Whether no further attempt follows by itself; it may have failed for good."""
        return self.status is not None and self.status.is_final

    def __str__(self) -> str:
        return "\n".join(_format_lines(self))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _format_lines(trial: Trial) -> Iterator[str]:
    """What `print(trial)` shows: the outcome, the cfg, and each metric's last value and range."""
    again = f", attempt {trial.attempt}" if trial.attempt > 1 else ""
    runtime = "" if trial.runtime is None else f" after {trial.runtime}"
    host = "" if trial.host is None else f" on {trial.host}"
    yield f"Trial {trial.trial_id}: {trial.status or 'not run'}{runtime}{host}{again}"
    if trial.error is not None:
        yield f"  {trial.error}"
    yield from (f"  {key} = {value!r}" for key, value in flatten_cfg(trial.cfg).items())
    for name, curve in (trial.metrics or {}).items():
        yield f"  {name}: {_format_curve(curve)}"


def _format_curve(curve: Mapping[int, float]) -> str:
    if not curve:
        return "never logged"
    last = max(curve)
    text = f"{curve[last]:.6g} at iteration {last}"
    finite = {at: value for at, value in curve.items() if math.isfinite(value)}
    if len(finite) < 2:
        return text
    lowest, highest = min(finite, key=finite.__getitem__), max(finite, key=finite.__getitem__)
    return (
        f"{text} (lowest {finite[lowest]:.6g} at {lowest}, "
        f"highest {finite[highest]:.6g} at {highest})"
    )


def flatten_cfg(cfg: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the keys of nested dicts by dots; an empty dict stays a value."""
    flat: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, dict) and value:
            flat.update(flatten_cfg(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def split_cfg(cfg: Mapping[str, Any], path: str) -> tuple[str, Any]:
    """Return what all runs of a configuration have in common, as a key, and what this one has.

    Args:
        cfg: A trial's, as it was made or as JSON holds it: both have the same key.
        path: The dotted name of its `Repeat`.
    """
    flat = flatten_cfg(cfg)
    value = flat.pop(path)
    return canonical_json(flat), value


def _get_status(trial: Trial) -> Status | None:
    recorded: Status | None = trial.__dict__.get("_status")
    if trial.process is None or (recorded is not None and recorded.is_final):
        return recorded
    code = trial.process.poll()
    if code is None:
        return Status.RUNNING
    return Status.COMPLETED if code == 0 else Status.FAILED


def _set_status(trial: Trial, status: Status | str | None) -> None:
    trial.__dict__["_status"] = None if status is None else Status(status)


# Set after the dataclass is made: a field that also is a property would lose its default.
Trial.status = property(_get_status, _set_status)  # type: ignore[assignment] # see above
