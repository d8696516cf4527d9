"""Of what code a sweep ran: real git repositories, and sweeps of scripts in them."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import slurm_sweeps as ss
from slurm_sweeps.experiment import provenance
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import build_database_path
from slurm_sweeps.storage.rows import MAX_DIFF, read_driver_runs
from sweep_scripts import Scripts

SWEEP = """
import os
import sys

import slurm_sweeps as ss
import model

def train(cfg):
    ss.log({"loss": model.compute(cfg["x"])}, 1)

if __name__ == "__main__":
    cfg = {"x": ss.Uniform(0, 1)}
    result = ss.Experiment(train, cfg, name="e", restore="auto").run(int(sys.argv[1]))
"""


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    argv = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path) -> str:
    """Make a folder a repository, and all in it a commit; return its id."""
    git(folder, "init", "--quiet", "--initial-branch", "trunk")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return git(folder, "rev-parse", "HEAD")


def call(scripts: Scripts, *arguments: str) -> str:
    argv = [str(Path(sys.executable).with_name("slurm-sweeps")), *arguments]
    done = subprocess.run(
        argv, cwd=scripts.folder, env=scripts.env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_sweep_knows_of_what_code_it_is(scripts: Scripts) -> None:
    scripts.write(SWEEP)
    model = scripts.write("def compute(x): return x\n", "model.py")
    scripts.write("slurm-sweeps\n__pycache__\n", ".gitignore")
    first = commit(scripts.folder)
    scripts.env["A_KEY_OF_MINE"] = "s3cr3t-in-the-environment"
    scripts.run(SWEEP, "2", "--api-key", "s3cr3t-on-the-line", "--wandb_token=s3cr3t-too")
    told = ss.Result("e", scripts.folder / "slurm-sweeps").provenance
    assert told["git"]["commit"] == first
    assert (told["git"]["branch"], told["git"]["dirty"], told["diff"]) == ("trunk", False, "")
    assert told["script"] == str(scripts.folder / "sweep.py")
    assert told["command"].endswith("2 --api-key *** --wandb_token=***")
    assert told["packages"]["numpy"]
    assert "s3cr3t" not in build_database_path(scripts.folder / "slurm-sweeps").read_text("latin-1")

    model.write_text("def compute(x): return 2 * x  # <b>changed</b>\n")
    scripts.write("", "new file.py")
    scripts.run(SWEEP, "4")
    told = ss.Result("e", scripts.folder / "slurm-sweeps").provenance
    assert told["git"]["changed"] == ["model.py"]
    assert told["git"]["untracked"] == ["new file.py"]
    assert "+def compute(x): return 2 * x" in told["diff"]
    assert f"code: sweep.py, commit {first[:12]} with 1 changed file, Python" in call(
        scripts, "show", "e"
    )
    shown = json.loads(call(scripts, "show", "e", "--json"))
    assert shown["provenance"]["git"]["commit"] == first
    call(scripts, "report", "e")
    page = (scripts.folder / "report.html").read_text()
    assert "+def compute(x): return 2 * x  # &lt;b&gt;changed&lt;/b&gt;" in page
    assert first in page
    assert "run 2" in page


def test_where_there_is_no_repository(scripts: Scripts) -> None:
    scripts.write("def compute(x): return x\n", "model.py")
    scripts.env["PATH"] = ""  # nor a git
    scripts.run(SWEEP, "2")
    told = ss.Result("e", scripts.folder / "slurm-sweeps").provenance
    assert told["git"] is None
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "code: sweep.py, Python" in call(scripts, "show", "e")


def test_a_git_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(provenance, "GIT_S", 0.1)
    assert provenance.read_git(tmp_path) == (None, "")


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch", "trunk")
    told, diff = provenance.read_git(tmp_path)
    assert told is not None
    assert (told["commit"], told["branch"], told["dirty"], diff) == (None, "trunk", False, "")


def test_a_large_diff_is_cut(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("a\n")
    commit(tmp_path)
    (tmp_path / "data.txt").write_text("line\n" * 200_000)
    _, diff = provenance.read_git(tmp_path)
    assert len(diff) < provenance.MAX_DIFF + 100
    assert diff.endswith("… cut here: only 500,000 characters are kept\n")


def test_a_diff_that_somebody_has_blown_up(tmp_path: Path) -> None:
    with Database.open(build_database_path(tmp_path), create=True) as database:
        key = database.create_experiment("e", {}, 0.0).id
        bomb = zlib.compress(b"a" * 5 * MAX_DIFF)
        with database.writing() as connection:
            connection.execute("INSERT INTO runs VALUES (?, 0.0, '{}', ?)", (key, bomb))
        assert len(read_driver_runs(database, key)[0].diff) == MAX_DIFF
