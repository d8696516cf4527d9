"""Sweeps of real programs: compiled, scripts, well-behaved and not."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

import slurm_sweeps as ss
from cluster_tools.processes import wait_until
from doc_pages import read_blocks
from slurm_sweeps.cli import main
from sweep_scripts import Scripts

#: A program in C that reads an input file, computes, and prints into a buffer, as C's library does
#: when its output is no terminal.
SOLVER = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) {
    double lr; int steps;
    FILE *in = fopen("input.nml", "r");
    if (!in || fscanf(in, " &run lr=%lf steps=%d /", &lr, &steps) != 2) {
        fprintf(stderr, "bad input.nml\n");
        return 4;
    }
    for (int i = 1; i <= steps; i++) {
        usleep(50000);
        printf("step %d residual = %g\n", i, lr / i);
    }
    return 0;
}
"""

#: As people have it: argparse, prints, a checkpoint that is gone on from.
TRAIN = """
    import argparse, json, pathlib, time
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    saved = pathlib.Path(args.out, "state.json")
    first = json.loads(saved.read_text()) + 1 if saved.exists() else 1
    for epoch in range(first, 13):
        time.sleep(0.05)
        saved.with_suffix(".new").write_text(json.dumps(epoch))
        saved.with_suffix(".new").replace(saved)  # whole, whenever it is killed
        print(f"epoch {epoch} val_loss={args.lr / epoch}")
"""


def run(
    folder: Path, train: ss.Program, cfg: dict[str, object], n: int, **options: object
) -> ss.Result:
    rule = options.pop("asha", ss.ASHA("loss", "min", min_t=1, max_t=9, reduction_factor=2))
    experiment = ss.Experiment(train, cfg, local_dir=folder / "sweeps", asha=rule, seed=1)  # type: ignore[arg-type]
    options = {"max_concurrent_trials": 2, "summary_interval_in_sec": 60, **options}
    return experiment.run(n, **options)  # type: ignore[arg-type]


def read_output(folder: Path, trial: ss.Trial, name: str = "stdout.log") -> str:
    return (folder / "sweeps" / "MySweep" / trial.trial_id / name).read_text()


def test_a_solver_with_an_input_file(tmp_path: Path) -> None:
    (tmp_path / "solver.c").write_text(SOLVER)
    (tmp_path / "input.in").write_text("&run lr={{ lr }} steps={{ net.steps }} /\n")
    subprocess.run(["cc", "-o", "solver", "solver.c"], cwd=tmp_path, check=True)
    train = ss.Program(
        "./solver",
        metrics=r"step (?P<iteration>\d+) residual = (?P<loss>\S+)",
        files={"input.nml": "input.in"},
        folder=tmp_path,
    )
    result = run(tmp_path, train, {"lr": ss.Uniform(0, 1), "net": {"steps": 40}}, 8)
    statuses = {trial.status for trial in result.trials}
    assert statuses == {"completed", "pruned"}
    for trial in result.trials:
        told = read_output(tmp_path, trial).splitlines()
        if trial.status == "completed":
            assert len(trial.metrics["loss"]) == len(told) == 40
        else:  # live: it was stopped on its way, not judged when it had ended
            assert len(told) < 40


def test_an_argparse_script_goes_on_after_its_driver_was_killed(scripts: Scripts) -> None:
    scripts.write(TRAIN, "train.py")
    sweep = """
        import slurm_sweeps as ss

        train = ss.Program(
            "python3 train.py --lr {lr} --out {checkpoint_dir}",
            metrics=r"epoch (?P<iteration>\\d+) val_loss=(?P<loss>\\S+)",
        )
        if __name__ == "__main__":
            ss.Experiment(train, {"lr": ss.Uniform(0, 1)}, restore="auto").run(
                4, max_concurrent_trials=2
            )
    """
    with scripts.start(sweep) as process:
        scripts.wait_for_file("slurm-sweeps/MySweep/*/checkpoints/state.json", 2)
        process.send_signal(signal.SIGKILL)
    scripts.wait_until_gone(20.0)
    scripts.run(sweep)
    trials = ss.Result("MySweep", scripts.folder / "slurm-sweeps").trials
    assert [trial.status for trial in trials] == ["completed"] * 4
    for trial in trials:
        assert max(trial.metrics["loss"]) == 12


