"""Carrying `train` to a process that has never heard of it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slurm_sweeps as ss
from slurm_sweeps.running.train import (
    import_ahead,
    pickle_train,
    read_train,
    write_train,
)
from sweep_scripts import Scripts

READ = """
import sys
from pathlib import Path
from slurm_sweeps.running.train import read_train
print(read_train(Path(sys.argv[1]), sys.argv[2])({"x": 20}))
"""


def carry(tmp_path: Path, script: str) -> str:
    """Run a script that defines `train`; call what it wrote in a process of its own."""
    path = tmp_path / "experiment" / "train.pkl"
    source = textwrap.dedent(script) + textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from slurm_sweeps.running.train import pickle_train, write_train
        print("digest", write_train(pickle_train(train), Path(sys.argv[1])))
        """
    )
    (tmp_path / "script.py").write_text(source)
    digest = run_python(tmp_path, ["script.py", str(path)]).split()[-1]
    return run_python(tmp_path, ["-c", READ, str(path), digest]).strip()


def run_python(cwd: Path, arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_main_with_its_globals(tmp_path: Path) -> None:
    script = """
    import math
    OFFSET = 1
    def helper(x):
        return math.floor(x) + OFFSET
    def train(cfg):
        return helper(cfg["x"])
    """
    assert carry(tmp_path, script) == "21"


def test_from_a_module_beside_the_script(tmp_path: Path) -> None:
    (tmp_path / "mymodel.py").write_text("def train(cfg):\n    return cfg['x'] + 2\n")
    assert carry(tmp_path, "from mymodel import train") == "22"


def test_a_closure(tmp_path: Path) -> None:
    script = """
    def build(n):
        def inner(cfg):
            return cfg["x"] + n
        return inner
    train = build(3)
    """
    assert carry(tmp_path, script) == "23"


def test_a_partial_and_a_lambda(tmp_path: Path) -> None:
    script = """
    import functools
    train = functools.partial(lambda n, cfg: cfg["x"] + n, 4)
    """
    assert carry(tmp_path, script) == "24"


def test_a_callable_object_and_a_bound_method(tmp_path: Path) -> None:
    script = """
    class Trainer:
        def __init__(self):
            self.n = 5
        def __call__(self, cfg):
            return cfg["x"] + self.n
    train = Trainer().__call__
    """
    assert carry(tmp_path, script) == "25"
    assert carry(tmp_path, script.replace(".__call__\n", "\n")) == "25"


def test_from_a_notebook_cell(tmp_path: Path) -> None:
    # A cell is compiled code run in __main__; its source is in no file.
    script = """
    cell = "N = 6\\ndef train(cfg):\\n    return cfg['x'] + N\\n"
    exec(compile(cell, "<ipython-input-1>", "exec"))
    """
    assert carry(tmp_path, script) == "26"


def test_the_folder_becomes_the_users_own(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    write_train(pickle_train(len), folder / "train.pkl")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.listdir(folder) == ["train.pkl"]


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_what_was_written_can_be_read_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "experiment" / "train.pkl"
    before = os.umask(umask)
    try:
        digest = write_train(pickle_train(len), path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_train(path, digest) is len


@pytest.mark.parametrize("build", [threading.Lock, lambda: (i for i in ())])
def test_what_can_not_travel_is_named(build: Callable[[], Any]) -> None:
    thing = build()

    def train(_cfg: dict[str, Any]) -> None:
        print(thing)

    with pytest.raises(ss.TrainError) as refused:
        pickle_train(train)
    text = str(refused.value)
    assert text.startswith("train (<function test_what_can_not_travel_is_named.<locals>.train at")
    assert "can't be pickled: TypeError: cannot pickle" in text
    assert "Create what can't travel (locks, files, connections" in text


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment").write_text("a file, where the folder should be")
    with pytest.raises(ss.StorageError, match=r"can't write .*experiment/train.pkl: .*exists"):
        write_train(pickle_train(len), tmp_path / "experiment" / "train.pkl")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "experiment" / "train.pkl"
    digest = write_train(pickle_train(len), path)
    path.parent.chmod(mode)
    with pytest.raises(ss.TrainError) as refused:
        read_train(path, digest)
    text = str(refused.value)
    assert f"{path.parent} can be written by others (mode {mode:o}): refused" in text
    assert f"chmod go-w '{path.parent}'" in text


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "experiment" / "train.pkl"
    digest = write_train(pickle_train(len), path)
    path.chmod(0o622)
    with pytest.raises(ss.TrainError, match=r"train.pkl can be written by others \(mode 622\)"):
        read_train(path, digest)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_belongs_to_another_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "experiment" / "train.pkl"
    digest = write_train(pickle_train(len), path)
    place = path if what == "file" else path.parent
    os.chown(place, 12345, -1)
    with pytest.raises(ss.TrainError, match=r"belongs to user 12345, not to you \(0\): refused"):
        read_train(path, digest)


def test_what_the_driver_has_not_written_is_refused(tmp_path: Path) -> None:
    """Whose it is was looked at a moment before: it may have been exchanged since."""
    path = tmp_path / "experiment" / "train.pkl"
    digest = write_train(pickle_train(len), path)
    write_train(pickle_train(max), path)
    with pytest.raises(
        ss.TrainError, match=r"train\.pkl is not what the driver wrote: someone has"
    ):
        read_train(path, digest)


def test_a_folder_that_this_node_does_not_see_is_said(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "train.pkl"
    with pytest.raises(ss.TrainError) as unseen:
        read_train(path, "")
    assert str(unseen.value) == (
        f"this node does not see {path.parent}: is it on a disk that only the driver's node has? "
        "Use a local_dir that all nodes of the job share"
    )


# --- what train imports ---------------------------------------------------------------------------


def write_modules(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    write_modules(tmp_path, "ahead_a", "ahead_b", "ahead_c", "ahead_pkg/__init__", "ahead_pkg/sub")
    (tmp_path / "ahead_broken.py").write_text("raise RuntimeError('not here')\n")
    (tmp_path / "ahead_exits.py").write_text("import sys\nsys.exit('needs a GPU')\n")
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def define(source: str) -> Callable[[dict[str, Any]], Any]:
    """Return `train` of a module of this source, and with `helper` in it."""
    namespace: dict[str, Any] = {"__name__": "user_script"}
    helper = "def helper(*_):\n    import ahead_b as b\n    return b\n"
    exec(helper + textwrap.dedent(source), namespace)
    train: Callable[[dict[str, Any]], Any] = namespace["train"]
    return train


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            """
            def train(cfg):
                "What it does."
                import ahead_a
                from ahead_pkg import sub, missing
                import ahead_pkg.sub as other
                import ahead_broken, ahead_exits, ahead_that_is_not_there
                def inner():
                    import ahead_c
                return helper(cfg["x"], inner)
            """,
            {"ahead_a", "ahead_b", "ahead_pkg", "ahead_pkg.sub"},
        ),
        (
            """
            def train(cfg):
                try:
                    import ahead_a
                except ImportError:
                    import ahead_c
            """,
            {"ahead_a"},
        ),
        (
            """
            def train(cfg):
                import os, ahead_a
                os.environ["AHEAD"] = "1"
                import ahead_b
            """,
            {"ahead_a"},
        ),
        (
            """
            def train(cfg):
                import ahead_a
                if cfg["engine"] == "b":
                    import ahead_b
                elif cfg["engine"] == "c":
                    return helper()
            """,
            {"ahead_a"},
        ),
        (
            """
            def set_up(): ...
            def train(cfg):
                set_up()
                import ahead_b
                helper()
            """,
            set(),
        ),
        (
            """
            def train(cfg):
                print(helper)
                import ahead_a
            """,
            set(),
        ),
        (
            """
            def train(cfg):
                with open("file"):
                    import ahead_a
            """,
            set(),
        ),
        (
            """
            def train(cfg):
                import ahead_a
                while cfg:
                    import ahead_b
            """,
            {"ahead_a"},
        ),
    ],
)
@pytest.mark.usefixtures("modules")
def test_imported_ahead_is_what_train_begins_with(source: str, expected: set[str]) -> None:
    before = set(sys.modules)
    import_ahead(define(source))
    assert {name for name in set(sys.modules) - before if name.startswith("ahead")} == expected


@pytest.mark.parametrize("train", [len, print, type("T", (), {})(), int])
def test_what_has_no_body_is_left_alone(train: Any) -> None:
    import_ahead(train)


CRASHES = "import ctypes\nctypes.string_at(0)\n"
SWEEP = """
import slurm_sweeps as ss
def train(cfg):
    {before}
        import crashes
    ss.log({{"loss": 1.0}}, 1)
ss.Experiment(train, {{"x": ss.Uniform(0, 1)}}, "exp").run(n_trials=1)
"""


def test_an_import_that_crashes_is_left_where_it_is_not_meant(scripts: Scripts) -> None:
    scripts.write(CRASHES, "crashes.py")
    scripts.run(SWEEP.format(before="if cfg['x'] > 1:"))


def test_an_import_that_crashes_the_worker_is_named(scripts: Scripts) -> None:
    scripts.write(CRASHES, "crashes.py")
    said = scripts.run(SWEEP.format(before="import crashes\n    if cfg:"), code=1).stderr
    assert "no worker could be started" in said
    assert f'File "{scripts.folder / "crashes.py"}", line 2 in <module>' in said
