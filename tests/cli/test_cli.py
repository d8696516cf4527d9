"""Each verb of the command, on a stored sweep: what it prints, and what it says of mistakes."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

from slurm_sweeps.cli import main
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.lease import build_owner
from slurm_sweeps.storage.rows import (
    read_trials,
    write_records,
)
from slurm_sweeps.trial import Status
from views_samples import NASTY, write_foreign, write_sample

STATUSES = [Status.COMPLETED, Status.PRUNED, Status.FAILED, Status.PRUNED, Status.LOST]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one sweep."""
    write_sample(tmp_path, statuses=STATUSES)
    return tmp_path


def call(folder: Path, *arguments: str, code: int = 0, say: str | None = None) -> Result:
    """Call the command; its exit code must be `code`."""
    env = {"SLURM_SWEEPS_DIR": str(folder)}
    result = CliRunner().invoke(main, list(arguments), env=env, input=say)
    assert result.exit_code == code, f"{result.output}\n{result.stderr}\n{result.exception!r}"
    return result


def read_ids(folder: Path) -> list[str]:
    with Database.open(folder / "slurm-sweeps.db", read_only=True) as database:
        return [trial.trial_id for trial in read_trials(database, database.experiment("sample").id)]


def walk(data: Any) -> Iterator[str]:
    """All texts in JSON."""
    if isinstance(data, dict):
        yield from (text for pair in data.items() for part in pair for text in walk(part))
    elif isinstance(data, list):
        yield from (text for part in data for text in walk(part))
    elif isinstance(data, str):
        yield data


