"""Users' scripts, whole: where `train` may live, and what is left when a driver goes."""

from __future__ import annotations

import sqlite3

import pytest

import slurm_sweeps as ss
from cluster_tools.processes import wait_until
from slurm_sweeps.trial import Status
from sweep_scripts import TIMEOUT_S, Scripts, kill

RUN = """
result = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, local_dir="out").run(n_trials=2)
for trial in result.trials:
    print("got", trial.status, trial.metrics)
"""
GOT = "got completed {'loss': {1: 5.0}}"


@pytest.mark.parametrize(
    "source",
    [
        # in __main__, with what it needs from there, and without the usual guard
        "import slurm_sweeps as ss\nN = 5\ndef helper(): return N\n"
        "def train(cfg): ss.log({'loss': helper()}, 1)\n",
        # in a module beside the script, which imports a further one inside
        "import slurm_sweeps as ss\nfrom mymodel import train\n",
        # a closure
        "import slurm_sweeps as ss\ndef build(n):\n"
        "    def train(cfg): ss.log({'loss': n}, 1)\n    return train\ntrain = build(5)\n",
        # a partial of a lambda
        "import functools\nimport slurm_sweeps as ss\n"
        "train = functools.partial(lambda n, cfg: ss.log({'loss': n}, 1), 5)\n",
        # an object
        "import slurm_sweeps as ss\nclass Train:\n    n = 5\n"
        "    def __call__(self, cfg): ss.log({'loss': self.n}, 1)\ntrain = Train()\n",
        # imports inside only, under another name
        "import slurm_sweeps as ss\ndef train(cfg):\n"
        "    from slurm_sweeps import log as report\n    report({'loss': 5}, 1)\n",
    ],
    ids=["main", "module", "closure", "partial", "object", "imports inside"],
)
def test_train_may_live_anywhere(scripts: Scripts, source: str) -> None:
    scripts.write("N = 5\n", "package/constants.py")
    scripts.write(
        "import slurm_sweeps as ss\ndef train(cfg):\n    from package import constants\n"
        "    ss.log({'loss': constants.N}, 1)\n",
        "mymodel.py",
    )
    assert scripts.run(source + RUN).stdout.count(GOT) == 2


def test_train_may_live_in_a_notebook(scripts: Scripts) -> None:
    # A kernel: cells run one by one in __main__, in a thread that has an event loop, with no file.
    notebook = """
    import asyncio, sys
    sys.path.insert(0, "")
    cells = [
        "import slurm_sweeps as ss",
        "def train(cfg):\\n    ss.log({'loss': N}, 1)",
        "N = 5",
        %r,
    ]
    async def kernel():
        for number, cell in enumerate(cells):
            exec(compile(cell, f"<cell {number}>", "exec"), vars(sys.modules["__main__"]))
            await asyncio.sleep(0)
    asyncio.run(kernel())
    """
    assert scripts.run(notebook % RUN).stdout.count(GOT) == 2


def test_imports_that_start_threads_mean_fresh_interpreters_and_that_is_said_once(
    scripts: Scripts,
) -> None:
    scripts.write(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
        "threaded.py",
    )
    source = """
    import threaded
    import slurm_sweeps as ss
    def train(cfg):
        assert threaded
        for epoch in (1, 2): ss.log({"loss": cfg["x"]}, epoch)
    if __name__ == "__main__":
        asha = ss.ASHA("loss", "min")
        result = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, asha=asha).run(n_trials=5)
        print({str(trial.status) for trial in result.trials} <= {"completed", "pruned"})
    """
    out = scripts.run(source).stdout
    assert out.endswith("True\n")
    assert out.count("has started threads (Thread-1 (wait)): every trial gets a fresh") == 1


def test_what_the_script_defines_can_be_pickled_inside_train(
    scripts: Scripts,
) -> None:
    source = """
    import multiprocessing, pickle
    import slurm_sweeps as ss
    class Model:
        def __init__(self, n): self.n = n
    def double(n): return 2 * n
    def train(cfg):
        model = pickle.loads(pickle.dumps(Model(3)))
        with multiprocessing.get_context("fork").Pool(1) as pool:
            total = sum(pool.map(double, [model.n, 1]))
        with open("model.pkl", "wb") as file:
            pickle.dump(model, file)
        ss.log({"total": total}, 1)
    if __name__ == "__main__":
        result = ss.Experiment(train, {}, local_dir="out").run()
        trial = result.trials[0]
        print("got", trial.status, trial.metrics)
        with open(f"out/MySweep/{trial.trial_id}/model.pkl", "rb") as file:
            print("model", pickle.load(file).n)
    """
    out = scripts.run(source).stdout
    assert "got completed {'total': {1: 8.0}}\nmodel 3\n" in out


def test_a_result_can_be_read_while_the_sweep_runs(scripts: Scripts) -> None:
    source = """
    import time, pathlib
    import slurm_sweeps as ss
    def train(cfg):
        ss.log({"loss": cfg["n"]}, 1)
        (ss.trial_dir() / "logged").touch()
        while cfg["n"] == 1 and not pathlib.Path("../../../go").exists():
            time.sleep(0.01)
    asha = ss.ASHA("loss", "min")
    ss.Experiment(train, {"n": ss.Grid([0, 1])}, name="running", asha=asha).run()
    """
    with scripts.start(source) as process:
        scripts.wait_for_file("slurm-sweeps/running/*/logged", 1)
        result = ss.Result("running", scripts.folder / "slurm-sweeps")
        wait_until(
            lambda: (
                [str(trial.status) for trial in result.trials] == ["completed", "pruned"]
                or len(result.metrics_dataframe()) == 2
            ),
            TIMEOUT_S,
            lambda: str(result.trials),
        )
        assert result.best_trial().cfg == {"n": 0}
        assert len(result.to_dataframe()) == 2
        (scripts.folder / "go").touch()
        out, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, out
    assert result.trials[1].is_terminated()


