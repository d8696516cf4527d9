"""Extremely randomised trees, and what each of them expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...samplers.encoding import Array


def grow_trees(n_trees: int, rows: Array, values: Array, rng: np.random.Generator) -> Sequence[Any]:
    """Fit trees to the values of rows; [n, n_columns] and [n]."""
    from sklearn.ensemble import ExtraTreesRegressor

    state = int(rng.integers(2**31))
    forest = ExtraTreesRegressor(n_trees, min_samples_leaf=2, random_state=state, n_jobs=1)
    trees: Sequence[Any] = forest.fit(rows, values).estimators_
    return trees


def ask_trees(trees: Sequence[Any], rows: Array) -> Array:
    """Return what each tree expects of each row, sooner than a forest would; [trees, n]."""
    asked = rows.astype(np.float32)  # what a tree takes
    return np.array([tree.tree_.predict(asked)[:, 0] for tree in trees])
