"""A sweep told in YAML: what it comes to, and on which line what is wrong."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import slurm_sweeps as ss
from slurm_sweeps.cli import main
from slurm_sweeps.cli.run_file import EXAMPLE
from slurm_sweeps.experiment.sweep_file import read_sweep_file, say_as_in_file, told_with_line


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text + f"\nlocal_dir: {folder}\n")
    return path


def test_the_example_of_the_help_can_be_read(tmp_path: Path) -> None:
    experiment, arguments = read_sweep_file(write(tmp_path, EXAMPLE))
    assert experiment.name == "lr-search"
    assert arguments == {"n_trials": 200}


def test_spaces_are_those_of_python(tmp_path: Path) -> None:
    text = """
    command: run {args}
    cfg:
      a: {loguniform: [1e-5, 1E-1]}
      b: {integer: {low: 1, high: 4}}
      c: {choice: [{name: sgd, m: {uniform: [0, 1]}}, {name: adam}]}
      d: {quantized: [{uniform: [0, 1]}, 0.1]}
      e: {grid: [1, 2]}
      f: {loguniform: [1e-5, 1e-1], prior: 1e-3}
      g: {choice: [{name: sgd}, {name: adam}], prior: {name: adam}, confidence: high}
      h: {integer: {low: 1, high: 4}, prior: 2}
      choice: 3
    """
    experiment, _ = read_sweep_file(write(tmp_path, text.replace("\n    ", "\n")))
    assert experiment._search.space.template == {
        "a": ss.LogUniform(1e-5, 1e-1),
        "b": ss.Integer(1, 4),
        "c": ss.Choice([{"name": "sgd", "m": ss.Uniform(0, 1)}, {"name": "adam"}]),
        "d": ss.Quantized(ss.Uniform(0, 1), 0.1),
        "e": ss.Grid([1, 2]),
        "f": ss.LogUniform(1e-5, 1e-1, prior=1e-3),
        "g": ss.Choice(
            [{"name": "sgd"}, {"name": "adam"}], prior=ss.Prior({"name": "adam"}, "high")
        ),
        "h": ss.Integer(1, 4, prior=2),
        "choice": 3,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("command: [run", "line 2: "),
        ("cfg: {}", "there is no key 'command'"),
        ("command: run\ncomand: run", "line 2: there is no key 'comand'; did you mean 'command'"),
        ("command: run\nxyzzy: 1", "line 2: there is no key 'xyzzy'; there are asha, "),
        ("command: run\ncfg:\n  a: {uniform: [1, 0]}", "line 3: Uniform needs low <= high"),
        ("command: run\ncfg:\n  a: {uniform: [1]}", "line 3: .*missing"),
        ("command: run\nasha: {metric: loss}", "line 2: .*missing.*'mode'"),
        ("command: run\nasha: {metric: loss, mode: low}", 'line 2: ASHA: mode must be "min"'),
        ("command: run\nslurm: {tasks: 1}", "line 2: .*tasks"),
        ("command: run\nslurm:\n  jobs: {most: 0}", "line 3: Jobs: most must be 1 or more, got 0"),
        ("command: run\nslurm: {jobs: 20}", r"line 2: SlurmCfg\(jobs=20\): give ss.Jobs"),
        ("cfg:\n  rate: 1\ncommand: run {lr}", r"line 3: .*\{lr\} is not in the cfg, which has"),
        ("cfg: {a: 1}\ncommand: run\nenv: {X: '{b}'}", r"line 3: .*in env, \{b\} is not in"),
        ("command: run\nmetrics: loss", "line 2: .*no named group"),
        ("command: run\nlaunch: mpi", 'line 2: .*launch must be "srun" or None'),
        ("command: run\nshell: true\nfiles: {a: b}", "line 3: .*can't read the template"),
        ("command: run\ncfg:\n  a: {log_uniform: [1, 2]}", "line 3: .*did you mean 'loguniform'"),
        ("command: run\ncfg:\n  a: {uniform: [0, 1], prior: 2}", "line 3: .*prior=2 is no guess"),
        ("command: run\ncfg:\n  a: {uniform: [0, 1], confidence: low}", "line 3: .*needs a prior"),
        ("command: run\ncfg:\n  a: {uniform: 3}", "line 3: uniform needs its arguments"),
        (
            "command: run\nasha: {metric: l, mod: min}",
            "line 2: asha has no 'mod'; did you mean 'mode'",
        ),
        ("command: run\ncfg:\n  a: {integer: {lo: 1, high: 2}}", "line 3: integer has no 'lo'"),
        ("command: run\nasha: loss", "line 2: asha needs its arguments by name"),
        ("command: run\nrandom:\nmodel: {}", "line 3: there can be one of these, not random and"),
        ("command: run\nasha:\n  metric: l\n  mode: min\n  min_t: 0", "line 5: .*min_t"),
        ("command: run\ncfg: {a: 1}\nseed: -1", "line 3: .*seed"),
        ("command: run\ncfg: {a: 1}\npoints_to_evaluate: [{b: 1}]", "line 3: points_to_"),
        ("command: run\nmetrics: {file: 3}", "line 2: File: path must be a name"),
        ("command: run\nname: a/b", "holds a slash"),
        ("command: run\ncommand: run", "line 2: 'command' stands on line 1 too"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ss.UsageError, match=message) as raised:
        read_sweep_file(write(tmp_path, text))
    assert re.search(r"sweep\.yaml", str(raised.value))


def test_what_is_wrong_with_a_run_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "command: run\nn_trials: many")
    experiment, arguments = read_sweep_file(path)
    with pytest.raises(ss.UsageError, match=r"line 2: .*n_trials"), told_with_line(path):
        experiment.run(**arguments)


@pytest.mark.parametrize(
    ("python", "yaml"),
    [
        (
            "Mend train and go on with restore=True, or pass fail_fast=False to go on",
            "Mend the program and go on with 'slurm-sweeps run s.yaml', or write fail_fast: false "
            "to go on",
        ),
        ("Room is short; restore=True goes on", "Room is short; 'slurm-sweeps run s.yaml' goes on"),
        ("'a' exists: pass restore=True to go on", "'a' exists: write restore: true to go on"),
        ("write ss.Choice([1, 'x']), or ss.Grid, to", "write {choice: [1, 'x']}, or grid, to"),
        ("; ss.LogUniform(1e-05, 0.1) for", "; {loguniform: [1e-05, 0.1]} for"),
        ("run(n_trials=100) tries 100", "n_trials: 100 tries 100"),
        ('again, with restore="auto"', "again, with restore: auto"),
        ("SlurmCfg(gpus=0) uses all nodes", "slurm: {gpus: 0} uses all nodes"),
        (
            "'run.py seed=3 --mode=x' ended with code 3",
            "'run.py seed=3 --mode=x' ended with code 3",
        ),
    ],
)
def test_messages_have_the_words_of_the_file(python: str, yaml: str) -> None:
    assert say_as_in_file(Path("s.yaml"), python) == yaml


@pytest.mark.processes
def test_a_run_speaks_in_the_words_of_its_file(tmp_path: Path) -> None:
    """A notice and an error, as they come out of a run that has failed."""
    cfg, run = "{a: {uniform: [0, 1]}, b: [1, 2.5]}", "n_trials: 8\nmax_concurrent_trials: 2"
    command = """command: python3 -c 'raise ValueError("of its own")'"""
    path = write(tmp_path, f"{command}\ncfg: {cfg}\n{run}")
    done = CliRunner().invoke(main, ["run", str(path)])
    assert done.exit_code == 1
    told = "write {choice: [1, 2.5]}, or grid, to try each; {uniform: [1, 2.5]} or {loguniform: [1,"
    assert told in done.output
    assert f"go on with 'slurm-sweeps run {path}', which runs them again" in done.output
    assert "=True" not in done.output
    assert "fail_fast: false" in done.output
    again = f"'slurm-sweeps run {path}' tries "
    assert f"nothing was logged: {again}failed trials again" in done.output
    retry = ["retry", "MySweep", "--failed", "--local-dir", str(tmp_path)]
    assert f"{again}the marked ones again" in CliRunner().invoke(main, retry).output
    logs = [path.read_text() for path in tmp_path.glob("MySweep/*/stderr.log")]
    for said in (done.output, *filter(None, logs)):  # its traceback once; the last may be stopped
        assert said.count("\nValueError: of its own") == 1


@pytest.mark.processes
@pytest.mark.parametrize(
    ("goal", "command", "code", "told"),
    [
        ("metric: [loss, t]\nmode: min", "echo loss=1 t=2", 0, "Trial "),
        ("seed: 1", "echo loss=1 t=2", 0, "1 completed"),
        ("metric: loss\nmode: min", "sh -c 'echo no room >&2; exit 3'", 1, 'no room ("sh -c '),
    ],
)
def test_what_a_run_of_a_file_prints_in_the_end(
    tmp_path: Path, goal: str, command: str, code: int, told: str
) -> None:
    metrics = r"loss=(?P<loss>\S+) t=(?P<t>\S+)"
    text = f'command: "{command}"\nmetrics: {metrics}\nn_trials: 1\n{goal}'
    done = CliRunner().invoke(main, ["run", str(write(tmp_path, text))])
    assert done.exit_code == code, done.output
    last = done.output.partition("took")[2]
    assert told in last
    assert "metric=" not in last


def test_a_job_that_is_stopped_early_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    experiments = [read_sweep_file(write(tmp_path, "command: /bin/true"))[0]]
    experiments += [ss.Experiment(print, {}, "e", tmp_path, join=join) for join in (False, True)]
    said: list[str] = []
    for experiment in experiments:
        for reason in ("time limit", "stop request"):
            with pytest.raises(ss.SweepStopped):
                experiment._leave(reason, lambda text, say=experiment._say: said.append(say(text)))
    go_on, by_itself = "to go on, submit the job again", "it is queued again by itself"
    assert said == [
        f"{go_on}; with slurm: {{requeue: true}} {by_itself}",
        f'{go_on}, with restore="auto"; with SlurmCfg(requeue=True) {by_itself}',
    ]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("pattern", "line", "code"),
    [
        ("loss=(?P<loss>.*)", "loss=1\niteration 1: loss=1\n", 0),
        ("lss=(?P<loss>.*)", "so the program has told no metric", 1),
        ("loss=(?P<loss>.*)", "ValueError: of its own\n", 1),
    ],
)
def test_a_file_can_be_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, line: str, code: int
) -> None:
    """Its program runs once, by hand; what it prints, and what is read of it, is shown."""
    monkeypatch.chdir(tmp_path)  # and back
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = "[python3, -c, 'print(\"loss={x}\")']"
    if "ValueError" in line:
        command = "[python3, -c, 'raise ValueError(\"of its own\")']"
    text = f"command: {command}\nmetrics: '{pattern}'\ncfg: {{x: {{integer: [0, 2]}}, y: [1, 2]}}"
    done = CliRunner().invoke(main, ["run", str(write(tmp_path, text)), "--try"])
    assert done.exit_code == code, done.output
    assert done.output.count(line) == 1, done.output
    assert "y is a constant, the list [1, 2]: write {choice: [1, 2]}" in done.output
    assert "the command does not use" in done.output
    assert "=True" not in done.output
    assert ("is complete" in done.output) is (code == 0)
    (folder,) = tmp_path.glob("try-MySweep-*")
    assert (folder / "cfg.json").is_file()
    assert not (tmp_path / "slurm-sweeps.db").exists()


def test_a_plain_part_may_be_named_like_a_space(tmp_path: Path) -> None:
    text = "command: run\ncfg: {uniform: {uniform: [0, 1]}, net: {grids: [1], n: 2}}"
    experiment, _ = read_sweep_file(write(tmp_path, text))
    wanted = {"uniform": ss.Uniform(0, 1), "net": {"grids": [1], "n": 2}}
    assert experiment._search.space.template == wanted


def test_jobs_are_said_as_what_a_trial_gets(tmp_path: Path) -> None:
    text = "command: run\nslurm:\n  jobs: {most: 20, args: -p gpu -t 60, setup: [module load cuda]}"
    experiment, _ = read_sweep_file(write(tmp_path, text))
    assert experiment._slurm_cfg.jobs == ss.Jobs(20, "-p gpu -t 60", ["module load cuda"])


def test_a_file_that_is_no_sweep(tmp_path: Path) -> None:
    for text in ("- run", "run", ""):
        (tmp_path / "sweep.yaml").write_text(text)
        with pytest.raises(ss.UsageError, match="is no sweep"):
            read_sweep_file(tmp_path / "sweep.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ss.UsageError, match="can't read"):
        read_sweep_file(tmp_path / "no.yaml")
