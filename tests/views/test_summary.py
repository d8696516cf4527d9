"""What a live view shows: the data, the table that fits, the lines."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import slurm_sweeps as ss
from slurm_sweeps.errors import ExperimentNotFoundError
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.jobs import put_job
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.storage.lease import build_owner, read_process_start
from slurm_sweeps.storage.records import JobRecord, JobState
from slurm_sweeps.trial import Status
from slurm_sweeps.views.formats import list_parameters
from slurm_sweeps.views.sight import look_at_driver
from slurm_sweeps.views.summary import (
    Row,
    Summary,
    read_first_rows,
    read_rows,
    read_summary,
)
from slurm_sweeps.views.table import fit_columns, format_summary
from views_samples import SPACE, START, write_sample

MIXED = [
    Status.COMPLETED,
    Status.PRUNED,
    Status.FAILED,
    Status.PRUNED,
    Status.RUNNING,
    Status.RUNNING,
]


def read(local_dir: Path, rows: int = 10, now: float = START + 60, **sample: object) -> Summary:
    sample = {"statuses": MIXED, "heard_at": now} | sample
    layout = write_sample(local_dir, **sample)  # type: ignore[arg-type]
    with Database.open(layout.database, read_only=True) as database:
        return read_summary(database, layout, rows, now)


def test_counts_best_and_time(tmp_path: Path) -> None:
    summary = read(tmp_path, state="running")
    assert summary.counts == {
        Status.COMPLETED: 1,
        Status.PRUNED: 2,
        Status.FAILED: 1,
        Status.RUNNING: 2,
    }
    assert (summary.done, summary.running, summary.n_trials) == (4, 2, 9)
    assert summary.best is not None
    assert (summary.best.value, summary.best.iteration) == (pytest.approx(1 / 6), 6)
    assert summary.compute_elapsed_s(START + 60) == 60
    assert summary.compute_left_s(START + 60) == 75  # 4 in 60 s, 5 to come


def test_rows_are_the_best_then_the_running(tmp_path: Path) -> None:
    summary = read(tmp_path, rows=4, state="running")
    assert [row.status for row in summary.rows] == [
        Status.COMPLETED,
        Status.PRUNED,
        Status.RUNNING,
        Status.RUNNING,
    ]
    assert summary.best is not None
    assert summary.rows[0].trial_id == summary.best.trial_id
    assert summary.rows[0].metrics["val/acc"] == pytest.approx(1 - 1 / 6)
    assert summary.rows[0].cfg["fixed"] == "yes"


def test_running_trials_get_their_half_of_the_rows(tmp_path: Path) -> None:
    statuses = [Status.COMPLETED] * 10 + [Status.RUNNING] * 3
    summary = read(tmp_path, rows=6, statuses=statuses)
    assert [row.status for row in summary.rows].count(Status.RUNNING) == 3


def test_without_a_metric_the_newest_are_shown(tmp_path: Path) -> None:
    summary = read(tmp_path, asha=False, rows=4)
    assert summary.best is None
    assert [row.more["number"] for row in summary.rows] == [4, 5, 3, 2]


@pytest.mark.parametrize("sample", [{}, {"asha": False}, {"nan": True}])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_first_rows_are_those_of_all_in_order(
    tmp_path: Path, sample: dict[str, bool], reverse: bool
) -> None:
    layout = write_sample(tmp_path, statuses=[*MIXED, Status.INFEASIBLE], **sample)  # type: ignore[arg-type] # flags
    with Database.open(layout.database, read_only=True) as database:
        record, now = database.experiment("sample"), START + 60
        for statuses in (None, [Status.PRUNED, Status.INTERRUPTED], [Status.RUNNING]):
            every = read_rows(database, record, statuses, now)
            known = [row for row in every if row.best is not None]
            if record.settings["metric"] is None:
                expected = every[::-1] if reverse else every
            else:
                known.sort(key=lambda row: row.best, reverse=reverse)
                expected = known + [row for row in every if row.best is None]
            for limit in (0, 3, 99):
                first = read_first_rows(database, record, statuses, now, limit, reverse)
                assert str(first) == str((expected[:limit], len(every)))  # NaN is no other NaN


def test_the_newest_failure_with_its_log(tmp_path: Path) -> None:
    (failure,) = read(tmp_path).failures
    assert failure.text == "ValueError: the <b>rate</b>\nis too large"
    assert failure.title == f"trial {failure.trial_id}: ValueError: the <b>rate</b>"
    assert failure.log == tmp_path / "sample" / failure.trial_id / "stderr.log"


def test_a_silent_driver_is_told(tmp_path: Path) -> None:
    layout = write_sample(tmp_path, statuses=MIXED, state="running")
    with Database.open(layout.database) as database:
        assert database.take_lease(1, build_owner(), START, None)
        assert read_summary(database, layout, 0, START + 60).silent_s is None
        silent = read_summary(database, layout, 0, START + 600)
    assert silent.silent_s == 600
    assert "its driver was last heard of 10 min ago" in format_summary(silent, True, 100, START)[0]


@pytest.mark.processes
def test_a_killed_driver_of_this_host_is_known_at_once(tmp_path: Path) -> None:
    layout = write_sample(tmp_path, statuses=MIXED, state="running")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = read_process_start(child.pid) or ""
    dead = dataclasses.replace(build_owner(), pid=child.pid, start=start)
    child.communicate(b"\n")
    with Database.open(layout.database) as database:
        for owner, last_sign in ((build_owner(), START + 50), (dead, START + 20)):
            found = database.experiment("sample").lease
            assert database.take_lease(1, owner, START + 20, found)
            record = database.experiment("sample")
            assert look_at_driver(record, START + 50).last_sign == last_sign
        summary = read_summary(database, layout, 10, START + 50)
        left = read_rows(database, record, [Status.INTERRUPTED], START + 50)
        assert not read_rows(database, record, [Status.RUNNING], START + 50)
    assert (summary.state, summary.silent_s, summary.running) == ("interrupted", 30, 0)
    assert summary.counts[Status.INTERRUPTED] == 2
    assert [(row.status, row.runtime_s) for row in left] == [(Status.INTERRUPTED, 0)] * 2
    assert summary.compute_left_s(START + 50) is None
    text = "\n".join(format_summary(summary, True, 100, START + 50))
    assert "interrupted, its driver was last heard of 30 s ago" in text
    assert "slots busy" not in text
    assert "took 0:20" in text


def test_an_unknown_experiment(tmp_path: Path) -> None:
    layout = write_sample(tmp_path)
    other = Layout(layout.local_dir, "samples")
    with (
        Database.open(layout.database, read_only=True) as database,
        pytest.raises(ExperimentNotFoundError, match="did you mean 'sample'"),
    ):
        read_summary(database, other, 0, START)


def test_parameters_of_a_space() -> None:
    found = {each.name: each for each in list_parameters(SearchSpace(SPACE).describe())}
    assert list(found) == ["opt.lr", "opt.name", "width", "extra.kind", "extra.p"]
    assert found["opt.lr"].is_log
    assert found["opt.lr"].text == "LogUniform(1e-5, 1)"
    assert found["opt.name"].text == "Choice(['adam', 'sgd', None])"
    mixed = SearchSpace(
        {"a": ss.Choice([None, {"b": {"c": 1}}]), "q": ss.Quantized(ss.LogUniform(1, 9), 1)}
    )
    assert [each.name for each in list_parameters(mixed.describe())] == ["a", "a.b.c", "q"]
    assert list_parameters(mixed.describe())[2].is_log
    assert list_parameters(None) == []
    foreign = {"x": {"$space": "Mine", "low": 1, "high": 2.5}}
    assert list_parameters(foreign)[0].text == "Mine(1, 2.5)"


rows_strategy = st.lists(
    st.builds(
        Row,
        trial_id=st.just("0123456789ab"),
        status=st.sampled_from(Status),
        iteration=st.none() | st.integers(0, 10**9),
        runtime_s=st.none() | st.floats(0, 1e7),
        best=st.none() | st.floats(),
        cfg=st.dictionaries(
            st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=60),
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
            max_size=40,
        ),
        metrics=st.dictionaries(st.sampled_from(["loss", "val/acc", "x" * 40]), st.floats()),
    ),
    max_size=5,
)


@given(rows_strategy, st.integers(60, 250))
def test_no_line_is_longer_than_the_terminal(rows: list[Row], width: int) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.cfg))
    summary = Summary(
        "s", "running", metric="loss", mode="min", parameters=names, metrics=["val/acc"], rows=rows
    )
    chosen, hidden = fit_columns(summary, True, width)
    assert sum(size for _, size in chosen) + 2 * (len(chosen) - 1) <= width
    shown = [column.title for column, _ in chosen][4:]
    assert sorted(shown + hidden) == sorted(["loss", "best", *names, "val/acc"])
    assert all(cell_len(line) <= width for line in format_summary(summary, True, width, 0.0))


def test_asked_columns_in_their_order(tmp_path: Path) -> None:
    summary = read(tmp_path)
    fixed = ["trial", "status", "iter", "time"]

    def titles(columns: bool | list[str]) -> list[str]:
        return [column.title for column, _ in fit_columns(summary, columns, 200)[0]]

    assert titles(False) == fixed
    assert titles(["val/acc", "opt.lr", "host"]) == [*fixed, "val/acc", "opt.lr", "host"]
    assert titles(True)[:6] == [*fixed, "loss", "best"]


def test_what_varies_comes_before_what_does_not(tmp_path: Path) -> None:
    space = {"same": ss.Choice([1]), "x": ss.Uniform(0, 1), "as": ss.Choice(["a"])}
    summary = read(tmp_path, space=space)
    titles = [column.title for column, _ in fit_columns(summary, True, 200)[0]]
    assert titles[4:] == ["loss", "best", "x", "val/acc", "same", "as"]


def test_failures_are_grouped_by_reason_the_newest_first(tmp_path: Path) -> None:
    summary = read(tmp_path, statuses=[Status.FAILED, Status.LOST, Status.LOST, Status.FAILED])
    assert [(each.count, each.text[:10]) for each in summary.failures] == [
        (2, "ValueError"),
        (2, "no reason "),
    ]
    text = "\n".join(format_summary(summary, True, 100, START))
    newest, other = summary.failures
    assert f"newest failure, trial {newest.trial_id} (2 alike): ValueError: the <b>r" in text
    assert f"also failed, trial {other.trial_id} (2 alike): no reason was told" in text
    assert text.count("stderr.log") == 1


def test_in_the_end_all_of_the_newest_failure_is_told_and_how_many_others_there_are(
    tmp_path: Path,
) -> None:
    layout = write_sample(tmp_path, statuses=[Status.FAILED] * 8)
    words = ["one", "two", "three", "four", "five"]
    cause, command = "CudaError: " + "x" * 60, f"('train.py {'--lr 1 ' * 20}' ended with code 3)"
    with sqlite3.connect(layout.database) as database:
        for number in range(8):
            word = words[number // 2 if number < 6 else number - 3]
            text = f"{cause} {word} {number} {command}\nTraceback\n  x.py\n{cause} {word}"
            database.execute(
                "UPDATE attempts SET error_type = 'ProgramError', error_message = ?"
                " WHERE number = ?",
                (text, number),
            )
    database.close()
    with Database.open(layout.database, read_only=True) as store:
        summary = read_summary(store, layout, 10, START)
    assert [each.count for each in summary.failures] == [1, 2, 2, 2, 1]
    lines = format_summary(summary, True, 100, START)
    begin = next(at for at, line in enumerate(lines) if "newest failure" in line)
    assert lines[begin].endswith(f": {cause} five 7 {command}")  # not cut: it isn't redrawn
    assert [line.strip() for line in lines[begin + 1 : begin + 4]] == [
        "Traceback",
        "x.py",
        f"{cause} five",
    ]
    assert lines[begin + 4].endswith(f"{summary.failures[0].trial_id}/stderr.log")
    assert lines[begin + 7] == "  2 other reasons: 'slurm-sweeps show sample --status failed'"
    running = dataclasses.replace(summary, state="running")
    (line,) = (each for each in format_summary(running, True, 80, START) if "newest" in each)
    assert len(line) == 80
    assert ": CudaError: xx" in line


def test_jobs_are_told_of_where_several_share_a_sweep(tmp_path: Path) -> None:
    """And their slots are counted; one job after another, queued again say, is nothing to tell."""
    layout = write_sample(tmp_path, statuses=MIXED, state="running")

    def look(*states: JobState, can_drive: bool = False) -> Summary:
        with Database.open(layout.database) as database:
            for number, state in enumerate(states):
                known = {"can_drive": can_drive, "nodes": "n1", "offer": "", "since": START}
                put_job(database, 1, JobRecord(f"{number}", 0, state, slots=2, **known))
            assert database.experiment("sample").lease or database.take_lease(
                1, build_owner(), START, None
            )
            return read_summary(database, layout, 0, START)

    assert look(JobState.GONE, JobState.DRIVING).jobs == ()
    assert "jobs: 1 drives, 1 has gone" in "\n".join(
        format_summary(look(JobState.GONE, JobState.DRIVING, can_drive=True), True, 100, START)
    )
    hired = look(JobState.LENDING, JobState.LENDING)
    assert "2 of 6 slots busy, jobs: 2 lend" in "\n".join(format_summary(hired, True, 100, START))


def test_what_ran_out_of_memory_is_counted_and_one_reason(tmp_path: Path) -> None:
    layout = write_sample(tmp_path, statuses=[Status.FAILED] * 3 + [Status.INFEASIBLE])
    with sqlite3.connect(layout.database) as database:
        database.execute(
            "UPDATE attempts SET error_type = 'OutOfMemory', error_message = 'asked for ' || number"
            " WHERE number > 0"
        )
    database.close()
    with Database.open(layout.database, read_only=True) as store:
        summary = read_summary(store, layout, 10, START)
    assert summary.out_of_memory == {Status.FAILED: 2, Status.INFEASIBLE: 1}
    assert sorted(each.count for each in summary.failures) == [1, 2]
    text = "\n".join(format_summary(summary, True, 100, START))
    assert "3 failed (2 out of memory)" in text
    assert "1 infeasible (1 out of memory)" in text


def test_a_long_error_is_cut_to_what_is_left(tmp_path: Path) -> None:
    summary = read(tmp_path, statuses=[Status.FAILED])
    for width in (80, 60):
        *_, (column, size) = fit_columns(summary, ["error"], width)[0]
        assert (column.title, size <= width - 30) == ("error", True)
        lines = format_summary(summary, ["error"], width, START)
        assert any("ValueError: the <b>ra" in line for line in lines)
    assert "is too large" in "\n".join(format_summary(summary, ["error"], 1000, START))


def test_the_block_of_a_file(tmp_path: Path) -> None:
    summary = dataclasses.replace(read(tmp_path, state="running"), silent_s=None)
    text = "\n".join(format_summary(summary, ["opt.lr"], 80, START + 60))
    assert "sample: running" in text
    assert "4 of 9 done (44%), elapsed 1:00, about 1:15 left" in text
    assert "1 completed, 2 pruned, 1 failed, 2 running, 2 of 2 slots busy" in text
    assert "best loss 0.1667 at iteration 6, trial " in text
    assert "newest failure, trial " in text
    assert f"{tmp_path}/sample/" in text
    assert "\x1b" not in text


def test_a_column_that_sorts_also_shows(tmp_path: Path) -> None:
    summary = read(tmp_path)
    names = ["iter", "slot", "loss", "width"]
    columns = [column for column, _ in fit_columns(summary, names, 200)[0]][4:]
    first = summary.rows[0].columns
    assert [column.cells[0] for column in columns] == [str(first[n])[:6] for n in names[:2]] + [
        f"{first['loss']:.4g}",
        str(first["width"]),
    ]
    assert not any(column.is_text for column in columns)
