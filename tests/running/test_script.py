"""The script's top level in the processes of trials: what it registers and sets is there."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from slurm_sweeps.running.settings import SETTINGS
from sweep_scripts import Scripts

REGISTRY = "NETS = {}\ndef add(net):\n    NETS[net.__name__] = net\n    return net\n"

SWEEP = """
import decimal, logging, pickle, threading
import numpy as np
import slurm_sweeps as ss
import registry

open("top-levels", "a").write("ran\\n")
logging.basicConfig(filename="run.log", level=logging.INFO)
decimal.getcontext().prec = 5

@registry.add
class Net:
    width = 8
    class Inner: pass

SHARED = Net()

def train(cfg):
    logging.info("in a trial")
    found = {
        "registered": registry.NETS["Net"] is Net and type(SHARED) is Net,
        "inner": pickle.loads(pickle.dumps(Net.Inner)) is Net.Inner,
        "module": Net.__module__ == "__main__",
        "width": Net.width,
        "digits": len(str(decimal.Decimal(1) / 3)) - 2,
        "raises": np.geterr()["divide"] == "raise",
    }
    ss.log({name: int(value) for name, value in found.items()}, 1)

def main():
    Net.width = 16
    np.seterr(divide="raise")
    result = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, "top").run(n_trials=4)
    print([(str(t.status), t.metrics, t.error and t.error.message) for t in result.trials])

"""
GUARD = 'if __name__ == "__main__":\n    main()\n'
AS_BY_HAND = {
    name: {1: value}
    for name, value in {
        **{"registered": 1.0, "inner": 1.0, "module": 1.0},
        **{"width": 16.0, "digits": 5.0, "raises": 1.0},
    }.items()
}


def run(scripts: Scripts, source: str) -> tuple[list[Any], str]:
    """Run a sweep; return what it prints last, and all of it."""
    scripts.write(REGISTRY, "registry.py")
    said = scripts.run(source).stdout
    return ast.literal_eval(said.splitlines()[-1]), said


def count_runs(scripts: Scripts) -> int:
    return (scripts.folder / "top-levels").read_text().count("ran")


@pytest.mark.parametrize("is_fresh", [False, True])
def test_what_a_script_sets_and_registers_is_there_as_by_hand(
    scripts: Scripts, is_fresh: bool
) -> None:
    thread = "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    trials, _ = run(scripts, SWEEP + (thread if is_fresh else "") + GUARD)
    assert trials == [("completed", AS_BY_HAND, None)] * 4
    assert (scripts.folder / "run.log").read_text().count("in a trial") == 4
    # By the driver and once for all trials of a host; and by each fresh interpreter.
    assert count_runs(scripts) == (2 + 4 if is_fresh else 2)


@pytest.mark.parametrize("how", ["no guard", "off", "forced"])
def test_a_script_that_was_not_written_to_be_run_again_is_not(scripts: Scripts, how: str) -> None:
    end = GUARD if how == "off" else "main()\n"
    if how != "no guard":
        scripts.env["SLURM_SWEEPS_SCRIPT"] = "0" if how == "off" else "1"
    source = SWEEP
    if how != "forced":  # what is registered is not there
        source = source.replace('registry.NETS["Net"] is Net', "not registry.NETS")
        source = source.replace("pickle.loads(pickle.dumps(Net.Inner)) is Net.Inner", "True")
    trials, _ = run(scripts, source + end)
    assert count_runs(scripts) == (2 if how == "forced" else 1)
    assert trials == [("completed", AS_BY_HAND, None)] * 4  # settings are carried in any case


@pytest.mark.parametrize("end", ['open("x", "x")', "sys.exit(threading.active_count())"])
def test_a_top_level_that_ends_early_is_told_and_left_alone(scripts: Scripts, end: str) -> None:
    again = f'import os, sys\nif os.path.exists("once"):\n    {end}; {end}\nopen("once", "w")\n'
    trials, said = run(scripts, SWEEP + again + GUARD)
    assert trials == [("completed", AS_BY_HAND, None)] * 4
    assert said.count("sweep.py fails in a host (") == 1
    assert "trials go without what it does from there on" in said


def test_a_sweep_that_fails_says_that_the_top_level_was_left_out(scripts: Scripts) -> None:
    scripts.write(REGISTRY, "registry.py")
    done = scripts.run(
        """
        import slurm_sweeps as ss
        import registry

        @registry.add
        class Net: pass

        def train(cfg):
            registry.NETS["Net"]

        ss.Experiment(train, {"x": 1}).run(n_trials=3)
        """,
        code=1,
    )
    said = 'sweep.py has no line if __name__ == "__main__":, so trials go without its top level'
    assert said in done.stderr


def test_a_top_level_has_a_time_limit() -> None:
    code = (
        "import marshal, time; import slurm_sweeps.running.script as script\n"
        "script.LIMIT_S = 1; __file__ = 'sweep.py'\n"
        "code = marshal.dumps(compile('import threading; threading.Event().wait()', 'a', 'exec'))\n"
        "print(script.run_script(code, '.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "the top level of sweep.py takes longer than 1 s in a host" in done.stdout


def test_settings_are_read_where_they_are_not_the_librarys_own() -> None:
    """Each setting of an installed library is its own default, and comes back when it was set.

    To read them warns of nothing, though pandas deprecates some of its own; to set one does, which
    is the user's doing.
    """
    others = {
        "torch.set_default_dtype": "float64",
        "torch.backends.cudnn.benchmark": True,
        "torch.set_float32_matmul_precision": "high",
        "numpy.seterr": {"divide": "raise", "over": "warn", "under": "ignore", "invalid": "raise"},
        "decimal.getcontext().prec, .rounding": [7, "ROUND_DOWN"],
        "sys.setrecursionlimit": 2345,
        "multiprocessing.set_start_method": "spawn",
        "sklearn.set_config": {
            **{"transform_output": "pandas", "assume_finite": True},
            "enable_metadata_routing": False,
        },
        "pandas.mode.chained_assignment": "raise",
    }
    libraries = sorted({s.module for s in SETTINGS if find_spec(s.module) is not None})
    code = (
        f"import json, warnings, {', '.join(libraries)}\n"
        "from slurm_sweeps.running.settings import SETTINGS, apply_settings, read_settings\n"
        "numbers = {f'{s.module}.{s.name}': i for i, s in enumerate(SETTINGS)}\n"
        "def read():\n"
        "    with warnings.catch_warnings(record=True) as told:\n"
        "        warnings.simplefilter('always')\n"
        "        found = read_settings()\n"
        "    return found, [str(each.message) for each in told]\n"
        "usual, told = read()\n"
        f"others = {{numbers[name]: value for name, value in {others!r}.items()}}\n"
        "problems = apply_settings(others)\n"
        "names = {i: name for name, i in numbers.items()}\n"
        "found, more = read()\n"
        "found = {names[i]: value for i, value in found.items()}\n"
        "print(json.dumps([usual, problems, found, told + more]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    usual, problems, found, told = json.loads(done.stdout.splitlines()[-1])
    assert told == []
    assert usual == {}
    assert problems == []
    assert found == others