LONG = """
import subprocess, time
import slurm_sweeps as ss
def train(cfg):
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    for epoch in range(1, 1_000_000):
        ss.log({"loss": 1 / epoch}, epoch)
        if epoch == 100:
            (ss.trial_dir() / "long").touch()
        time.sleep(0.001)
ss.Experiment(train, {"x": ss.Uniform(0, 1)}, restore="auto").run(n_trials=2)
"""


def test_a_driver_that_is_killed_leaves_no_process_and_a_whole_database(
    scripts: Scripts,
) -> None:
    with scripts.start(LONG) as process:
        scripts.wait_for_file("slurm-sweeps/MySweep/*/long", 2)
        kill(process)
        scripts.wait_until_gone(5.0)
    path = scripts.folder / "slurm-sweeps" / "slurm-sweeps.db"
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()
    result = ss.Result("MySweep", path.parent)
    trials = result.trials
    assert {trial.status for trial in (*trials, result.best_trial("loss", "min"))} == {
        Status.INTERRUPTED
    }
    frame = result.to_dataframe()
    assert frame["status"].tolist() == ["interrupted"] * 2
    assert frame["end_time"].notna().all()
    assert all(trial.end_time is not None for trial in trials)
    for trial in trials:
        assert sorted(trial.metrics["loss"]) == list(range(1, len(trial.metrics["loss"]) + 1))


def test_ctrl_c_ends_a_sweep_with_everything_kept(scripts: Scripts) -> None:
    with scripts.start(LONG) as process:
        scripts.wait_for_file("slurm-sweeps/MySweep/*/long", 2)
        process.send_signal(2)
        out, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, out
    assert "Traceback" not in out
    trials = ss.Result("MySweep", scripts.folder / "slurm-sweeps").trials
    assert [trial.status for trial in trials] == [Status.INTERRUPTED] * 2
    assert all(len(trial.metrics["loss"]) >= 100 for trial in trials)


def test_what_a_user_sees_of_a_failing_script(scripts: Scripts) -> None:
    source = """
    import slurm_sweeps as ss
    def train(cfg):
        raise ValueError("a typo")
    ss.Experiment(train, {"x": ss.Uniform(0, 1)}).run(n_trials=100, max_concurrent_trials=1)
    """
    done = scripts.run(source, code=1)
    assert "SweepFailedError: the first 3 trials have all failed" in done.stderr
    assert "3 of them with ValueError: a typo" in done.stderr
    assert "_drive" not in done.stderr  # none of our frames but the one that raises
    last = done.stdout.split("MySweep: ")[-1]
    assert last.startswith("failed, 3 of 100 done")
    assert "(3 alike): ValueError: a typo" in last
    assert len(ss.Result("MySweep", scripts.folder / "slurm-sweeps").trials) == 3


def test_a_train_that_catches_what_is_to_end_it_is_told(scripts: Scripts) -> None:
    source = """
    import slurm_sweeps as ss
    def train(cfg):
        for epoch in range(1, 4):
            try:
                ss.log({"loss": cfg["n"] + epoch}, epoch)
            except:
                pass
    asha = ss.ASHA("loss", "min")
    cfg = {"n": ss.Grid([1, 2, 3])}
    ss.Experiment(train, cfg, asha=asha).run(max_concurrent_trials=1)
    """
    said = "train goes on after ss.log has raised TrialPruned"
    assert scripts.run(source).stdout.count(said) == 1


def test_a_closed_standard_output_is_no_error(scripts: Scripts) -> None:
    source = """
    import os, sys
    import slurm_sweeps as ss
    if len(sys.argv) > 1:  # Python finds no standard output when it starts
        os.close(1)
        os.execv(sys.executable, [sys.executable, __file__])
    assert sys.stdout is None
    def train(cfg): ss.log({"loss": 1}, 1)
    ss.Experiment(train, {}, local_dir="out").run(n_trials=2)
    """
    scripts.run(source, "close")
    assert len(ss.Result("MySweep", scripts.folder / "out").trials) == 2


def test_a_set_in_a_cfg_is_the_same_in_every_process(scripts: Scripts) -> None:
    source = """
    import slurm_sweeps as ss
    def train(cfg): ss.log({"loss": len(cfg["tags"])}, 1)
    cfg = {"tags": {"a", "b", "c", "d"}, "x": ss.Uniform(0, 1)}
    experiment = ss.Experiment(train, cfg, local_dir="out", restore="auto", seed=1)
    print([trial.trial_id for trial in experiment.run(n_trials=2).trials], list(cfg["tags"]))
    """
    said = []
    for seed in "04":  # by which strings are hashed, and sets ordered
        scripts.env["PYTHONHASHSEED"] = seed
        said.append(scripts.run(source).stdout.splitlines()[-1].split("]"))
    (trials, order, _), (same, other, _) = said
    assert trials == same
    assert order != other
