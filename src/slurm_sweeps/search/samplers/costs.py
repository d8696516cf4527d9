"""What a configuration's iterations cost, learned from the trials so far.

How much that counts fades while trials come in: at first cheap lessons are as good as dear ones,
in the end the best configuration is wanted, whatever it costs.
"""

from __future__ import annotations

import math

import numpy as np

from ...samplers.encoding import Array
from .trees import ask_trees, grow_trees

#: A forest is fitted to no more trials than this, drawn at random.
MAX_TRIALS = 500
N_TREES = 10

#: Costs count in full up to so many trials, then by one over the square root of their number.
N_IN_FULL = 100

#: Logarithms farther from their median than so many standard deviations, by the median deviation,
#: are cut: a suspended job or a first import says nothing of a configuration.
MAX_DEVIATIONS = 4.0
PER_MEDIAN_DEVIATION = 1.4826

#: Nothing is cut that is nearer to the median than this.
MIN_LIMIT = 1.0

#: Where the logarithms of the seconds spread less than this, all cost the same.
MIN_SPREAD = 0.1


def fade(n_trials: int) -> float:
    """Return the share, in (0, 1], of its weight that a cost has among so many trials."""
    return math.sqrt(min(1.0, N_IN_FULL / max(n_trials, 1)))


def predict_costs(shown: Array, seconds: Array, asked: Array, rng: np.random.Generator) -> Array:
    """Predict the logarithm of the seconds per iteration, less the trials' mean; [n_asked].

    Args:
        shown: The trials that were timed, as a model is shown them; [n, n_columns].
        seconds: What an iteration of theirs took, more than 0; [n].
        asked: What is to be predicted; [n_asked, n_columns].
        rng: Makes the fit repeatable.
    """
    if len(seconds) < 2 or (logs := _cut(np.log(seconds))).std() < MIN_SPREAD:
        return np.zeros(len(asked))
    if len(logs) > MAX_TRIALS:
        kept = rng.choice(len(logs), MAX_TRIALS, replace=False)
        shown, logs = shown[kept], logs[kept]
    trees = grow_trees(N_TREES, shown, logs, rng)
    expected: Array = ask_trees(trees, asked).mean(axis=0) - logs.mean()
    return expected


def _cut(logs: Array) -> Array:
    """Draw in what lies too far out."""
    median = np.median(logs)
    deviation = PER_MEDIAN_DEVIATION * float(np.median(np.abs(logs - median)))
    limit = max(MIN_LIMIT, MAX_DEVIATIONS * deviation)
    cut: Array = np.clip(logs, median - limit, median + limit)
    return cut
