"""Where a live view is shown: a file, a terminal, a notebook; and that it does no harm."""

from __future__ import annotations

import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from cluster_tools.processes import wait_until
from cluster_tools.requirement import require
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.storage.lease import build_owner
from slurm_sweeps.storage.records import StateRecord
from slurm_sweeps.storage.writer import write_records
from slurm_sweeps.trial import Status
from slurm_sweeps.views.screens import (
    LiveView,
    NotebookScreen,
    PlainScreen,
    TerminalScreen,
    choose_screen,
    draw_html,
)
from slurm_sweeps.views.summary import Summary, read_summary
from views_samples import NASTY, START, write_foreign, write_sample

SUMMARY = Summary("β sweep", "running", counts={Status.COMPLETED: 3}, n_trials=9, started_at=START)

SCRIPT = """
import sys, time
import slurm_sweeps as ss

def train(cfg):
    if cfg["x"] > 0.9:
        raise ValueError("too large")
    for i in range(1, 5):
        time.sleep(0.02)
        ss.log({"loss": cfg["x"] / i}, i)

if __name__ == "__main__":
    cfg = {"x": ss.Uniform(0, 1), "nested": {"y": ss.LogUniform(1e-6, 1)}}
    asha = ss.ASHA("loss", "min", max_t=4)
    experiment = ss.Experiment(train, cfg, name="live", asha=asha, seed=1)
    experiment.run(int(sys.argv[1]), 2, summary_interval_in_sec=0.2)
    print("the script goes on")
"""


def test_a_file_gets_plain_lines_and_nothing_twice() -> None:
    stream = io.StringIO()
    screen = choose_screen(stream, True)
    assert isinstance(screen, PlainScreen)
    screen.show(SUMMARY, START + 10)
    screen.show(SUMMARY, START + 20)  # only the clock went on
    screen.notify("a message")
    assert stream.getvalue().count("β sweep: running, 3 of 9 done (33%)") == 1
    assert "a message\n" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    TerminalScreen(stream, True).notify("a message that says something")
    assert stream.getvalue() == "a message that says\nsomething\n"


def test_a_notebook_s_own_colour_is_that_of_plain_text() -> None:
    page = draw_html(SUMMARY, True, START)
    assert "running" in page
    assert "color: #000000" not in page  # it could not be read on a dark page


def test_a_stream_that_knows_no_greek() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")
    PlainScreen(stream, True).show(SUMMARY, START)
    assert b"? sweep: running" in raw.getvalue()


def test_a_stream_that_is_gone_harms_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    PlainScreen(stream, True).show(SUMMARY, START)
    screen = TerminalScreen(stream, True)
    screen.show(SUMMARY, START)
    screen.close()


def test_a_notebook_that_is_gone_harms_nothing() -> None:
    def display(*_: object, **__: object) -> None:
        raise RuntimeError("the kernel's connection is closed")

    class Handle:
        update = staticmethod(display)

    NotebookScreen(display, True).show(SUMMARY, START)
    screen = NotebookScreen(lambda *_, **__: Handle(), True)
    screen.show(SUMMARY, START)
    screen.show(SUMMARY, START + 1)


@pytest.mark.parametrize("kind", [PlainScreen, TerminalScreen])
def test_a_foreign_text_does_not_steer_the_terminal(
    kind: type[PlainScreen | TerminalScreen], tmp_path: Path
) -> None:
    layout = write_foreign(tmp_path, "0123456789a")
    with Database.open(layout.database, read_only=True) as database:
        summary = read_summary(database, layout, 10, START)
    stream = io.StringIO()
    screen = kind(stream, True)
    screen.show(summary, START)
    screen.close()
    assert "forged line" in stream.getvalue()
    assert not re.search("^forged", stream.getvalue(), flags=re.MULTILINE)
    screen.notify(NASTY)
    assert not re.search(r"\x1b|\x9b|\x07", stream.getvalue())


