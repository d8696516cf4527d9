"""Code that is edited while a sweep runs or waits: real repositories, real sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

import slurm_sweeps as ss
from slurm_sweeps.experiment import snapshot
from slurm_sweeps.storage.layout import Layout
from sweep_scripts import Scripts, kill
from test_provenance import commit, git

#: Each trial waits for a file, then tells which version of the script and of its modules it has.
SWEEP = """
import time
from pathlib import Path

import slurm_sweeps as ss

FOLDER = Path(__file__).parent

def train(cfg):
    from package.deep import VALUE
    import model
    (FOLDER / f"began-{ss.trial_id()}").touch()
    while not (FOLDER / "go").exists():
        time.sleep(0.01)
    ss.log({"script": 1, "model": model.VALUE, "deep": VALUE}, 1)

if __name__ == "__main__":
    cfg = {"x": ss.Uniform(0, 1)}
    experiment = ss.Experiment(train, cfg, name="e", restore="auto", snapshot=True)
    experiment.run(4, 2)
"""


def write_code(scripts: Scripts, value: int) -> None:
    scripts.write(f"VALUE = {value}\n", "src/model.py")
    scripts.write(f"VALUE = {value}\n", "src/package/deep.py")
    scripts.env["PYTHONPATH"] = str(scripts.folder / "src")


def read_versions(scripts: Scripts) -> set[tuple[float, ...]]:
    trials = ss.Result("e", scripts.folder / "slurm-sweeps").trials
    assert len(trials) == 4
    return {tuple(trial.metrics[name][1] for name in trial.metrics) for trial in trials}


def test_editing_changes_nothing(scripts: Scripts) -> None:
    """The sweep is killed, its code edited, and it goes on with the code it was begun with."""
    write_code(scripts, 1)
    scripts.write(SWEEP)
    scripts.write("__pycache__\n/slurm-sweeps\n", ".gitignore")
    (scripts.folder / "link").symlink_to("src")
    commit(scripts.folder)
    scripts.write("", "src/package/__init__.py")  # new, and not added yet
    with scripts.start(SWEEP) as driver:
        scripts.wait_for_file("began-*", 2)
        kill(driver)
    scripts.wait_until_gone(60)
    write_code(scripts, 2)
    (scripts.folder / "go").touch()
    edited = SWEEP.replace('"script": 1', '"script": 2')
    done = scripts.run(edited)
    assert (
        "the code has changed since this sweep was begun: src/model.py, src/package/deep.py, "
        in (done.stdout)
    )
    assert "sweep.py. Trials go on with the snapshot" in done.stdout
    assert read_versions(scripts) == {(1.0, 1.0, 1.0)}
    assert (scripts.folder / "slurm-sweeps" / "e" / "code" / "link").is_symlink()

    newest = edited.replace("snapshot=True", "snapshot=False").replace("run(4", "run(6")
    assert "the snapshot of the code is left" in scripts.run(newest).stdout
    last = ss.Result("e", scripts.folder / "slurm-sweeps").trials[-1]
    assert {curve[1] for curve in last.metrics.values()} == {2.0}
    assert not (scripts.folder / "slurm-sweeps" / "e" / "code").exists()


def test_a_program_is_run_from_the_snapshot(scripts: Scripts) -> None:
    scripts.write("print('loss=1')\n", "tool.py")
    sweep = """
        import slurm_sweeps as ss

        if __name__ == "__main__":
            train = ss.Program("python tool.py", metrics=r"loss=(?P<loss>\\S+)")
            experiment = ss.Experiment(
                train, {}, name="e", restore="auto", snapshot=True, metric="loss", mode="min"
            )
            print("best", experiment.run({n_trials}).best_trial().value)
        """
    scripts.write(sweep)
    commit(scripts.folder)
    assert "best 1.0" in scripts.run(sweep.replace("{n_trials}", "1")).stdout
    scripts.write("print('loss=0')\n", "tool.py")
    assert "best 1.0" in scripts.run(sweep.replace("{n_trials}", "2")).stdout
    assert len(ss.Result("e", scripts.folder / "slurm-sweeps").trials) == 2


def test_without_a_repository(scripts: Scripts) -> None:
    scripts.env["GIT_CEILING_DIRECTORIES"] = str(scripts.folder.parent)
    done = scripts.run(SWEEP, code=1)
    assert "snapshot=True needs a git repository around" in done.stderr


def test_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, layout = tmp_path / "repository", Layout(tmp_path / "repository" / "sweeps", "e")
    repository.mkdir()
    (repository / "code.py").write_text("x" * 100)
    (repository / "gone.py").write_text("")
    commit(repository)
    (repository / "gone.py").unlink()
    (repository / "new.bin").write_text("x" * 1000)
    layout.folder.mkdir(parents=True)
    (layout.folder / "train.pkl").write_text("")
    monkeypatch.setattr(snapshot, "MOST_UNTRACKED_BYTES", 500)
    root, notices = snapshot.take_snapshot(repository, layout)
    assert root == repository
    assert [path.name for path in layout.code.iterdir()] == ["code.py"]
    assert len(notices) == 1
    assert notices[0].endswith(": new.bin")
    assert snapshot.take_snapshot(repository, layout) == (repository, [])
    git(repository, "add", "new.bin")
    (_, (notice,)) = snapshot.take_snapshot(repository, layout)
    assert "has changed since this sweep was begun: new.bin." in notice

    monkeypatch.setattr(snapshot, "MOST_BYTES", 50)
    with pytest.raises(ss.UsageError, match="keep data out of it"):
        snapshot.take_snapshot(repository, Layout(tmp_path / "elsewhere", "e"))


def test_submodules_come_along(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    for folder in (inner, outer):
        folder.mkdir()
        (folder / "code.py").write_text(folder.name)
        commit(folder)
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(inner), "sub")
    layout = Layout(tmp_path / "sweeps", "e")
    snapshot.take_snapshot(outer, layout)
    assert (layout.code / "sub" / "code.py").read_text() == "inner"
    assert snapshot.map_path(outer, layout.code, [str(outer / "sub"), str(inner)]) == [
        str(layout.code / "sub")
    ]


def test_what_lies_outside_stays_there(tmp_path: Path) -> None:
    assert snapshot.map_into(tmp_path, tmp_path / "copy", tmp_path.parent) is None
