"""How reports are read from files that grow."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slurm_sweeps as ss
from slurm_sweeps.programs.log_line import log_line
from slurm_sweeps.programs.output import (
    CHUNK,
    MOST_MISSED,
    File,
    GrowingFile,
    Table,
    build_reports,
    read_json,
    read_match,
)

PATTERN = re.compile(r"epoch (?P<iteration>\d+).*loss=(?P<loss>\S+)")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("epoch 3: loss=0.5", ({"loss": 0.5}, 3)),
        ("  12%| epoch 1 val_loss=nan", ({"loss": math.nan}, 1)),
        ("epoch 3: loss=0.5, acc=90%", ({"loss": 0.5}, 3)),
        ("epoch 3: loss=oops", None),
        ("nothing", None),
    ],
)
def test_matches(line: str, found: tuple[dict[str, float], int] | None) -> None:
    assert repr(read_match(line, PATTERN)) == repr(None if found is None else Found(*found))


def Found(metrics: dict[str, float], iteration: int | None) -> object:  # noqa: N802 - reads as it
    from slurm_sweeps.programs import output

    return output.Found(metrics, iteration)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            '{"iteration": 2, "loss": 1, "name": "x", "ok": true, "more": {"a": 1}}',
            ({"loss": 1.0}, 2),
        ),
        ('{"loss": NaN}', ({"loss": math.nan}, None)),
        ('{"loss": 1', None),
        ("[1]", None),
        ('{"iteration": -1, "loss": 0.5}', ({"loss": 0.5}, None)),
        ("{" * 100_000, None),
    ],
)
def test_json_lines(line: str, found: tuple[dict[str, float], int | None] | None) -> None:
    assert repr(read_json(line)) == repr(None if found is None else Found(*found))


def test_a_table() -> None:
    table = Table(",", "epoch")
    read = [table.read(line) for line in ("epoch, loss ,name", "1,0.5,a", '2,"0.25",b', "3,,")]
    assert read == [None, Found({"loss": 0.5}, 1), Found({"loss": 0.25}, 2), None]


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_lines_are_the_same_however_they_come(parts: list[bytes], step: int) -> None:
    import tempfile

    data = b"".join(parts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log")
        file, lines = GrowingFile(path), []
        for start in range(0, len(data), step):
            with path.open("ab") as log:
                log.write(data[start : start + step])
            lines += file.read_lines()
        lines += file.read_lines(is_over=True)
    wanted = re.split(rb"[\r\n]+", data)
    assert [line for line in lines if line] == [w.decode("utf-8", "replace") for w in wanted if w]


def test_a_file_that_begins_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = GrowingFile(path)
    assert list(file.read_lines()) == []
    path.write_text("one\ntwo\nthr")
    assert list(file.read_lines()) == ["one", "two"]
    path.write_text("four\n")
    assert list(file.read_lines()) == ["four"]


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * (5 * CHUNK))
    lines = list(GrowingFile(path).read_lines(is_over=True))
    assert sum(map(len, lines)) == 5 * CHUNK
    assert max(map(len, lines)) <= 2 * CHUNK


def test_reports_are_counted_where_no_iteration_is_told(tmp_path: Path) -> None:
    out = tmp_path / "stdout.log"
    out.write_text("before {}\n")
    reports = build_reports("jsonl", {out: out.stat().st_size}, tmp_path)
    with out.open("a") as log:
        log.writelines(json.dumps({"loss": loss}) + "\n" for loss in (3, 2))
        log.write('{"loss": 1}')
    assert list(reports.read()) == [({"loss": 3.0}, 1), ({"loss": 2.0}, 2)]
    assert list(reports.read(is_over=True)) == [({"loss": 1.0}, 3)]


@pytest.mark.parametrize(
    ("pattern", "line", "is_missed"),
    [
        (r"epoch (?P<iteration>\d+) loss=(?P<loss>\S+)", "Epoch 3, Loss: 0.5", True),
        (r"epoch (?P<iteration>\d+) loss=(?P<loss>\S+)", "epoch 3 step 7 loss=0.5", False),
        (r"^loss=(?P<loss>\S+)", "step 7 loss=0.5", False),
        (r"loss=(?P<loss>\S+)", "Loss: unknown", False),
        (r"(?:val )?loss=(?P<loss>[0-9.]+)", "val loss: 0.5", True),
        (r"loss:(?P<loss>\S+)(?P<x>,(?=[ ]))?", "loss 0.5", True),
        (r"(?i:loss)=(?P<loss>\S+)", "loss 0.5", False),
    ],
)
def test_lines_that_match_but_for_case_blanks_and_punctuation(
    tmp_path: Path, pattern: str, line: str, is_missed: bool
) -> None:
    """They are kept, a few, while nothing is read; what is printed more often is not like them."""
    out = tmp_path / "stdout.log"
    out.write_text(f"{line}\n" * 9)
    reports = build_reports(re.compile(pattern), {out: 0}, tmp_path)
    assert list(reports.read()) == []
    assert reports.missed == [line] * MOST_MISSED * is_missed


def test_no_line_is_missed_once_one_is_read(tmp_path: Path) -> None:
    out = tmp_path / "stdout.log"
    out.write_text("loss=1\nLoss: 2\n")
    reports = build_reports(re.compile(r"loss=(?P<loss>\S+)"), {out: 0}, tmp_path)
    assert list(reports.read()) == [({"loss": 1.0}, 1)]
    assert reports.missed == []


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.jsonl"])
def test_a_file_of_the_programs_own(tmp_path: Path, name: str) -> None:
    rows = {
        "log.csv": "step,loss\n5,0.5\n",
        "log.tsv": "step\tloss\n5\t0.5\n",
        "log.jsonl": '{"step": 5, "loss": 0.5}\n',
    }
    reports = build_reports(File(name, iteration="step"), {}, tmp_path)
    (tmp_path / name).write_text(rows[name])
    assert list(reports.read()) == [({"loss": 0.5}, 5)]


def test_a_file_without_a_name() -> None:
    with pytest.raises(ss.UsageTypeError, match="path must be a name"):
        ss.File("")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("loss=0.5 b=-1e3 --iteration 5", 0, "iteration 5: loss=0.5, b=-1000\n"),
        ("--iter=0 loss=nan", 0, "iteration 0: loss=nan\n"),
        ("--help", 0, "usage: slurm-sweeps log NAME=VALUE"),
        ("loss --iteration 1", 2, "'loss' is no metric: write NAME=NUMBER, like loss=0.31"),
        ("loss=low --iteration 1", 2, "loss=low is no number: write NAME=NUMBER, like loss=0.31"),
        ("loss=1 --iteration x", 2, "--iteration=x is no whole number: write NAME=NUMBER"),
        ("loss=1 --iteration", 2, "--iteration= is no whole number"),
        ("loss=1 --iteration -1", 2, "iteration"),
        ("loss=1 --step 4", 2, "'--step' is no metric"),
        ("loss=1", 2, "write NAME=NUMBER, once or more often, and --iteration N"),
        ("--iteration 1", 2, "write NAME=NUMBER, once or more often, and --iteration N"),
    ],
)
def test_the_command_that_programs_call(words: str, code: int, said: str, capfd: Any) -> None:
    """Outside a trial it prints what it would report."""
    assert log_line(words.split()) == code
    printed = capfd.readouterr()
    assert said in (printed.err if code else printed.out)
