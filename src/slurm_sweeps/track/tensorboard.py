"""TensorBoard: a folder of event files for each trial, written without TensorFlow."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..views.formats import format_yaml
from .feed import SweepNews, TrialNews, describe_sweep, describe_trial, simplify

#: Holds which folder of an experiment this is: one that was removed meanwhile is another.
MARK = ".slurm-sweeps"


@dataclass(frozen=True, slots=True)
class TensorBoard:
    """Event files, for `tensorboard --logdir runs`: curves, and each trial's cfg in HPARAMS.

    Args:
        folder: Where to write; `<folder>/<experiment>/<trial id>` is a trial's.
    """

    folder: str = "runs"

    NEEDS: ClassVar[tuple[str, str]] = ("tensorboardX", "tensorboard")

    def open(self) -> _Files:
        """Import the writer."""
        return _Files(Path(self.folder))


class _Files:
    def __init__(self, folder: Path) -> None:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto.event_pb2 import Event

        self._build = summary
        self._event = Event
        self._writer = event_file_writer.EventsWriter  # the one that writes at once
        self._folder = folder.absolute()
        self._open: dict[str, Any] = {}
        self._metrics: dict[str, float] = {}  # that the sweep is after

    def begin(self, sweep: SweepNews, place: str | None) -> str:
        """Make the experiment's folder, or find it."""
        self._experiment = self._folder / sweep.name
        self._metrics = dict.fromkeys((metric for metric, _ in sweep.goals), 0.0)
        mark = self._experiment / MARK
        if place is not None and mark.exists() and mark.read_text() == place:
            return place
        self._experiment.mkdir(parents=True, exist_ok=True)
        mark.write_text(uuid.uuid4().hex)
        return mark.read_text()

    def send(self, trial: TrialNews) -> str:
        """Write the trial's curves; its cfg first, its status when it does not run (any more)."""
        place = str(self._experiment / trial.record.trial_id)
        if trial.place is None:
            self._add(place, self._build.text("cfg", _format_text(trial.cfg)))
            values = {name: simplify(value) for name, value in trial.cfg.items()}
            for part in self._build.hparams(values, self._metrics):
                self._add(place, part)
        for metric, iteration, value, at in trial.points:
            self._add(place, self._build.scalar(metric, value), iteration, at)
        if not trial.runs:
            self._add(place, self._build.text("trial", _format_text(describe_trial(trial.record))))
            self._close(place)
        elif place in self._open:
            self._open[place].flush()
        return place

    def end(self, sweep: SweepNews) -> None:
        """Write what the experiment is at, and close all files."""
        text = self._build.text("sweep", _format_text(describe_sweep(sweep)))
        self._add(str(self._experiment), text)
        for place in list(self._open):
            self._close(place)

    def _add(self, place: str, summary: Any, step: int = 0, at: float | None = None) -> None:
        if place not in self._open:
            Path(place).mkdir(exist_ok=True)
            prefix, suffix = f"{place}/events", f".{uuid.uuid4().hex}"
            self._open[place] = self._writer(prefix, suffix)
        event = self._event(wall_time=time.time() if at is None else at, step=step, summary=summary)
        self._open[place].write_event(event)

    def _close(self, place: str) -> None:
        self._open.pop(place).close()


def _format_text(told: Any) -> str:
    return f"```\n{format_yaml(dict(told))}\n```"