@pytest.mark.parametrize(("name", "told"), [("program", 3), ("function", 4)])
def test_what_had_told_all_before_it_was_interrupted_is_complete(
    scripts: Scripts, name: str, told: int
) -> None:
    """By checkpoints or without, of iteration 0 too; one that never told a metric has failed."""
    program = """
        import pathlib, sys, time
        where, epoch = sys.argv[1:]
        saved = pathlib.Path("checkpoints" if where == "checkpoints" else ".", "done")
        if not saved.exists():
            if where != "silent":
                print(f"epoch {epoch} loss=1", flush=True)
            saved.touch()
            time.sleep(300)
    """
    scripts.write(program, "train.py")

    def count_told() -> int:
        result = ss.Result(name, scripts.folder / "slurm-sweeps")
        return sum("loss" in trial.metrics for trial in result.trials)

    sweep = """
        import time
        import slurm_sweeps as ss

        def function(cfg):
            if not (ss.trial_dir() / "done").exists():
                ss.log({"loss": 1}, 0)
                (ss.trial_dir() / "done").touch()
                time.sleep(300)

        program = ss.Program(
            "python3 train.py {where} {epoch}",
            metrics=r"epoch (?P<iteration>\\d+) loss=(?P<loss>\\S+)",
        )
        points = [("checkpoints", 20), ("checkpoints", 0), ("folder", 20), ("silent", 0)]
        cfg = {"where": ss.Choice(["checkpoints", "folder", "silent"]), "epoch": ss.Choice([0, 20])}
        if __name__ == "__main__":
            points = [{"where": where, "epoch": epoch} for where, epoch in points]
            ss.Experiment(
                NAME, cfg, restore="auto", name="NAME", points_to_evaluate=points
            ).run(4, max_concurrent_trials=4, fail_fast=False)
    """
    source = sweep.replace("NAME", name)
    with scripts.start(source) as process:
        scripts.wait_for_file(f"slurm-sweeps/{name}/**/done", 4)
        wait_until(lambda: count_told() == told, 20, lambda: f"{count_told()} of {told} told")
        process.send_signal(signal.SIGKILL)
    scripts.wait_until_gone(20.0)
    scripts.run(source)
    trials = ss.Result(name, scripts.folder / "slurm-sweeps").trials
    expected = ["completed"] * told + ["failed"] * (4 - told)
    assert [trial.status for trial in trials] == expected
    assert [trial.attempt for trial in trials] == [2] * 4
    for trial in trials[told:]:
        assert trial.error is not None
        assert "Mend metrics, and if it has written checkpoints, begin" in trial.error.message


@pytest.mark.parametrize(
    ("metrics", "max_retries"),
    [("loss=(?P<loss>.)", 1), ("jsonl", 0), (ss.File("log.csv"), 1), (ss.File("log.jsonl"), 0)],
)
def test_what_had_told_all_before_it_failed_is_complete_when_it_is_run_again(
    tmp_path: Path, metrics: str | ss.File, max_retries: int
) -> None:
    """However it tells its metrics; by itself, and when it was marked to be retried."""
    script = """
        [ -e told ] && exit; touch told
        echo loss=3; echo loss > log.csv; echo 3 >> log.csv
        echo '{{"loss": 3}}' | tee log.jsonl; exit 1
    """
    train = ss.Program(script, metrics=metrics, shell=True)
    result = run(tmp_path, train, {}, 1, max_retries=max_retries, fail_fast=False)
    if not max_retries:
        assert result.trials[0].status == "failed"
        words = ["--local-dir", str(tmp_path / "sweeps"), "retry", "MySweep", "--failed"]
        assert CliRunner().invoke(main, words).exit_code == 0
        again = ss.Experiment(train, {}, local_dir=tmp_path / "sweeps", restore=True)
        result = again.run(1, summary_interval_in_sec=60)
    (trial,) = result.trials
    assert (trial.status, trial.attempt, trial.metrics) == ("completed", 2, {"loss": {1: 3.0}})


def test_a_program_that_gets_term_before_its_trial_does_has_not_failed(scripts: Scripts) -> None:
    """Slurm sends it to all processes of a job, in no order; here the driver is the last."""
    source = """
    import slurm_sweeps as ss
    train = ss.Program("bash -c 'echo $$ > pid.new; mv pid.new pid; sleep 600'", metrics="jsonl")
    ss.Experiment(train, {"x": ss.Uniform(0, 1)}, "sweep", "out").run(1)
    """
    with scripts.start(source) as driver:
        (pid,) = scripts.wait_for_file("out/sweep/*/pid")
        os.kill(int(pid.read_text()), signal.SIGTERM)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(60) == 75
    (trial,) = ss.Result("sweep", scripts.folder / "out").trials
    assert trial.status == "interrupted"


