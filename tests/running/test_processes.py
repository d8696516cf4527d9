"""How an attempt ended, from what is known of it; and that its children end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.processes import read_process
from slurm_sweeps.running.ends import judge
from slurm_sweeps.running.processes import build_argv

COMPLETED = {"kind": "ended", "how": "completed"}
FAILED = {"kind": "ended", "how": "failed", "error_type": "ValueError", "message": "no"}


@pytest.mark.parametrize(
    ("said", "told", "exit_code", "oom", "how"),
    [
        (COMPLETED, None, 0, False, "completed"),
        (FAILED, None, 1, False, "failed"),
        (FAILED, None, 1, True, "failed"),
        (None, None, 0, False, "completed"),  # os._exit(0) in train
        (None, None, 3, False, "failed"),
        (None, None, -signal.SIGKILL, False, "lost"),
        (None, None, -signal.SIGKILL, True, "lost"),
        (None, None, -signal.SIGTERM, False, "lost"),
        (None, None, -signal.SIGSEGV, False, "failed"),
        (None, None, -signal.SIGABRT, True, "failed"),
        # What was said counts, whatever happened to the process afterwards.
        (COMPLETED, None, -signal.SIGKILL, True, "completed"),
        ({"how": "interrupted"}, "stop", -signal.SIGTERM, False, "interrupted"),
        (FAILED, "stop", 1, False, "failed"),
        # Told to leave, the trial is pruned, however it took that.
        (None, "prune", 0, False, "pruned"),
        (COMPLETED, "prune", 0, False, "pruned"),
        (FAILED, "prune", 1, False, "pruned"),
        (None, "prune", -signal.SIGKILL, True, "pruned"),
        (COMPLETED, "pause", 0, False, "pruned"),
        (None, "stop", -signal.SIGKILL, False, "interrupted"),
        (None, "stop", -signal.SIGTERM, False, "interrupted"),
        (None, "stop", 1, False, "failed"),
        (None, "stop", -signal.SIGSEGV, False, "failed"),
    ],
)
def test_how_an_attempt_ended(
    said: Any, told: str | None, exit_code: int, oom: bool, how: str
) -> None:
    assert judge(said, told, exit_code, oom)["how"] == how


@pytest.mark.parametrize(
    ("exit_code", "oom", "told", "error_type", "message"),
    [
        (3, False, None, "ExitStatus", "the trial's process exited with status 3"),
        (-11, False, None, "SIGSEGV", "crashed (SIGSEGV, Segmentation fault)"),
        (-9, False, None, "SIGKILL", "the trial's process was killed by SIGKILL"),
        (-9, True, None, "OutOfMemory", "the kernel killed the trial's process: out of memory"),
        (-15, True, None, "SIGTERM", "was killed by SIGTERM"),
        (-9, False, "stop", "SIGKILL", "ended by SIGKILL when told to stop"),
        (-signal.SIGRTMIN - 1, False, None, "SIGRTMIN+1", "was killed by SIGRTMIN+1"),
    ],
)
def test_what_is_said_about_it(
    exit_code: int, oom: bool, told: str | None, error_type: str, message: str
) -> None:
    end = judge(None, told, exit_code, oom)
    assert end["error_type"] == error_type
    assert message in end["message"]


SCRIPT = """
import os, sys
from slurm_sweeps.running import processes
processes.adopt_orphans()
read, write = os.pipe()
pids = []
if os.fork() == 0:  # a daemon: its own session, its parent gone
    os.setsid()
    if os.fork() == 0:
        if os.fork():
            os.write(write, b"%d\\n" % os.getpid())
        else:
            os.write(write, b"%d\\n" % os.getpid())
        os.close(write)
        os.execvp("sleep", ["sleep", "600"])
    os._exit(0)
os.close(write)
pids = open(read).read().split()
processes.kill_children()
print(*pids)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")
@pytest.mark.processes
def test_children_that_became_daemons_are_killed_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    assert [pid for pid in pids if read_process(pid) is not None] == []
    assert os.getpid() not in pids


PLANTED = """
import os, subprocess, sys
from slurm_sweeps.running.processes import build_argv
modules = ("running.host", "running.trial_process", "running.step_place", "cli")
code = "".join(f"import slurm_sweeps.{name}; " for name in modules)
show = code + "print(*[n for n, m in sys.modules.items() if getattr(m, '__file__', None)])"
names = subprocess.run(build_argv(show), capture_output=True, text=True, check=True).stdout.split()
os.makedirs("shared")
names = {name.partition(".")[0] for name in names} - {"slurm_sweeps"} | {"linecache"}
assert {"json", "click", "socket", "cloudpickle"} <= names
for name in names:
    with open(f"shared/{name}.py", "w") as file:
        file.write("raise SystemExit('planted ' + __name__)")
os.chdir("shared")
argv = build_argv(code + "print(sys.argv[1:])", "a")
done = subprocess.run(argv, capture_output=True, text=True)
assert (done.stdout, done.stderr) == ("['a']\\n", ""), done
"""


@pytest.mark.processes
def test_no_module_of_the_current_folder_is_taken_for_one_of_ours(tmp_path: Path) -> None:
    script = tmp_path / "home" / "script.py"
    script.parent.mkdir()
    script.write_text(PLANTED)
    subprocess.run([sys.executable, script], cwd=tmp_path, timeout=60, check=True)


UNENDING = """
import os, subprocess, time
from slurm_sweeps.running import processes
children = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
hangs, spared, mortal = (child.pid for child in children)
kill, processes.os.kill = os.kill, lambda pid, number: pid == hangs or kill(pid, number)
began = time.monotonic()
assert processes.kill_children({spared}, wait_s=0.3) == {hangs}
assert 0.3 <= time.monotonic() - began < 30
assert processes.list_children() == [hangs, spared]
assert processes.kill_children({spared, hangs}) == set()
processes.os.kill = kill
assert processes.kill_children() == set()
assert processes.list_children() == []
"""


@pytest.mark.processes
def test_a_child_that_does_not_end_is_not_waited_for_for_ever() -> None:
    subprocess.run([sys.executable, "-c", UNENDING], timeout=60, check=True)


@pytest.mark.processes
def test_another_python_at_the_path_of_the_drivers_says_so() -> None:
    argv = [
        word.replace(str(sys.version_info[:2]), "(2, 7)") for word in build_argv("print('ran')")
    ]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{sys.executable} is another Python than the driver's\n"