def load(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.mark.parametrize("verb", main.list_commands(click.Context(main)))
def test_every_verb_explains_itself(verb: str, tmp_path: Path) -> None:
    text = call(tmp_path, verb, "--help").stdout
    assert text.casefold().startswith("usage: ")
    assert verb in ("completion", "log") or "--local-dir" in text


def test_list(folder: Path) -> None:
    text = call(folder, "list").stdout
    assert "sample" in text
    assert "5 of 5 done (100%)" in text
    assert "loss 0.1667" in text
    (found,) = load(call(folder, "list", "--json"))
    assert found["counts"] == {"completed": 1, "failed": 1, "lost": 1, "pruned": 2}
    assert found["best"]["value"] == pytest.approx(1 / 6)


def test_the_folder_can_be_said(folder: Path) -> None:
    result = CliRunner().invoke(main, ["list", "--local-dir", str(folder)])
    assert "sample" in result.stdout


def test_the_folder_can_be_said_before_the_verb(folder: Path, tmp_path: Path) -> None:
    other = ["list", "--local-dir", str(tmp_path / "other")]
    for env in ({}, {"SLURM_SWEEPS_DIR": str(tmp_path / "other")}):
        said = ["--local-dir", str(folder)]
        assert "sample" in CliRunner().invoke(main, [*said, "list"], env=env).stdout
        assert CliRunner().invoke(main, [*said, *other], env=env).exit_code == 1


def test_show(folder: Path) -> None:
    lines = call(folder, "show", "sample").stdout.splitlines()
    ids = read_ids(folder)
    assert lines[0].endswith("sample: completed, 5 of 5 done (100%), took " + lines[0].split()[-1])
    table = [line for line in lines if line[2:14] in ids]
    assert [line[2:14] for line in table] == ids
    assert table[0].startswith("* ")


def test_show_sorts_chooses_and_limits(folder: Path) -> None:
    ids = read_ids(folder)
    asked = ["show", "sample", "--json", "--sort", "number", "--reverse", "--status", "pruned"]
    found = load(call(folder, *asked))["trials"]
    assert [trial["trial_id"] for trial in found] == [ids[3], ids[1]]
    result = call(folder, "show", "sample", "--limit", "2", "--columns", "host,opt.lr")
    assert "2 of 5 trials; --limit shows more" in result.stdout
    assert "host" in result.stdout
    assert "val/acc" not in result.stdout


def test_show_of_failed_trials_says_why(folder: Path) -> None:
    (line,) = [
        line
        for line in call(folder, "show", "sample", "--status", "failed").stdout.splitlines()
        if line.strip().startswith(read_ids(folder)[2])
    ]
    assert line.endswith("ValueError: the <b>rate</b> is too large")
    assert "error" not in call(folder, "show", "sample").stdout


def test_unknown_columns(folder: Path) -> None:
    for option in ("--sort", "--columns"):
        result = call(folder, "show", "sample", option, "nothing", code=2)
        assert "there is no column 'nothing'; there are: trial, status, iter" in result.stderr


def test_best(folder: Path) -> None:
    text = call(folder, "best", "sample").stdout
    assert text.startswith(f"# trial {read_ids(folder)[0]} (completed): loss 0.1667 at iteration 6")
    assert yaml.safe_load(text)["fixed"] == "yes"
    assert len(list(yaml.safe_load_all(call(folder, "best", "sample", "--top", "3").stdout))) == 3
    (found,) = load(
        call(folder, "best", "sample", "--json", "--metric", "val/acc", "--mode", "max")
    )
    assert found["value"] == pytest.approx(1 - 1 / 6)
    result = call(folder, "best", "sample", "--metric", "x", "--mode", "min", code=2)
    assert "no trial has logged 'x'; logged: 'loss', 'val/acc'" in result.stderr
    assert (
        "no trial has logged 'x'" in call(folder, "best", "sample", "--metric", "x", code=2).stderr
    )


def test_trial(folder: Path) -> None:
    failed = read_ids(folder)[2]
    text = call(folder, "trial", "sample", failed[:6]).stdout
    assert f"trial {failed} (number 2): failed, 0:10" in text
    assert "  fixed: 'yes'" in text
    assert "1  failed: ValueError  on n0, slot 0" in text
    assert "loss     ▅  3 at iteration 1, from 3 to 3" in text
    assert f"error, see {folder}/sample/{failed}/stderr.log:" in text
    assert "ValueError: x" in text
    found = load(call(folder, "trial", "sample", failed, "--json"))
    assert found["metrics"] == {"loss": {"1": 3.0}, "val/acc": {"1": 0.0}}
    assert found["attempts"][0]["error"]["type"] == "ValueError"


def test_trials_that_are_not_there(folder: Path) -> None:
    first = read_ids(folder)[0]
    wrong = first[:-1] + ("0" if first[-1] != "0" else "1")
    result = call(folder, "trial", "sample", wrong, code=2)
    assert f"no trial {wrong!r}; did you mean {first!r}?" in result.stderr
    result = call(folder, "trial", "sample", "", code=2)
    assert "has no trial ''" in result.stderr


def test_an_ambiguous_prefix(tmp_path: Path) -> None:
    write_sample(tmp_path, statuses=[Status.COMPLETED] * 40)
    ids = read_ids(tmp_path)
    first = next(each[0] for each in ids if sum(other[0] == each[0] for other in ids) > 1)
    result = call(tmp_path, "trial", "sample", first, code=2)
    assert f"{first!r} could be more than one trial of experiment 'sample': " in result.stderr


@pytest.mark.parametrize("verb", ["show", "watch", "best", "export", "report", "stop", "rm"])
def test_an_unknown_experiment_gets_the_nearest(folder: Path, verb: str) -> None:
    result = call(folder, verb, "sampel", *["--no-wait"] * (verb == "watch"), code=2)
    assert "there is no experiment 'sampel'" in result.stderr
    assert "did you mean 'sample'?" in result.stderr


def test_an_unknown_verb_gets_the_nearest(folder: Path) -> None:
    assert "'export'" in call(folder, "exprt", code=2).stderr


def test_no_database(tmp_path: Path) -> None:
    result = call(tmp_path, "list", code=1)
    assert f"there is no database at {tmp_path}/slurm-sweeps.db" in result.stderr


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "slurm-sweeps.db").write_text("this is not a database, but a text of some length")
    assert "is not a database" in call(tmp_path, "list", code=1).stderr


