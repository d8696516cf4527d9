"""Weights & Biases: a run for each trial, in a group that has the experiment's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..trial import Status
from .feed import SweepNews, TrialNews, describe_sweep, describe_trial


@dataclass(frozen=True, slots=True)
class WandB:
    """Runs of a project: one for the experiment (job type "sweep"), one for each trial ("trial").

    Args:
        project: The project; None is what `WANDB_PROJECT` says, else W&B's own default.
        entity: The user or team; None is the one who is logged in.
        mode: "online" or "offline"; None is what `WANDB_MODE` says, else online.
        folder: Where W&B keeps its files, offline runs among them; None is `./wandb`.
    """

    project: str | None = None
    entity: str | None = None
    mode: str | None = None
    folder: str | None = None

    NEEDS: ClassVar[tuple[str, str]] = ("wandb", "wandb")

    def open(self) -> _Runs:
        """Import W&B."""
        return _Runs(self)


class _Runs:
    def __init__(self, tracker: WandB) -> None:
        import wandb

        self._library: Any = wandb
        self._tracker = tracker
        self._open: dict[str, Any] = {}
        self._group = ""
        self._base = ""

    def begin(self, sweep: SweepNews, place: str | None) -> str:
        """Take the experiment's name for the group; there is nothing to be made yet."""
        self._group = sweep.name
        # The same for the same experiment, on all hosts; another one of this name has others.
        self._base = place or f"{round(sweep.record.created_at * 1000):x}"
        return self._base

    def _init(self, run_id: str, name: str, kind: str, cfg: dict[str, Any]) -> Any:
        return self._library.init(
            project=self._tracker.project,
            entity=self._tracker.entity,
            mode=self._tracker.mode,
            dir=self._tracker.folder,
            group=self._group,
            job_type=kind,
            name=name,
            id=run_id,
            config=cfg,
            resume="allow",
            reinit="create_new",
            settings=self._library.Settings(
                silent=True, console="off", x_disable_stats=True, x_disable_meta=True
            ),
        )

    def send(self, trial: TrialNews) -> str:
        """Log what is new of a trial into its run, which is open while the trial runs."""
        record = trial.record
        place = trial.place or f"{self._base}-{record.trial_id}"
        run = self._open.get(place)
        if run is None:
            run = self._init(place, record.trial_id, "trial", dict(trial.cfg))
            self._open[place] = run
        for iteration, (at, values) in sorted(trial.by_iteration.items()):
            run.log({**values, "_timestamp": at}, step=iteration)
        run.summary.update({f"trial/{k}": v for k, v in describe_trial(record).items()})
        run.summary.update({f"best/{metric}": value for metric, value in trial.best.items()})
        if not trial.runs:
            broken = record.status in (Status.FAILED, Status.LOST, Status.INTERRUPTED)
            self._open.pop(place).finish(exit_code=int(broken))
        return place

    def end(self, sweep: SweepNews) -> None:
        """Say in the experiment's run what it is at, and close all that is open."""
        while self._open:
            self._open.popitem()[1].finish(exit_code=1)
        run = self._init(f"{self._base}-sweep", sweep.name, "sweep", dict(describe_sweep(sweep)))
        run.finish()