def test_a_locked_database_is_tried_again(tmp_path: Path) -> None:
    layout = write_sample(tmp_path, statuses=[Status.COMPLETED])
    view = LiveView(layout.database, "sample", stream=io.StringIO())
    with sqlite3.connect(layout.database) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert view.refresh() is None
    other.close()
    summary = view.refresh()
    assert summary is not None
    assert summary.done == 1


@pytest.fixture
def needs_tmux() -> None:
    """Skip without tmux; in continuous integration (`CI=true`), fail."""
    reason = None if shutil.which("tmux") else "tmux is missing (apt-get install tmux)"
    require(reason, os.environ, "terminal")


class Terminal:
    """A real terminal of tmux, with a command in it."""

    def __init__(self, folder: Path, width: int, height: int, command: list[str]) -> None:
        self._socket = f"slurm-sweeps-test-{uuid.uuid4().hex}"
        self._run("new-session", "-d", "-x", str(width), "-y", str(height), "-c", str(folder), "sh")
        self._run("set-option", "-g", "remain-on-exit", "on")
        self.type(" ".join(command) + "; echo code=$?")

    def _run(self, *arguments: str) -> str:
        argv = ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return done.stdout

    def type(self, text: str) -> None:
        self._run("send-keys", text, "Enter")

    def press(self, key: str) -> None:
        self._run("send-keys", key)

    def read(self) -> str:
        return self._run("capture-pane", "-p")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._run("kill-server")


@pytest.mark.usefixtures("needs_tmux")
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_a_terminal_shows_one_table_in_place(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "sweep.py").write_text(SCRIPT)
    with Terminal(tmp_path, width, height, [sys.executable, "sweep.py", "40"]) as terminal:
        wait_until(lambda: "code=0" in terminal.read(), 60, terminal.read)
        text = terminal.read()
    assert text.count("live  completed") == 1
    assert "40 of 40 done (100%)" in text
    assert "━━━" in text
    assert re.search(r"best loss \S+ at iteration \d, trial [0-9a-f]{12}", text)
    assert "nested.y" in text
    assert "newest failure, trial" in text
    assert "ValueError: too large" in text
    assert text.index("newest failure") < text.index("the script goes on")
    assert len([line for line in text.splitlines() if " completed " in line]) <= 11


@pytest.mark.usefixtures("needs_tmux")
def test_ctrl_c_leaves_the_last_state_readable(tmp_path: Path) -> None:
    (tmp_path / "sweep.py").write_text(SCRIPT)
    with Terminal(tmp_path, 80, 24, [sys.executable, "sweep.py", "100000"]) as terminal:
        wait_until(lambda: " pruned" in terminal.read(), 60, terminal.read)
        terminal.press("C-c")
        wait_until(lambda: "code=130" in terminal.read(), 60, terminal.read)
        text = terminal.read()
    assert "SIGINT: starting nothing new" in text
    assert "live  stopped" in text
    assert "of 100000 done" in text
    assert "Traceback" not in text


