"""What comes of a script's functions and classes in trials, for code that looks at them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import slurm_sweeps as ss
from slurm_sweeps.running.pickling import dumps
from slurm_sweeps.running.train import pickle_train
from sweep_scripts import Scripts

#: Ends each script: a sweep of two trials, and the metrics of both.
RUN = """
if __name__ == "__main__":
    exp = ss.Experiment(train, {space}, "exp")
    trials = exp.run(n_trials=2, max_concurrent_trials=1).trials
    print([{name: at[1] for name, at in trial.metrics.items()} for trial in trials])
"""

CLASSES = """
import {pickle} as pickle
import slurm_sweeps as ss

class Small:
    size = 1
    def loss(self, epoch): return self.size / epoch

class Large(Small):
    size = 100
"""


def run(scripts: Scripts, source: str, space: str) -> str:
    """Run a sweep; return the metrics that it prints."""
    script = source + RUN.replace("{space}", space)
    return scripts.run(script).stdout.splitlines()[-1]


def test_a_class_in_a_choice_can_be_pickled_by_name(scripts: Scripts) -> None:
    train = """
def train(cfg):
    model = cfg["net"]()
    copy = pickle.loads(pickle.dumps(model))
    ss.log({"same": float(type(copy) is cfg["net"]), "loss": copy.loss(2)}, 1)
"""
    source = CLASSES.format(pickle="pickle") + train
    found = run(scripts, source, '{"net": ss.Grid([Small, Large])}')
    assert found == "[{'same': 1.0, 'loss': 0.5}, {'same': 1.0, 'loss': 50.0}]"


def test_a_model_in_a_choice_can_be_saved_by_pytorch(scripts: Scripts) -> None:
    source = """
import slurm_sweeps as ss
import torch

class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

@torch.no_grad()
def train(cfg):
    torch.save(cfg["net"](), ss.checkpoint_dir() / "model.pt")
    model = torch.load(ss.checkpoint_dir() / "model.pt", weights_only=False)
    ss.log({"same": float(isinstance(model, Small)), "size": model.layer.weight.numel()}, 1)
"""
    found = run(scripts, source, '{"net": ss.Choice([Small])}')
    assert found == "[{'same': 1.0, 'size': 4.0}, {'same': 1.0, 'size': 4.0}]"


def test_a_class_given_to_a_function_of_a_module(scripts: Scripts) -> None:
    trainer = """
    import pickle
    import slurm_sweeps as ss
    def train(build, cfg):
        ss.log({"loss": pickle.loads(pickle.dumps(build())).loss(1)}, 1)
    """
    scripts.write(trainer, "trainer.py")
    source = CLASSES.format(pickle="functools, trainer")
    source += "train = pickle.partial(trainer.train, Large)\n"
    source = source.replace("trainer as pickle", "trainer").replace("pickle.", "functools.")
    found = run(scripts, source, '{"x": ss.Uniform(0, 1)}')
    assert found == "[{'loss': 100.0}, {'loss': 100.0}]"


def test_a_decorated_function_and_what_it_uses(scripts: Scripts) -> None:
    train = """
import functools
def decorate(function):
    @functools.wraps(function)
    def wrapper(cfg): return function(cfg)
    return wrapper

@decorate
def train(cfg):
    copy = pickle.loads(pickle.dumps([Large(), train, decorate]))
    ss.log({"loss": copy[0].loss(1), "same": float(copy[1] is train and copy[2] is decorate)}, 1)
"""
    source = CLASSES.format(pickle="pickle") + train
    found = run(scripts, source, '{"x": ss.Uniform(0, 1)}')
    assert found == "[{'loss': 100.0, 'same': 1.0}, {'loss': 100.0, 'same': 1.0}]"


def test_a_process_that_was_spawned_finds_the_script(scripts: Scripts) -> None:
    source = """
import multiprocessing, os
import slurm_sweeps as ss

class Data:
    def __init__(self, n): self.n = n

def work(data, queue):
    queue.put(data.n + 1)

def train(cfg):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=work, args=(Data(4), queue))
    child.start()
    ss.log({"n": queue.get(timeout=60)}, 1)
    child.join()
"""
    found = run(scripts, source, '{"x": ss.Uniform(0, 1)}')
    assert found == "[{'n': 5.0}, {'n': 5.0}]"


def test_a_script_without_a_guard_starts_no_sweep_in_a_process_that_was_spawned(
    scripts: Scripts,
) -> None:
    source = """
import multiprocessing, sys
import slurm_sweeps as ss

