"""Forks of processes that have used real libraries: each trial ends, with the value as by hand.

Most of these hung once: a fork copies a pool of threads as a list of threads that are not there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from worker_process import start_worker

#: How the notice goes on.
FRESH = "every trial gets a fresh interpreter instead of a fork"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are seen on Linux only")


@dataclass(frozen=True)
class Case:
    """What a module that `train` imports does, and what may follow.

    Args:
        name: What it is called.
        at_import: The module's top level; the first word after `import` is its library.
        use: What the trial computes with it: an expression that gives a number.
        hazard: What the notice says after "importing what train needs has", where trials must get
            fresh interpreters; None where they are forked.
    """

    name: str
    at_import: str
    use: str
    hazard: str | None = None

    @property
    def library(self) -> str:
        return re.split(r"\W+", self.at_import)[1]


NATIVE = "started {} native threads"
MATRIX = "import numpy as np; A = np.random.default_rng(0).random((600, 600))"
POINTS = "import numpy as np; X = np.random.default_rng(0).random((20000, 16)); Y = X[:, 0] > 0.5"

USUAL = [
    Case("numpy", f"import numpy; {MATRIX}; A @ A", "(A @ A).sum()"),
    Case("scipy", f"import scipy.linalg; {MATRIX}; scipy.linalg.svdvals(A)", "abs(A @ A).max()"),
    Case("torch", "import torch", "torch.nn.Linear(64, 1)(torch.ones(100_000, 64)).numel()"),
    Case(
        "torch-ops",
        "import torch; X = torch.arange(4_000_000.0).reshape(-1, 64); X = X - X.mean(0)",
        "float((X / X.std(0)).abs().mean())",
    ),
    Case(
        "torch-tasks",
        "import torch\n"
        "@torch.jit.script\n"
        "def add(x: torch.Tensor):\n"
        "    return torch.jit.wait(torch.jit.fork(torch.sum, x))\n"
        "add(torch.ones(10))",
        "float(add(torch.ones(10)))",
        NATIVE.format("[0-9]+"),
    ),
    Case(
        "kmeans",
        f"import sklearn.cluster; {POINTS}\n"
        "def fit(): return sklearn.cluster.KMeans(4, n_init=1, random_state=0).fit(X).inertia_\n"
        "fit()",
        "round(fit(), 6)",
    ),
]

#: More of what the ones above are examples of: for `make chaos`.
MORE = [
    Case(
        "torch-backward",
        "import torch; W = torch.ones(64, requires_grad=True); X = torch.ones(100_000, 64)\n"
        "(X @ W).sum().backward()",
        "float(W.grad.sum() + (X @ W).sum())",
    ),
    Case(
        "torch-and-kmeans",  # two copies of OpenMP
        f"import torch, sklearn.cluster; {POINTS}; T = torch.ones(100_000, 64); T = T - T.mean(0)\n"
        "def fit(): return sklearn.cluster.KMeans(4, n_init=1, random_state=0).fit(X).inertia_\n"
        "fit()",
        "round(fit(), 6) + float(T.std(0).sum())",
    ),
]

HEAVY = [
    Case("polars", "import polars", "polars.Series([1, 2]).sum()", NATIVE.format("[0-9]+")),
    Case(
        "polars-used",
        "import polars as pl, numpy as np\n"
        "F = pl.DataFrame({'g': np.arange(300_000) % 50, 'x': np.arange(300_000.0)})\n"
        "M = F.group_by('g').agg(pl.col('x').mean())",
        "F.group_by('g').agg(pl.col('x').mean())['x'].sum()",
        NATIVE.format("[0-9]+"),
    ),
    Case("jax", "import jax", "float(jax.numpy.ones(9).sum())"),
    Case(
        "jax-key",
        "import jax; X = jax.random.normal(jax.random.PRNGKey(0), (2000, 50))",
        "float((X @ jax.numpy.ones(50)).sum())",
        NATIVE.format("[0-9]+"),
    ),
    Case("tensorflow", "import tensorflow as tf", "float(tf.reduce_sum(tf.ones((9, 9))))"),
    Case(
        "tensorflow-used",
        "import tensorflow as tf; tf.random.set_seed(0); X = tf.random.normal((2000, 20))",
        "float(tf.reduce_sum(X @ tf.ones((20, 20))))",
        NATIVE.format("[0-9]+"),
    ),
    Case(
        "xgboost",
        f"import xgboost; {POINTS}; D = xgboost.DMatrix(X, Y)\n"
        "def fit(): return xgboost.train({'seed': 0}, D, 3).predict(D).sum()\n"
        "fit()",
        "round(float(fit()), 1)",
    ),
    Case(
        "lightgbm",
        f"import lightgbm; {POINTS}\n"
        "def fit():\n"
        "    data = lightgbm.Dataset(X, Y)\n"
        "    return lightgbm.train({'verbose': -1}, data, 3).predict(X).sum()\n"
        "fit()",
        "round(float(fit()), 3)",
    ),
    Case(
        "faiss",
        f"import faiss; {POINTS}; index = faiss.IndexFlatL2(16); index.add(X)\n"
        "def find(): return index.search(X[:500], 3)[1].sum()\n"
        "find()",
        "float(find())",
    ),
    Case(
        "duckdb", "import duckdb", "duckdb.sql('select sum(range) from range(99)').fetchall()[0][0]"
    ),
    Case(
        "duckdb-used",
        "import duckdb; C = duckdb.connect(); C.execute('select sum(range) from range(3000000)')",
        "C.execute('select sum(range) from range(3000000)').fetchall()[0][0]",
        NATIVE.format("[0-9]+"),
    ),
    Case(
        "opencv",
        "import cv2; import numpy as np; A = np.eye(2000); B = cv2.GaussianBlur(A, (0, 0), 5)",
        "round(float(cv2.GaussianBlur(A, (0, 0), 5).sum()), 6)",
        NATIVE.format("[0-9]+"),
    ),
    Case(
        "numba",  # its OpenMP layer ends every fork of a process that has used it
        "import numba\n"
        "@numba.njit(parallel=True)\n"
        "def add(n):\n"
        "    total = 0\n"
        "    for i in numba.prange(n): total += i\n"
        "    return total\n"
        "add(10)",
        "float(add(10))",
        "(used numba.np.ufunc.omppool, which ends forks|" + NATIVE.format("[0-9]+") + ")",
    ),
]


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=case.name) for case in USUAL),
        *(pytest.param(case, id=case.name, marks=pytest.mark.chaos) for case in MORE),
        *(pytest.param(case, id=case.name, marks=pytest.mark.heavy) for case in HEAVY),
    ],
)
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU: no library starts a thread")
def test_trials_of_what_has_used_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    if find_spec(case.library) is None:
        pytest.skip(f"{case.library} is not here")
    (tmp_path / "case.py").write_text(f"{case.at_import}\ndef use():\n    return {case.use}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    by_hand = "import case; print(float(case.use()))"
    done = subprocess.run([sys.executable, "-c", by_hand], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def train(_cfg: dict[str, Any]) -> None:
        import case

        import slurm_sweeps as ss

        ss.log({"value": float(case.use())}, 1)

    with start_worker(tmp_path / "experiment", train) as worker:
        if case.hazard is not None:
            text = worker.wait_for("notice")["text"]
            pattern = f"importing what train needs has {case.hazard}( \\(.*\\))?: {FRESH}"
            assert re.fullmatch(pattern, text), text
        worker.wait_for("ready")
        for number in range(2):
            worker.run(number=number)
            value = worker.wait_for("report")["metrics"]["value"]
            assert value == pytest.approx(float(done.stdout), rel=1e-6)
            worker.decide("go_on", 1, number)
            assert worker.wait_for("ended")["how"] == "completed"