def test_logs(folder: Path) -> None:
    first = read_ids(folder)[0]
    trial = folder / "sample" / first
    trial.mkdir(parents=True)
    (trial / "stdout.log").write_text("hello\n")
    (trial / "stderr.1.log").write_text("from rank 1\n")
    assert call(folder, "logs", "sample", first).stdout == "hello\n"
    assert call(folder, "logs", "sample", first, "--follow").stdout == "hello\n"
    text = call(folder, "logs", "sample", first, "--stderr", "--rank", "1").stdout
    assert text == "from rank 1\n"
    result = call(folder, "logs", "sample", first, "--stderr", code=1)
    assert (
        f"there is no {trial}/stderr.log: trial {first} (completed) has no such log"
        in result.stderr
    )


def test_logs_of_a_silent_trial_say_so(folder: Path) -> None:
    first = read_ids(folder)[0]
    trial = folder / "sample" / first
    trial.mkdir(parents=True)
    (trial / "stdout.log").touch()
    (trial / "stderr.log").write_text("a warning\n")
    result = call(folder, "logs", "sample", first)
    said = f"trial {first} (completed): its output is empty; --stderr shows 10 bytes"
    assert (result.stdout, result.stderr.strip()) == ("", said)
    assert call(folder, "logs", "sample", first, "--stderr").stderr == ""


def test_logs_that_can_not_be_read(folder: Path) -> None:
    first = read_ids(folder)[0]
    (folder / "sample" / first / "stdout.log").mkdir(parents=True)  # root may read all but this
    for option in ([], ["--follow"]):
        result = call(folder, "logs", "sample", first, *option, code=1)
        assert f"{first}/stdout.log can't be read: Is a directory" in result.stderr


def test_following_a_trial_ends_with_its_driver(tmp_path: Path) -> None:
    write_sample(tmp_path, statuses=[Status.RUNNING], state="running", heard_at=1.0)
    (first,) = read_ids(tmp_path)
    (tmp_path / "sample" / first).mkdir(parents=True)
    (tmp_path / "sample" / first / "stdout.log").write_text("hello\n")
    assert call(tmp_path, "logs", "sample", first, "--follow").stdout == "hello\n"


def test_a_foreign_text_does_not_steer_the_terminal(tmp_path: Path) -> None:
    write_foreign(tmp_path, "0123456789a")
    calls = [
        ["list"],
        ["show", "foreign", "--columns", f"host,gpus,error,{NASTY}"],
        ["best", "foreign"],
        ["trial", "foreign", "0123456789a1"],
        ["watch", "foreign", "--no-wait"],
    ]
    for arguments in calls:
        code = 1 if arguments[0] == "watch" else 0
        text = call(tmp_path, *arguments, code=code).stdout
        assert "forged line" in text, arguments
        assert not re.search(r"\x1b|\x9b|\x07|^forged", text, flags=re.MULTILINE), arguments
        if arguments[0] != "watch":
            found = call(tmp_path, *arguments, "--json")
            assert not re.search(r"\x1b|\x9b|\x07|^forged", found.stdout, flags=re.MULTILINE)
            assert NASTY in walk(load(found))  # JSON says what there is, in escapes
    result = call(tmp_path, "show", "foreign", "--sort", "no", code=2)
    assert not re.search(r"\x1b|\x9b|\x07", result.stderr)


def test_an_id_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    write_foreign(tmp_path, "../../secret")
    (tmp_path.parent / "secret0").mkdir(exist_ok=True)
    (tmp_path.parent / "secret0" / "stdout.log").write_text("not for you")
    for verb in ("logs", "trial"):
        result = call(tmp_path, verb, "foreign", "../../secret0", code=1)
        assert "not for you" not in result.stdout
        assert (
            "has a trial with the id '../../secret0', which is not 12 hex digits" in result.stderr
        )