def test_a_notebook_has_one_table_that_is_updated_and_pictures_that_anything_shows(
    tmp_path: Path,
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(
            "import os, sys, time, slurm_sweeps as ss\n"
            "assert 'inline' in os.environ['MPLBACKEND']\n"
            "sys.modules['nbformat'] = None  # what a kernel often lacks\n"
            "def train(cfg):\n"
            "    for i in range(1, 4):\n"
            "        time.sleep(0.02)\n"
            "        ss.log({'loss': cfg['x'] / i}, i)\n"
            "    assert not {'MPLBACKEND', 'FORCE_COLOR'} & os.environ.keys(), os.environ\n"
            "asha = ss.ASHA('loss', 'min', max_t=4)\n"
            "experiment = ss.Experiment(train, {'x': ss.Uniform(0, 1)}, name='cell', asha=asha)\n"
            "result = experiment.run(30, 2, summary_interval_in_sec=0.2)\n"
        ),
        nbformat.v4.new_code_cell("result.plot_learning_curves()"),
        nbformat.v4.new_code_cell("result.best_trial('none')"),
    ]
    client = nbclient.NotebookClient(
        notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert not [o for o in notebook.cells[0].outputs if o.output_type == "error"]
    tables = [o for o in notebook.cells[0].outputs if "text/html" in o.get("data", {})]
    assert len(tables) == 1
    assert "30 of 30 done (100%)" in tables[0]["data"]["text/html"]
    assert "cell: completed" in tables[0]["data"]["text/plain"]
    assert "failed" not in tables[0]["data"]["text/plain"]
    (picture,), (error,) = (cell.outputs for cell in notebook.cells[1:])
    assert set(picture["data"]) == {"application/vnd.plotly.v1+json", "text/html", "text/plain"}
    assert "plotly" in picture["data"]["text/html"]
    assert "say whether a low or a high" in error["evalue"]
    assert "choose_goal" not in "".join(error["traceback"])  # a frame that says users nothing


def test_a_notebook_keeps_the_result_when_it_is_interrupted_and_shows_it_again(
    tmp_path: Path,
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook()
    cells = [
        """
import os, pathlib, signal, threading, time
import slurm_sweeps as ss

def train(cfg):
    for i in range(1, 10**6):
        ss.log({"loss": cfg["x"] / i}, i)
        (ss.trial_dir() / "logged").touch()
        if i > 100 and os.environ.get("SHORT"):
            return
        time.sleep(0.001)

def interrupt():
    while not list(pathlib.Path().glob("slurm-sweeps/cell/*/logged")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

cfg = {"x": ss.Uniform(0, 1)}
threading.Thread(target=interrupt).start()
result = ss.Experiment(train, cfg, name="cell").run(2, 2)
print("statuses", {str(trial.status) for trial in result.trials})
""",
        """
os.environ["SHORT"] = "1"
experiment = ss.Experiment(train, cfg, name="cell", restore=True)
experiment.run(2, 2)
""",
        "experiment.run(2, 2)",
    ]
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    first, _, last = ([str(each) for each in cell.outputs] for cell in notebook.cells)
    assert any("statuses {'interrupted'}" in output for output in first)
    assert any("cell: completed, 2 of 2 done" in output for output in last)


def test_watch_waits_for_a_driver_and_between_two_jobs(tmp_path: Path) -> None:
    layout, waited = Layout(tmp_path, "sample"), []

    def set_state(state: str) -> None:
        with Database.open(layout.database) as database:
            key = database.experiment("sample").id
            write_records(database, key, [StateRecord(state, "time limit")])
            database.take_lease(key, build_owner(), time.time(), None)

    class Stream(io.StringIO):
        """Has happen what is waited for; a driver that was seen at work then ends."""

        def write(self, text: str) -> int:
            if "waiting for a driver to begin" in text:
                waited.append(text)
                if len(waited) == 1:
                    write_sample(tmp_path, statuses=[Status.COMPLETED], state="stopped")
                else:
                    set_state("running")
            elif "sample: running" in text:
                set_state("stopped" if len(waited) == 2 else "failed")
            return super().write(text)

    view = LiveView(layout.database, "sample", interval_s=0.01, stream=Stream())
    assert view.watch().state == "failed"
    begun = ["there is no database", "stopped: waiting", "stopped (time limit): waiting"]
    assert "current folder\nwaiting for a driver to begin" in waited[0]
    assert [told.startswith(words) for told, words in zip(waited, begun, strict=True)] == [True] * 3


def test_watching_costs_the_database_little(tmp_path: Path) -> None:
    layout = write_sample(tmp_path, statuses=[Status.COMPLETED] * 3)
    view = LiveView(layout.database, "sample", interval_s=0.0, stream=io.StringIO())
    assert view._choose_pause_s(0.1) == pytest.approx(5.0)  # a fiftieth of the time at the most
