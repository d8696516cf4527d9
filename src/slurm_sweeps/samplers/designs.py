"""Designs of experiments: points that are fixed beforehand, for studies that do not search.

Each axis of a design is a leaf of the space, whose value is its unit's.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import check_flag
from ..errors import UsageError
from ..search.search_space import SearchSpace
from .protocol import import_extra
from .simple import Array, Design


def _import_qmc(design: Design) -> Any:
    return import_extra("scipy.stats", f"samplers.{design!r}", "SciPy", "model").qmc


class _SobolDesign(Design):
    """What is made of a Sobol sequence, which is balanced after a power of two only."""

    __slots__ = ()

    def list_doubts(self, space: SearchSpace, asked: int | None, left: int) -> Iterator[str]:
        if self.n & (self.n - 1):
            below = 1 << (self.n.bit_length() - 1)
            yield (
                f"samplers.{self!r}: a Sobol sequence is balanced where n is a power of two; "
                f"better than {self.n} are {below} or {2 * below}"
            )
        yield from Design.list_doubts(self, space, asked, left)


@dataclass(frozen=True, slots=True)
class Sobol(_SobolDesign):
    """Run the points of a scrambled Sobol sequence, which fill the space evenly.

    The sweep's seed scrambles it. Best are powers of two. A restored sweep with a larger `n` goes
    on where the sequence was. Of a space within an option the number counts where the option is
    picked; a Grid is drawn from as a Choice is; the seeds of spaces are left aside. Needs SciPy:
    `pip install 'slurm-sweeps[model]'`. Source: Owen, "Scrambling Sobol' and Niederreiter-Xing
    points" (1998), by `scipy.stats.qmc`.

    Args:
        n: How many points; all are run, whatever the `n_trials` of `run` says.

    Raises:
        UsageError: `n` is less than 1.
        UsageTypeError: `n` is no integer.
    """

    def draw_units(self, space: SearchSpace, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        sequence = _import_qmc(self).Sobol(len(space.leaves), scramble=True, seed=rng)
        units: Array = sequence.random_base2((self.n - 1).bit_length())[: self.n]
        return units


@dataclass(frozen=True, slots=True)
class LatinHypercube(Design):
    """Run a Latin hypercube: of n equal parts of each axis, each holds one point.

    It can't be extended: another `n` is another design. Spaces are mapped as by `Sobol`. Needs
    SciPy: `pip install 'slurm-sweeps[model]'`. Source: McKay, Beckman and Conover, "A Comparison of
    Three Methods for Selecting Values of Input Variables" (1979), by `scipy.stats.qmc`.

    Args:
        n: How many points; all are run, whatever the `n_trials` of `run` says.

    Raises:
        UsageError: `n` is less than 1.
        UsageTypeError: `n` is no integer.
    """

    def draw_units(self, space: SearchSpace, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        units: Array = _import_qmc(self).LatinHypercube(len(space.leaves), seed=rng).random(self.n)
        return units


@dataclass(frozen=True, slots=True)
class Saltelli(_SobolDesign):
    """Run Saltelli's design, from which first-order and total sensitivity indices follow.

    With D spaces in the cfg it has n (D + 2) points, or n (2 D + 2) with `second_order`; see
    `Result.sensitivity`. Spaces within options, and `where`, are refused: what is varied must be
    independent. A restored sweep with a larger `n` goes on. Needs SALib:
    `pip install 'slurm-sweeps[sensitivity]'`. Source: Saltelli et al., "Variance based sensitivity
    analysis of model output" (2010), by SALib.

    Args:
        n: How many base points, best a power of two.
        second_order: Whether the indices of pairs are wanted too.

    Raises:
        UsageError: `n` is less than 1.
        UsageTypeError: `n` is no integer, or `second_order` no bool.
    """

    second_order: bool = False

    def __post_init__(self) -> None:
        Design.__post_init__(self)
        check_flag("Saltelli", "second_order", self.second_order)

    def draw_units(self, space: SearchSpace, seed: int) -> Array:
        sobol = import_extra("SALib.sample.sobol", f"samplers.{self!r}", "SALib", "sensitivity")
        if space.where is not None:
            raise UsageError(f"samplers.{self!r} can't be used with where: its points are a whole")
        inner = next((leaf for leaf in space.leaves if leaf.parent is not None), None)
        if inner is not None:
            raise UsageError(
                f"samplers.{self!r} varies all spaces independently, and cfg[{inner.path!r}] lies "
                "in an option: take it out of there, or use samplers.Sobol"
            )
        with warnings.catch_warnings():  # of n, which is said in a line above the table
            warnings.simplefilter("ignore", UserWarning)
            units: Array = sobol.sample(
                describe_units(space), self.n, calc_second_order=self.second_order, seed=seed
            )
        return units

    def count(self, space: SearchSpace) -> int:
        return self.n * self.per_point(len(space.leaves))

    def per_point(self, n_leaves: int) -> int:
        """How many points there are for each base point."""
        return (2 if self.second_order else 1) * n_leaves + 2


def describe_units(space: SearchSpace) -> dict[str, Any]:
    """Describe the units of a space as SALib wants it."""
    names = [leaf.path for leaf in space.leaves]
    return {"num_vars": len(names), "names": names, "bounds": [[0.0, 1.0]] * len(names)}