def test_a_pruned_program_is_gone_with_its_children(tmp_path: Path) -> None:
    script = tmp_path / "tree.sh"
    script.write_text(
        """
        [ $1 = 0 ] && echo loss=0 && exit
        echo $$ >> pids; sleep 300 & echo $! >> pids; (sleep 300 & echo $! >> pids)
        echo loss=$1
        wait
        """
    )
    train = ss.Program(["/bin/bash", str(script), "{x}"], metrics=r"loss=(?P<loss>\S+)")
    result = run(tmp_path, train, {"x": ss.Grid([0, 1, 2])}, 3, max_concurrent_trials=1)
    assert [trial.status for trial in result.trials] == ["completed", "pruned", "pruned"]
    for trial in result.trials[1:]:
        pids = [int(pid) for pid in read_output(tmp_path, trial, "pids").split()]
        assert len(pids) == 3
        for pid in pids:
            assert not Path(f"/proc/{pid}").exists()


def test_a_program_that_ignores_term_is_killed(tmp_path: Path) -> None:
    code = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("pid", "w").write(str(os.getpid()))
        print('{{"loss": 1}}', flush=True)
        time.sleep(300)
    """
    train = ss.Program([sys.executable, "-c", textwrap.dedent(code)], metrics="jsonl")
    result = run(tmp_path, train, {}, 1, time_budget_in_sec=3, grace_period_in_sec=1)
    (trial,) = result.trials
    assert trial.status == "interrupted"
    pid = int(read_output(tmp_path, trial, "pid"))
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, lambda: f"{pid} lives on")


def test_a_program_that_leaves_a_daemon_is_complete_and_the_daemon_is_ended(tmp_path: Path) -> None:
    script = "setsid sleep 300 < /dev/null > /dev/null 2>&1 & echo $! > pid; echo '{{\"loss\": 1}}'"
    train = ss.Program(script, metrics="jsonl", shell=True)
    result = run(tmp_path, train, {}, 1)
    (trial,) = result.trials
    assert trial.status == "completed"
    pid = int(read_output(tmp_path, trial, "pid"))
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, lambda: f"{pid} lives on")


HOSTILE = [
    "; rm -rf x",
    "$(touch oops)",
    "`touch oops`",
    "it's",
    'a "b"',
    "a b",
    "a\nb",
    "é{x}",
    "-n",
]


@pytest.mark.parametrize("shell", [False, True])
def test_hostile_values_arrive_as_they_are(tmp_path: Path, shell: bool) -> None:
    show = tmp_path / "show.py"
    show.write_text("import json, sys; print(json.dumps({'loss': 1, 'argv': sys.argv[1:]}))")
    words = [sys.executable, str(show), "--x={x}", "{x}"]
    train = ss.Program(" ".join(words) if shell else words, metrics="jsonl", shell=shell)
    result = run(tmp_path, train, {"x": ss.Grid(HOSTILE)}, len(HOSTILE), asha=None)
    for trial in result.trials:
        value = trial.cfg["x"]
        assert json.loads(read_output(tmp_path, trial))["argv"] == [f"--x={value}", value]
        folder = tmp_path / "sweeps" / "MySweep" / trial.trial_id
        assert {path.name for path in folder.iterdir()} == {
            *("cfg.yml", "cfg.json", "checkpoints", "stdout.log", "stderr.log")
        }


def test_much_output_is_no_hindrance(tmp_path: Path) -> None:
    code = """
        import sys
        for i in range(5):
            sys.stdout.write(("x" * 79 + "\\n") * 100_000)
            print("loss=" + str(5 - i))
            sys.stderr.write("y" * 1_000_000 + "\\r")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    train = ss.Program(command, metrics=r"^loss=(?P<loss>\d+)$")
    result = run(tmp_path, train, {}, 1)
    assert result.trials[0].metrics["loss"] == {1: 5.0, 2: 4.0, 3: 3.0, 4: 2.0, 5: 1.0}