def test_csv_holds_no_formulas(tmp_path: Path) -> None:
    cells = ["=1+1", "+cmd", "-cmd", "@x", "-1.5", "plain", -2.5]
    layout = write_sample(tmp_path, statuses=[Status.COMPLETED])
    with Database.open(layout.database) as database:
        key = database.experiment("sample").id
        first = read_trials(database, key)[0]
        changes = [
            {"number": at, "trial_id": f"{at:012x}", "cfg_json": json.dumps({"x": cell})}
            for at, cell in enumerate(cells, 1)
        ]
        write_records(database, key, [replace(first, **change) for change in changes])
    text = call(tmp_path, "export", "sample").stdout
    frame = pd.read_csv(io.StringIO(text), dtype=str)
    wanted = ["'=1+1", "'+cmd", "'-cmd", "'@x", "-1.5", "plain", "-2.5"]
    assert list(frame["cfg/x"][1:]) == wanted
    call(tmp_path, "export", "sample", "-o", str(tmp_path / "a.json"))
    assert json.loads((tmp_path / "a.json").read_text())[1]["cfg/x"] == "=1+1"  # as it is


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_export(folder: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "json": pd.read_json}[suffix]
    call(folder, "export", "sample", "-o", str(folder / f"trials.{suffix}"))
    trials = read(folder / f"trials.{suffix}")
    assert list(trials["status"]) == [status.value for status in STATUSES]
    call(folder, "export", "sample", "--metrics", "-o", str(folder / f"metrics.{suffix}"))
    metrics = read(folder / f"metrics.{suffix}")
    assert list(metrics.columns) == ["trial_id", "iteration", "metric", "value", "logged_at"]


def test_parquet_without_pyarrow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    result = call(folder, "export", "sample", "-o", str(folder / "a.parquet"), code=2)
    assert "parquet needs pyarrow: pip install 'slurm-sweeps[parquet]'" in result.stderr


def test_a_folder_that_can_not_be_removed(folder: Path) -> None:
    (folder / "sample").write_text("a file where the folder should be")
    result = call(folder, "rm", "sample", "--yes", code=1)
    assert f"the folder {folder}/sample can't be removed: " in result.stderr
    assert "sample" in call(folder, "list").stdout


def test_export_prints_csv(folder: Path) -> None:
    assert call(folder, "export", "sample").stdout.startswith("trial_id,status,start_time")


def test_export_mistakes(folder: Path) -> None:
    result = call(folder, "export", "sample", "-o", "trials.xls", code=2)
    assert "the suffix of 'trials.xls' says no known format" in result.stderr
    result = call(folder, "export", "sample", "-o", str(folder / "no" / "a.csv"), code=1)
    assert f"{folder}/no/a.csv can't be written" in result.stderr


def test_stop_needs_a_driver(folder: Path) -> None:
    result = call(folder, "stop", "sample", code=1)
    assert "no driver is at work on experiment 'sample' (completed)" in result.stderr


def test_retry(folder: Path) -> None:
    ids = read_ids(folder)
    assert "1 failed trial is marked" in call(folder, "retry", "sample", "--failed").stdout
    assert "1 failed trial is marked" in call(folder, "retry", "sample", ids[2][:8]).stdout
    with Database.open(folder / "slurm-sweeps.db") as database:
        marks = database.requests(database.experiment("sample").id)
    assert [(mark.kind, mark.argument) for mark in marks] == [("retry", ids[2])] * 2
    result = call(folder, "retry", "sample", ids[0], code=2)
    assert f"trial {ids[0]} is completed; only a failed one can be marked" in result.stderr
    assert "or say --failed" in call(folder, "retry", "sample", code=2).stderr


