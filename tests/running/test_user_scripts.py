"""Scripts as people write them: what their authors would expect, or one clear sentence."""

from __future__ import annotations

import ast
import sys
from typing import Any

import pytest

from slurm_sweeps.running.train import LARGE_MB, describe_size
from slurm_sweeps.trial import compute_trial_seed
from sweep_scripts import Scripts

RUN = """
if __name__ == "__main__":
    trials = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, seed=3).run(2, fail_fast=False).trials
    print([(str(t.status), t.metrics, t.error and t.error.message) for t in trials])
"""
BESIDE = "A trial runs in a folder of its own: write ss.script_dir() / 'data.csv'"
NO_TERMINAL = "A trial has no terminal to read from: call train(cfg) by hand to debug it"


def run(scripts: Scripts, train: str) -> list[Any]:
    """Run a sweep of two trials; return status, metrics and message of each."""
    said = scripts.run("import slurm_sweeps as ss\n" + train + RUN).stdout
    return list(ast.literal_eval(said.splitlines()[-1]))


#: Scripts by a name; the number that each logs as "value", as by hand.
USUAL = {
    "a torch default of 64 bits": (
        "import torch\ntorch.set_default_dtype(torch.float64)\n",
        "torch.ones(1).itemsize",
        8,
    ),
    "a start method of the script": (
        """
import multiprocessing
def work(n): return n * 2
def double():
    with multiprocessing.Pool(1) as pool:
        return pool.apply(work, (3,)) * (multiprocessing.get_start_method() == "spawn")
if __name__ == "__main__": multiprocessing.set_start_method("spawn")
""",
        "double()",
        6,
    ),
    "seeds of the script": (
        "import random, numpy\nnumpy.random.seed(0)\nrandom.seed(0)\n",
        "numpy.random.random() + random.random()",
        0.5488135039273248 + 0.8444218515250481,
    ),
    "its arguments": (
        "import argparse\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--epochs', type=int, default=2)\nargs = parser.parse_args()\n",
        "parser.parse_args().epochs + args.epochs",
        4,
    ),
    "a logger and its handler": (
        "import logging\nlog = logging.getLogger('mine')\nlog.addHandler(logging.NullHandler())\n",
        "len(logging.getLogger('mine').handlers)",
        1,
    ),
    "an enumeration, slots, an abstract class": (
        """
import abc, dataclasses, enum
class Act(enum.Enum):
    RELU = 1
@dataclasses.dataclass(slots=True)
class Point:
    x: float
class Base(abc.ABC):
    @abc.abstractmethod
    def value(self): ...
class Two(Base):
    def value(self): return 2 + (super().value() or 0)
KEEPS = {Act.RELU: Point(1.0)}
""",
        "KEEPS[Act(1)].x + isinstance(KEEPS[Act.RELU], Point) + Two().value()",
        4,
    ),
}

HEAVY = {
    "a dataset of the script in spawned loaders": (
        """
import torch
class Data(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return torch.tensor(float(i))
def load():
    kinds = "fork", "spawn", "forkserver"
    loaders = [torch.utils.data.DataLoader(Data(), 4, num_workers=1, multiprocessing_context=k)
               for k in kinds]
    return sum(float(batch.sum()) for loader in loaders for batch in loader)
""",
        "load()",
        3 * 28,
    ),
    "processes spawned by torch": (
        """
import torch.multiprocessing as mp
def report(rank):
    if rank == 1: ss.log({"rank": rank}, 0)
""",
        "mp.spawn(report, nprocs=2) or 5",
        5,
    ),
    "jax with 64 bits": (
        "import jax\njax.config.update('jax_enable_x64', True)\nimport jax.numpy as jnp\n",
        "jnp.ones(1).dtype.itemsize",
        8,
    ),
    "a pytree of the script": (
        """
import jax, jax.numpy as jnp
@jax.tree_util.register_pytree_node_class
class State:
    def __init__(self, w): self.w = w
    def tree_flatten(self): return (self.w,), None
    @classmethod
    def tree_unflatten(cls, aux, children): return cls(*children)
""",
        "float(jax.jit(lambda s: jax.tree.map(lambda w: w * 2, s))(State(jnp.ones(3))).w.sum())",
        6,
    ),
    "an environment of the script": (
        """
import gymnasium as gym
class Drift(gym.Env):
    observation_space, action_space = gym.spaces.Discrete(3), gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None): return 1, {}
    def step(self, action): return 2, 7.0, True, False, {}
gym.register("Drift-v0", entry_point=Drift)
def play():
    env = gym.make("Drift-v0")
    env.reset()
    return env.step(1)[1]
""",
        "play()",
        7,
    ),
    "keras with 64 bits": (
        "import tensorflow, keras\nkeras.config.set_floatx('float64')\n",
        "int(keras.config.floatx()[-2:])",
        64,
    ),
    "a DuckDB file that a module opens": (
        "def load():\n    import opens\n    return opens.CON.execute('select 42').fetchone()[0]\n",
        "load()",
        42,
    ),
    "polars, used at the top level": (
        "import polars as pl\nFRAME = pl.DataFrame({'x': [1, 2, 3]}).select(pl.col('x').sum())\n",
        "FRAME['x'].item() + pl.DataFrame({'x': [1]}).select(pl.col('x').sum()).item()",
        7,
    ),
    "an HDF5 file that a module appends to": (
        "def load():\n    import keeps\n    return float(keeps.X[3])\n",
        "load()",
        3,
    ),
}
MODULES = {
    "opens.py": "import duckdb, os\n"
    "CON = duckdb.connect(os.path.join(os.path.dirname(__file__), 'one.duckdb'))\n"
    "CON.execute('create table if not exists t as select range as x from range(100000)')\n"
    "CON.execute('select sum(x) from t').fetchone()\n",
    "keeps.py": "import h5py, numpy, os\n"
    "FILE = h5py.File(os.path.join(os.path.dirname(__file__), 'data.h5'), 'a')\n"
    "if 'x' not in FILE: FILE['x'] = numpy.arange(10.0)\nX = FILE['x']\n",
}