def test_a_program_on_a_terminal(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdout.isatty()); print('loss=2')"
    command = [sys.executable, "-c", code]
    result = run(tmp_path, ss.Program(command, metrics=r"loss=(?P<loss>\d)", pty=True), {}, 1)
    assert read_output(tmp_path, result.trials[0]).split() == ["True", "loss=2"]
    assert result.trials[0].metrics["loss"] == {1: 2.0}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            'echo BadError: x >&2; echo " error" >&2; echo == >&2; exit 3',
            "BadError: x ('echo BadError: x >&2; echo \" error\" >&2; echo == >&2; exit 3' ended "
            "with exit code 3); it said last:\nBadError: x\n error\n==",
        ),
        (
            "echo before; echo why; kill -SEGV $$",
            "why ('echo before; echo why; kill -SEGV $$' was killed by SIGSEGV); it said last:\n",
        ),
        ("exit 3", "'exit 3' ended with exit code 3"),
        ("echo nothing to see", r"no line that it printed matches 'loss=(?P<loss>\S+)' with a"),
    ],
)
def test_a_program_that_fails(tmp_path: Path, command: str, told: str) -> None:
    train = ss.Program(command, metrics=r"loss=(?P<loss>\S+)", shell=True)
    result = run(tmp_path, train, {}, 1, fail_fast=False, asha=None)
    (trial,) = result.trials
    assert trial.status == "failed"
    assert trial.error is not None
    assert trial.error.type == "ProgramError"
    assert trial.error.message.startswith(told)
    assert "programs/program.py" not in trial.error.traceback


def test_a_wrong_pattern_is_said_to_be_the_sweeps_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ss.Program("echo nothing", metrics=r"(?P<iteration>\d+) lss=(?P<lss>\S+)")
    with pytest.raises(ss.SweepFailedError, match="begin anew with 'slurm-sweeps rm") as raised:
        run(tmp_path, train, {"x": ss.Uniform(0, 1)}, 4)
    assert "Mend train" not in str(raised.value)
    said = " ".join("".join(capsys.readouterr()).split())
    assert "have the groups iteration, lss, and none for loss" in said
    assert said.count("metrics has found nothing yet") == 1
    assert "with a number as a metric. It printed: nothing" in said


def test_lines_that_nearly_match_are_told_of_before_a_trial_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "for i in 1 2 3; do echo Loss: {x}$i; done; exit 1"
    train = ss.Program(script, metrics="loss=(?P<loss>.+)", shell=True)
    run(tmp_path, train, {"x": ss.Grid([4, 5])}, 2, fail_fast=False)
    said = capsys.readouterr().out
    assert said.count("metrics has found nothing yet") == 1
    assert "It printed:\n  Loss: 41\n  Loss: 42\n" in said or "  Loss: 51\n  Loss: 52\n" in said


def test_a_path_that_is_not_in_the_trials_folder(tmp_path: Path) -> None:
    (tmp_path / "data.csv").touch()
    (tmp_path / "show.sh").write_text('cat "$1"')
    train = ss.Program("/bin/sh show.sh data.csv", folder=tmp_path)
    result = run(tmp_path, train, {}, 1, fail_fast=False, asha=None)
    assert result.trials[0].error is not None
    told = "write '.*/data.csv' for the one beside the script"
    assert re.search(told, result.trials[0].error.message)


def test_a_program_that_is_not_there_is_missed_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(ss.UsageError, match="command: there is no 'no-such-program'"):
        run(tmp_path, ss.Program("no-such-program x"), {}, 1, asha=None)


def test_environment_and_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "else"
    elsewhere.mkdir()
    train = ss.Program(
        'pwd; echo "$LR $PYTHONUNBUFFERED"; echo loss=1',
        metrics="loss=(?P<loss>.)",
        cwd=str(elsewhere),
        env={"LR": "{lr}"},
        shell=True,
    )
    result = run(tmp_path, train, {"lr": 0.5}, 1)
    assert read_output(tmp_path, result.trials[0]) == f"{elsewhere}\n0.5 1\nloss=1\n"


def test_what_a_program_appends_to_a_file(tmp_path: Path) -> None:
    script = (
        "echo epoch,loss > log.csv; for i in 1 2 3; do sleep 0.2; echo $i,0.$i >> log.csv; done"
    )
    train = ss.Program(script, metrics=ss.File("log.csv", iteration="epoch"), shell=True)
    result = run(tmp_path, train, {}, 1)
    assert result.trials[0].metrics["loss"] == {1: 0.1, 2: 0.2, 3: 0.3}