def test_rm_asks_first(folder: Path) -> None:
    (folder / "sample").mkdir()
    (folder / "sample" / "train.pkl").touch()
    result = call(folder, "rm", "sample", code=1, say="n\n")
    assert f"its 5 trials and the folder {folder}/sample?" in result.stdout
    assert (folder / "sample" / "train.pkl").exists()
    assert "deleted experiment 'sample'" in call(folder, "rm", "sample", say="y\n").stdout
    assert not (folder / "sample").exists()
    assert call(folder, "list", "--json").stdout == "[]\n"


def test_rm_spares_a_sweep_that_runs(folder: Path) -> None:
    other = build_owner()
    other = type(other)("elsewhere", 1, None, "", "nonce")
    with Database.open(folder / "slurm-sweeps.db") as database:
        assert database.take_lease(1, other, time.time(), None)
    result = call(folder, "rm", "sample", "--yes", code=1)
    assert "is in use by another driver: host 'elsewhere'" in result.stderr


def test_watch_ends_with_the_sweep(folder: Path) -> None:
    said = call(folder, "watch", "sample").stdout
    assert "sample: completed" in said
    assert re.search(r"'sample' is over: completed, \d of \d done", said)


def test_watch_of_a_stopped_sweep_tells_so(tmp_path: Path) -> None:
    write_sample(tmp_path, statuses=STATUSES, state="stopped")
    said = call(tmp_path, "watch", "sample", "--no-wait", code=1).stdout
    assert "sample: stopped" in said
    assert "no driver is at work on 'sample': stopped" in said


@pytest.mark.processes
def test_completion() -> None:
    for shell in ("bash", "zsh"):
        result = CliRunner().invoke(main, ["completion", shell])
        assert "_SLURM_SWEEPS_COMPLETE" in result.stdout


@pytest.mark.parametrize(
    ("words", "expected"), [("slurm-sweeps show s", "sample"), ("slurm-sweeps wa", "watch")]
)
def test_completion_knows_names(folder: Path, words: str, expected: str) -> None:
    env = {
        "SLURM_SWEEPS_DIR": str(folder),
        "_SLURM_SWEEPS_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    result = CliRunner().invoke(main, [], env=env, prog_name="slurm-sweeps")
    assert expected in result.stdout


def test_completion_of_trials(folder: Path) -> None:
    env = {
        "SLURM_SWEEPS_DIR": str(folder),
        "_SLURM_SWEEPS_COMPLETE": "bash_complete",
        "COMP_WORDS": "slurm-sweeps trial sample ",
        "COMP_CWORD": "3",
    }
    result = CliRunner().invoke(main, [], env=env, prog_name="slurm-sweeps")
    assert read_ids(folder)[0] in result.stdout


@pytest.mark.processes
def test_doctor_outside_of_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    text = call(folder, "doctor").stdout
    assert "no srun on PATH" in text
    assert "not inside a Slurm job" in text
    assert "the file system locks files" in text
    assert "is sound: 1 experiments" in text


@pytest.mark.processes
def test_doctor_inside_of_a_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NTASKS": "4",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_JOB_CPUS_PER_NODE": "8(x2)",
        "SLURM_TASKS_PER_NODE": "2(x2)",
        "SLURM_MEM_PER_CPU": "1000",
    }
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", "/nowhere")
    findings = {each["topic"]: each["text"] for each in load(call(folder, "doctor", "--json"))}
    assert "4 CPUs; 4000 MB" in findings["share of a trial"]
    assert "srun --exact -N1 -n1" in findings["srun line of the first slot"]


@pytest.mark.processes
def test_doctor_finds_what_is_bad(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "slurm-sweeps.db").write_bytes(b"no database at all, but some bytes")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    text = call(folder, "doctor", code=1).stdout
    assert "BAD   allocation: " in text
    assert "BAD   database: " in text