def work(): ...

def train(cfg):
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    ss.log({"code": child.exitcode}, 1)

trials = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, "exp").run(n_trials=1).trials
print([trial.metrics for trial in trials])
"""
    assert scripts.run(source).stdout.splitlines()[-1] == "[{'code': {1: 1.0}}]"
    (log,) = scripts.folder.glob("slurm-sweeps/exp/*/stderr.log")
    assert 'put what starts the sweep under if __name__ == "__main__":' in log.read_text()


def test_a_traceback_has_file_line_and_source(scripts: Scripts) -> None:
    source = """
import slurm_sweeps as ss
def train(cfg):
    raise ValueError("no")  # in this line
ss.Experiment(train, {"x": ss.Uniform(0, 1)}, "exp").run(n_trials=1)
"""
    scripts.run(source)
    (log,) = scripts.folder.glob("slurm-sweeps/exp/*/stderr.log")
    assert f'File "{scripts.folder / "sweep.py"}", line 4, in train' in log.read_text()
    assert 'raise ValueError("no")  # in this line' in log.read_text()


def test_pytorch_compiles_the_source_of_a_scripts_class(scripts: Scripts) -> None:
    source = """
import inspect
import slurm_sweeps as ss
import torch

class Gate(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return x * 2
        return x

def train(cfg):
    assert inspect.getsource(train).startswith("def train(cfg):")
    assert inspect.getsource(Gate).startswith("class Gate(torch")
    ss.log({"sum": float(torch.jit.script(Gate())(torch.ones(3)).sum())}, 1)
"""
    assert run(scripts, source, '{"x": ss.Uniform(0, 1)}') == "[{'sum': 6.0}, {'sum': 6.0}]"


def test_the_source_of_what_is_in_no_file_goes_along(tmp_path: Path) -> None:
    """As for a cell of a notebook, which only its own process can show."""
    write = f"""
import linecache, sys
from slurm_sweeps.running.pickling import dumps
cell = "def train(cfg):\\n    return cfg['x'] + 1\\n"
linecache.cache["<cell 1>"] = (len(cell), None, cell.splitlines(True), "<cell 1>")
exec(compile(cell, "<cell 1>", "exec"))
open({str(tmp_path / "train.pkl")!r}, "wb").write(dumps(train))
"""
    read = f"""
import inspect, linecache
from slurm_sweeps.running.pickling import loads
train = loads(open({str(tmp_path / "train.pkl")!r}, "rb").read())
linecache.checkcache()
assert inspect.getsource(train) == "def train(cfg):\\n    return cfg['x'] + 1\\n"
assert train({{"x": 1}}) == 2
"""
    for code in (write, read):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_is_read_by_the_script_itself_leaves_it_alone(scripts: Scripts) -> None:
    source = """
from slurm_sweeps.running.pickling import dumps, loads
N = [1]
def train(cfg): return N
before = train
assert loads(dumps(train)) is not before
assert train is before
assert N is before({})
"""
    scripts.run(source)


LOCK_IN_MODEL = """
import logging, threading
import slurm_sweeps as ss

class Model:
    def __init__(self):
        self.parts = {"head": [1, threading.Lock()]}

model = Model()

def helper():
    return model.parts

def train(cfg):
    helper()

ss.Experiment(train, {"x": ss.Uniform(0, 1)}, "exp").run(n_trials=1)
"""


def test_what_can_not_be_pickled_is_named_with_its_place(scripts: Scripts) -> None:
    said = scripts.run(LOCK_IN_MODEL, code=1).stderr
    assert "cannot pickle '_thread.lock' object. It is model.parts['head'][1] (lock), " in said
    assert "which helper uses in line 12 of sweep.py. Create what can't travel" in said


def test_a_variable_of_a_closure_a_default_and_a_space_are_named() -> None:
    lock: Any = __import__("threading").Lock()

    def train(_cfg: dict[str, Any]) -> None:
        print(lock)

    with pytest.raises(ss.TrainError, match=r"It is lock \(lock\), which .*train uses in line"):
        pickle_train(train)
    with pytest.raises(ss.UsageTypeError, match=r"It is cfg\['a'\]\[0\] \(lock\)\. Create"):
        ss.Experiment(len, {"a": [lock], "x": ss.Uniform(0, 1)}, "exp").run(n_trials=1)


def test_the_bytes_are_the_same_again() -> None:
    def train(cfg: dict[str, Any]) -> None:
        print(cfg)

    assert dumps(train) == dumps(train)