def test_one_value_in_the_end(tmp_path: Path) -> None:
    script = "echo score=1; echo score=2; echo {x} > /dev/null; echo score=3"
    train = ss.Program(script, result=r"score=(?P<score>\d)", shell=True)
    result = run(tmp_path, train, {"x": ss.Uniform(0, 1)}, 4, asha=None)
    assert {trial.status for trial in result.trials} == {"completed"}
    assert {trial.metrics["score"][1] for trial in result.trials} == {3.0}


def test_the_guide_from_a_script_to_a_sweep(scripts: Scripts) -> None:
    """Unchanged, and with as many changed lines as it says; both find the same."""
    page = Path(__file__).parents[2] / "docs" / "train-py.md"
    code = {block.code.split("\n")[0]: block.code for block in read_blocks(page)}
    before, after = code["# train.py"], code["# train_sweep.py"]
    scripts.write(before, "train.py")
    for text in (code["# sweep.py"], after.replace('"auto"', '"auto", name="function"')):
        scripts.run(text.replace("run(20)", "run(4)").replace("restore=", "seed=1, restore="))
    found = [ss.Result(name, scripts.folder / "slurm-sweeps") for name in ("MySweep", "function")]
    for result in found:
        assert {trial.status for trial in result.trials} <= {"completed", "pruned"}
        assert max(result.best_trial().metrics["loss"]) == 30
    bests = [result.best_trial().value for result in found]
    assert abs(bests[0] - bests[1]) < 1e-2, bests
    compared = difflib.ndiff(before.split("\n")[1:], after.split("\n")[1:])
    assert sum(line.startswith("+ ") for line in compared) == 8


def test_a_sweep_without_a_line_of_python(scripts: Scripts) -> None:
    """As the guide has it, file by file; the steps of its job are those of any other."""
    docs = Path(__file__).parents[2] / "docs"
    train = next(b.code for b in read_blocks(docs / "train-py.md") if "# train.py" in b.code)
    file = next(b.code for b in read_blocks(docs / "programs.md") if b.language == "yaml")
    scripts.write(train, "train.py")
    scripts.write(file.replace("n_trials: 20", "n_trials: 4"), "sweep.yaml")
    command = shutil.which("slurm-sweeps", path=str(Path(sys.executable).parent))
    assert command
    run_it = (
        f"import subprocess; print(subprocess.run([{command!r}, 'run', 'sweep.yaml'], check=True))"
    )
    done = scripts.run(run_it)
    assert "completed, 4 of 4 done" in done.stdout
    assert len(ss.Result("lr-search", scripts.folder / "slurm-sweeps").trials) == 4
    scripts.run(run_it)  # what is done stays done


def test_a_script_that_calls_the_command_is_told_when_to_end(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(
        """
        for i in 1 2 3; do
            "$LOG" log loss=$1 --iteration $i
            code=$?
            [ $code = 0 ] || { echo $code > code; exit; }
        done
        """
    )
    verb = str(Path(sys.executable).with_name("slurm-sweeps"))
    train = ss.Program(["/bin/sh", str(script), "{x}"], env={"LOG": verb})
    result = run(tmp_path, train, {"x": ss.Grid([0, 1])}, 2, max_concurrent_trials=1)
    first, second = result.trials
    assert (first.status, first.metrics["loss"]) == ("completed", {1: 0.0, 2: 0.0, 3: 0.0})
    assert (second.status, second.metrics["loss"]) == ("pruned", {1: 1.0})
    assert read_output(tmp_path, second, "code") == "3\n"
    assert not read_output(tmp_path, first).strip()  # it prints nothing


def test_a_python_program_may_call_all_that_train_may(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "import slurm_sweeps as ss\n"
        "print(ss.trial_id(), ss.checkpoint_dir(), ss.should_stop())\n"
        "for epoch in range(1, 4):\n"
        "    ss.log({'loss': float(sys.argv[1])}, epoch)\n"
    )
    train = ss.Program([sys.executable, str(script), "{x}"])
    result = run(tmp_path, train, {"x": ss.Grid([0, 1])}, 2, max_concurrent_trials=1)
    assert [trial.status for trial in result.trials] == ["completed", "pruned"]
    for trial in result.trials:
        folder = tmp_path / "sweeps" / "MySweep" / trial.trial_id
        said = read_output(tmp_path, trial).split()
        assert said == [trial.trial_id, str(folder / "checkpoints"), "False"]
