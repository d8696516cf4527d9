"""Learning curves of one tuning task, served to proposals as a train function would answer them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """All configurations of a task, trained to the end.

    Args:
        name: The file's name, without its suffix.
        loss: Validation loss after each epoch, lower is better, NaN where diverged; [n, epochs].
        seconds: What one epoch of each configuration takes; [n].
        unit: The configurations in the unit cube; [n, d].
    """

    name: str
    loss: Array
    seconds: Array
    unit: Array

    @property
    def n_epochs(self) -> int:
        """How many epochs a full training has."""
        return int(self.loss.shape[1])

    @property
    def full_training_s(self) -> float:
        """R: the mean time of one full training."""
        return float(self.seconds.mean()) * self.n_epochs

    def compute_regret(self, best: float) -> float:
        """Return (best - minimum) / (median final loss - minimum); inf before the first report."""
        lowest = float(np.nanmin(self.loss))
        final = self.loss[:, -1]
        return (best - lowest) / (float(np.median(final[np.isfinite(final)])) - lowest)

    def compute_bound(self, budget: float, delay_s: float = 0.0) -> float:
        """Return the least regret that any search can have by then, however many its workers.

        That of whoever knows the table and begins at once with the best row for this budget: half
        the time of a mean training is half of its epochs, and some configurations are slow.

        Args:
            budget: In units of one full training.
            delay_s: Seconds that each epoch takes beyond its own.
        """
        n_epochs = np.floor(budget * self.full_training_s / (self.seconds + delay_s) + 1e-9)
        in_time = np.arange(1, self.n_epochs + 1) <= n_epochs[:, None]  # [n, epochs]
        return self.compute_regret(float(np.nanmin(self.loss, where=in_time, initial=np.inf)))

    def draw_share(self, share: float, seed: int) -> Table:
        """Return a table of a share of the rows, from 0 to 1, one at least, drawn by a seed."""
        n = max(1, round(share * len(self.unit)))
        rows = np.sort(np.random.default_rng(seed).choice(len(self.unit), n, replace=False))
        return Table(self.name, self.loss[rows], self.seconds[rows], self.unit[rows])


def read_table(path: Path) -> Table:
    """Read one `.npz`; its keys are the fields of `Table`, seconds as `seconds_per_epoch`."""
    with np.load(path) as file:
        return Table(
            path.stem,
            file["loss"].astype(float),
            file["seconds_per_epoch"].astype(float),
            file["unit"].astype(float),
        )


class Server:
    """Gives each proposal the nearest row of a table that no other has."""

    def __init__(self, table: Table) -> None:
        self._unit = table.unit.copy()
        self.n_left = len(table.unit)

    def take(self, unit: Array) -> int:
        """Return the number of the nearest row to a point of the cube, [d], and mark it as used."""
        if not self.n_left:
            raise ValueError(f"no row is left for {unit!r}: propose no more points than rows")
        row = int(np.argmin(((self._unit - unit) ** 2).sum(axis=1)))
        self._unit[row] = np.inf
        self.n_left -= 1
        return row
