"""What a program is given: words, options, templates, and what is refused."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slurm_sweeps as ss
from slurm_sweeps.programs.command import (
    build_options,
    check_names,
    fill,
    fill_shell,
    fill_words,
    find_program,
    flatten,
    read_templates,
    render,
    split_command,
)

CFG = {"lr": 0.1, "net": {"width": 64, "act": "relu"}, "flag": True, "off": False, "none": None}

#: All that an argument may be: no NUL, and no halves of characters.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python train.py --lr {lr}", ["python", "train.py", "--lr", "0.1"]),
        ("run '{net.act} x' {net.width}", ["run", "relu x", "64"]),
        (["run", "{lr} {lr:.2e}"], ["run", "0.1 1.00e-01"]),
        ("run {{lr}} a{{b}}", ["run", "{lr}", "a{b}"]),
        ("run {net}", ["run", '{"width": 64, "act": "relu"}']),
        ("run {args}", ["run", "--lr", "0.1", "--net.width", "64", "--net.act", "relu", "--flag"]),
    ],
)
def test_values_stand_where_their_names_stood(command: str | list[str], words: list[str]) -> None:
    assert fill_words(split_command(command, False), CFG, flatten(CFG)) == words


@given(TEXTS)
def test_a_value_is_one_word_whatever_it_holds(value: str) -> None:
    cfg = {"x": value}
    words = split_command("run --x {x} --y={x}", False)
    assert fill_words(words, cfg, cfg) == ["run", "--x", value, f"--y={value}"]


@given(TEXTS)
def test_a_shell_reads_a_value_as_one_word(value: str) -> None:
    (text,) = split_command("run {x} | cat", True)
    assert shlex.split(fill_shell(text, {"x": value}, {"x": value})) == ["run", value, "|", "cat"]


@pytest.mark.processes
@pytest.mark.parametrize(
    "value", ["; rm -rf x", "$(id)", "`id`", "'", '"', "a b", "\n", "é{}", "-x"]
)
def test_a_real_shell_does_too(value: str) -> None:
    text = fill_shell("printf %s {x}", {"x": value}, {"x": value})
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == value


@given(
    st.floats(allow_nan=False),
    st.integers(),
    TEXTS,
    st.booleans(),
    st.lists(st.integers(0), min_size=1),
)
def test_argparse_reads_the_options_back(
    number: float, whole: int, text: str, flag: bool, several: list[int]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=float)
    parser.add_argument("--whole", type=int)
    parser.add_argument("--text")
    parser.add_argument("--flag", action="store_true")
    parser.add_argument("--several", type=int, nargs="+")
    cfg = {"number": number, "whole": whole, "text": text, "flag": flag, "several": several}
    assert vars(parser.parse_args(build_options(cfg))) == cfg


@pytest.mark.parametrize(
    ("command", "shell", "message"),
    [
        ("", False, "is empty"),
        ([], False, "is empty"),
        ("run 'x", False, "No closing quotation"),
        ("run {lr", False, "Names stand in braces"),
        ("run x{args}", False, "must be a word of its own"),
        (["run", "a\0"], False, "NUL"),
        (["run"], True, "one string"),
        (3, False, "string or a list of strings"),
        (["run", 3], False, "string or a list of strings"),
    ],
)
def test_a_command_that_is_none(command: object, shell: bool, message: str) -> None:
    with pytest.raises((ss.UsageError, ss.UsageTypeError), match=message):
        split_command(command, shell)  # type: ignore[arg-type]


def test_a_name_that_no_trial_has() -> None:
    with pytest.raises(ss.UsageError, match=r"\{rate\} is not in the cfg, which has lr, net.width"):
        check_names("command", ["rate"], ["lr", "net.width"])
    check_names("command", ["net", "lr", "trial_id", "checkpoint_dir", "args"], ["lr", "net.width"])
    with pytest.raises(ss.UsageError, match=r"has no 'net\.depth'"):
        fill("{net.depth}", flatten(CFG))
    with pytest.raises(ss.UsageError, match="Unknown format code"):
        fill("{net.act:.2e}", flatten(CFG))


def test_only_the_program_is_looked_for_beside_the_script(tmp_path: Path) -> None:
    for name in ("train.py", "out.csv"):
        (tmp_path / name).touch()
    script = str(tmp_path / "train.py")
    assert find_program(["python", "-u", "train.py", "out.csv"], tmp_path) == (
        *("python", "-u", script, "out.csv"),
    )
    assert find_program(["train.py"], tmp_path) == (script,)
    assert find_program(["python", "-m", "train"], tmp_path) == ("python", "-m", "train")


def test_templates(tmp_path: Path) -> None:
    (tmp_path / "t.in").write_text("&p lr={{ lr }} w={{ net.width }}{% if flag %} f{% endif %} /\n")
    (text,) = read_templates({"input.nml": "t.in"}, tmp_path).values()
    assert render("input.nml", text, CFG) == "&p lr=0.1 w=64 f /\n"
    with pytest.raises(ss.UsageError, match=r"template of 'input.nml'.*'rate' is undefined"):
        render("input.nml", "{{ rate }}", CFG)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../x": "t"}, "not below it"),
        ({"/x": "t"}, "not below it"),
        ({"": "t"}, "not below it"),
        ({"x": "missing"}, "can't read the template"),
        ({"x": "wrong"}, "line 2: "),
        (["x"], "must be a dict of paths"),
    ],
)
def test_templates_that_are_none(tmp_path: Path, files: object, message: str) -> None:
    (tmp_path / "t").touch()
    (tmp_path / "wrong").write_text("a\n{% if %}")
    with pytest.raises((ss.UsageError, ss.UsageTypeError), match=message):
        ss.Program("run", files=files, folder=tmp_path)  # type: ignore[arg-type]


def test_what_the_command_leaves_out_is_said(tmp_path: Path) -> None:
    cfg = {"lr": ss.Uniform(0, 1), "opt": ss.Choice([{"name": "sgd", "m": 0.9}, {"name": "adam"}])}
    ss.Experiment(ss.Program("run {lr} {opt.m} {opt.name}"), cfg, local_dir=tmp_path)
    names = {"lr", "opt.name", "opt.m"}
    assert ss.Program("run {lr}").check(names) is not None
    assert "opt.m, opt.name" in (ss.Program("run {lr}").check(names) or "")
    for command in ("run {args}", "run {lr} {opt}"):
        assert ss.Program(command).check(names) is None
    with pytest.raises(ss.UsageError, match=r"\{mom\} is not in the cfg"):
        ss.Experiment(ss.Program("run {mom}"), cfg, local_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": r"loss=(\S+)"}, r"metrics='loss=\(\\S\+\)' has no named group"),
        ({"metrics": "(?P<loss>"}, "no regular expression"),
        ({"metrics": r"(?P<iteration>\d+)"}, "no named group that is a metric"),
        ({"metrics": 3}, "must be a regular expression"),
        ({"result": 3}, "result must be"),
        ({"env": {1: "x"}}, "env must be a dict of strings"),
        ({"env": {"X": "{"}}, "Names stand in braces"),
        ({"shell": 1}, "must be True or False"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises((ss.UsageError, ss.UsageTypeError), match=message):
        ss.Program("run", **options)  # type: ignore[arg-type]


def test_a_program_that_srun_launches_has_a_job_step_for_each_trial(tmp_path: Path) -> None:
    train = ss.Program("run", launch="srun")
    for cfg in (None, ss.SlurmCfg(), ss.SlurmCfg(fresh_step=True)):
        experiment = ss.Experiment(train, {}, local_dir=tmp_path, slurm_cfg=cfg)
        assert experiment._slurm_cfg == ss.SlurmCfg(fresh_step=True)
    with pytest.raises(ss.UsageError, match="forbids: leave one of them out"):
        ss.Experiment(train, {}, local_dir=tmp_path, slurm_cfg=ss.SlurmCfg(fresh_step=False))
    with pytest.raises(ss.UsageError, match='launch must be "srun" or None, got 3'):
        ss.Program("run", launch=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "options", "missing"),
    [
        ("no-such-program x", {}, "'no-such-program' neither on PATH nor in"),
        ("/no/such/program", {}, "'/no/such/program' on this host"),
        ("./run.sh", {}, "'./run.sh' neither in .* nor in the new folder that each trial runs in"),
        ("python trian.py --lr {lr}", {}, "'trian.py' neither in"),
        ("python -u trian.py", {"cwd": "/tmp"}, "'trian.py' neither in .* nor in /tmp"),
        ("python there.py", {}, None),
        ("python {args}", {}, None),
        ("python -W ignore x.py", {}, None),
        ("echo out.py", {}, None),
        ("./run.sh", {"files": {"run.sh": "there.py"}}, None),
        ("./run.sh", {"cwd": "{trial_dir}/x"}, None),
        ("no-such-program", {"shell": True}, None),
        ("true", {"env": {"PATH": "/nowhere"}}, "'true' neither on PATH"),
    ],
)
def test_what_is_not_there_is_missed(
    tmp_path: Path, command: str, options: dict[str, Any], missing: str | None
) -> None:
    (tmp_path / "there.py").touch()
    said = ss.Program(command, folder=tmp_path, **options).find_missing()
    assert (said is None) == (missing is None), said
    assert missing is None or re.search(f"^command: there is no {missing}", said or "")


def test_the_interpreter_is_not_taken_for_a_file_beside_the_script() -> None:
    assert find_program([sys.executable, "x"], Path("/nowhere")) == (sys.executable, "x")