@pytest.mark.skipif(sys.platform != "linux", reason="as by hand is promised on Linux")
@pytest.mark.parametrize(
    ("top", "value", "by_hand"),
    [
        *(pytest.param(*case, id=name) for name, case in USUAL.items()),
        *(pytest.param(*case, id=name, marks=pytest.mark.heavy) for name, case in HEAVY.items()),
    ],
)
def test_a_script_does_in_a_trial_what_it_does_by_hand(
    scripts: Scripts, top: str, value: str, by_hand: float
) -> None:
    for name, module in MODULES.items():
        scripts.write(module, name)
    one = RUN.replace(".run(2,", ".run(2, 1,")  # at a time: a file may be for one process alone
    train = f"def train(cfg):\n    ss.log({{'value': {value}}}, 1)\n"
    said = scripts.run("import slurm_sweeps as ss\n" + top + train + one).stdout
    for status, metrics, message in ast.literal_eval(said.splitlines()[-1]):
        assert (status, message) == ("completed", None)
        assert metrics["value"][1] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("open('data.csv')", f"No such file or directory: 'data.csv'. {BESIDE}"),
        ("open('nowhere.csv')", "No such file or directory: 'nowhere.csv'"),
        ("breakpoint()", NO_TERMINAL),
        ("input('name? ')", f"EOF when reading a line. {NO_TERMINAL}"),
    ],
)
def test_what_is_other_in_a_trial_is_said(scripts: Scripts, body: str, words: str) -> None:
    scripts.write("x,y", "data.csv")
    for status, _, message in run(scripts, f"def train(cfg):\n    {body}\n"):
        assert (status, message.partition("Errno 2] ")[2] or message) == ("failed", words)


def test_a_watchdog_interrupts_a_trial_as_by_hand(scripts: Scripts) -> None:
    train = """
import _thread
def train(cfg):
    try:
        _thread.interrupt_main()
        while True: pass
    except KeyboardInterrupt:
        ss.log({"interrupted": 1}, 1)
"""
    assert run(scripts, train) == [("completed", {"interrupted": {1: 1.0}}, None)] * 2


def test_a_trial_has_its_own_seed_and_a_script_its_folder(scripts: Scripts) -> None:
    train = """
import sys
def train(cfg):
    assert ss.script_dir().joinpath("sweep.py").exists() and sys.argv[0].startswith("/")
    if ss.attempt() == 1:
        print(ss.trial_seed())
    ss.log({"seed": ss.trial_seed()}, 1)
"""
    metrics = [trial[1]["seed"][1] for trial in run(scripts, train)]
    assert metrics == [compute_trial_seed(3, 0), compute_trial_seed(3, 1)]


def test_seeds_of_trials_are_what_is_documented() -> None:
    # Of `printf '0:0' | sha256sum`, and so on: no version may change them.
    assert [compute_trial_seed(seed, number) for seed, number in ((0, 0), (0, 1), (2**32, 7))] == [
        2893166218,
        4011020074,
        127327794,
    ]


def test_a_train_that_takes_much_along_is_said() -> None:
    assert describe_size(LARGE_MB * 10**6 - 1) is None
    assert (describe_size(1_234_567_890) or "").startswith("train takes 1234 MB along")


def test_what_a_library_in_c_prints_is_in_the_log(scripts: Scripts) -> None:
    run(scripts, "import ctypes\ndef train(cfg): ctypes.CDLL(None).printf(b'from C\\n')\n")
    logs = list(scripts.folder.glob("slurm-sweeps/*/*/stdout.log"))
    assert [log.read_text() for log in logs] == ["from C\n"] * 2
