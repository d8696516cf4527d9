"""The two processes of `make test`: what becomes of their exit statuses, and of Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from cluster_tools import wait_until

TOOL = Path(__file__).parents[1] / "tools" / "run-tests"

#: In the place of a Python: what is asked of pytest decides how it ends.
STAND_IN = """#!/bin/sh
case "$*" in
    *--last-failed*) echo once more; exit ${CODE_AGAIN:-0} ;;
    *--cluster=none*) echo others; exit ${CODE_OTHERS:-0} ;;
    *-k\\ crash*) kill -KILL $$ ;;
    *) echo cluster; exit ${CODE_CLUSTER:-0} ;;
esac
"""


@pytest.fixture
def tool() -> ModuleType:
    loader = SourceFileLoader("run_tests", str(TOOL))
    spec = spec_from_loader("run_tests", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((0, 0), 0),
        ((0, 5), 0),
        ((5, 0), 0),
        ((5, 5), 5),
        ((0, 1), 1),
        ((1, 5), 1),
        ((3, 0), 1),
        ((0, -11), 1),
        ((-9, 0), 1),
        ((-9, 5), 1),
    ],
)
def test_only_no_tests_is_forgiven_and_only_one(
    tool: ModuleType, codes: tuple[int, int], expected: int
) -> None:
    assert tool.judge(list(codes)) == expected


@pytest.mark.parametrize(
    ("arguments", "codes", "code", "said"),
    [
        ((), {}, 0, ["others", "cluster"]),
        ((), {"CODE_CLUSTER": "1"}, 1, ["others", "cluster"]),
        (("-q",), {"CODE_OTHERS": "2"}, 1, ["others"]),
        (("-k", "crash"), {}, 1, ["others"]),
    ],
)
def test_both_are_run(
    tmp_path: Path, arguments: tuple[str, ...], codes: dict[str, str], code: int, said: list[str]
) -> None:
    done = run(tmp_path, *arguments, **codes)
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (code, said)


def test_what_was_interrupted_is_not(tmp_path: Path) -> None:
    done = run(tmp_path, "-q", first=("--again",), CODE_OTHERS="2")
    assert (done.returncode, done.stdout, done.stderr) == (1, "others\n", "")


@pytest.mark.parametrize(
    ("codes", "code", "again"),
    [
        ({"CODE_OTHERS": "1"}, 0, 1),
        ({"CODE_OTHERS": "1", "CODE_CLUSTER": "1"}, 0, 2),
        ({"CODE_OTHERS": "1", "CODE_AGAIN": "1"}, 1, 1),
        ({"CODE_OTHERS": "1", "CODE_CLUSTER": "3"}, 1, 1),  # an internal error is none of a test
    ],
)
def test_what_has_failed_is_run_once_more(
    tmp_path: Path, codes: dict[str, str], code: int, again: int
) -> None:
    done = run(tmp_path, first=("--again",), **codes)
    assert (done.returncode, done.stdout.count("\nonce more\n")) == (code, again)


def run(
    folder: Path, *arguments: str, first: tuple[str, ...] = (), **codes: str
) -> subprocess.CompletedProcess[str]:
    stand_in = folder / "python"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    command = [sys.executable, str(TOOL), *first, str(stand_in), *arguments]
    env = os.environ | codes
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


def test_ctrl_c_is_waited_for(tmp_path: Path) -> None:
    """Whoever takes a second to clean up has it; the terminal sends the signal to all."""
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys, time\n"
        "name = 'others' if '--cluster=none' in sys.argv else 'cluster'\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "try:\n"
        "    (folder / f'{name}.there').touch()\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(1)\n"
        "    (folder / f'{name}.cleaned').touch()\n"
        "    sys.exit(2)\n"
    )
    stand_in.chmod(0o755)
    command = [sys.executable, str(TOOL), str(stand_in)]
    process = subprocess.Popen(command, start_new_session=True)
    wait_until(lambda: len(list(tmp_path.glob("*.there"))) == 2, 60, lambda: "they never begin")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 1
    assert len(list(tmp_path.glob("*.cleaned"))) == 2
