"""The processes of `make test`: their share, exit statuses, what is run once more, and Ctrl-C."""

from __future__ import annotations

import os
import shutil
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

#: The test of `TESTS` that fails once, among those of the cluster.
UNSTEADY = "test_cluster.py::test_unsteady"

#: In the place of a Python: what is asked of pytest decides how it ends.
STAND_IN = """#!/bin/sh
case "$*" in
    *-k\\ crash*) kill -KILL $$ ;;
    *--cluster-first*) echo cluster; exit ${CODE_CLUSTER:-0} ;;
    *) echo others; exit ${CODE_OTHERS:-0} ;;
esac
"""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loader = SourceFileLoader("run_tests", str(TOOL))
    spec = spec_from_loader("run_tests", loader)
    assert spec is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
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
        ((), {}, 0, ["cluster", "others"]),
        ((), {"CODE_CLUSTER": "1"}, 1, ["cluster", "others"]),
        ((), {"CODE_OTHERS": "1"}, 1, ["cluster", "others"]),
        (("-q",), {"CODE_OTHERS": "2"}, 1, ["others"]),
        (("-k", "crash"), {}, 1, []),
    ],
)
def test_all_are_run(
    tmp_path: Path, arguments: tuple[str, ...], codes: dict[str, str], code: int, said: list[str]
) -> None:
    done = run(tmp_path, *arguments, **codes)
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (code, said)


@pytest.mark.parametrize(("beside", "tests", "code"), [("0", "5", 5), ("5", "0", 1)])
def test_what_is_run_beside_is_no_test_and_must_not_fail(
    tmp_path: Path, beside: str, tests: str, code: int
) -> None:
    first = ("--beside", f"sh -c 'echo beside; exit {beside}'")
    done = run(tmp_path, first=first, CODE_CLUSTER=tests, CODE_OTHERS=tests)
    assert (done.returncode, done.stdout) == (code, "cluster\nothers\nbeside\n"), done.stderr


def test_what_was_interrupted_is_not(tmp_path: Path) -> None:
    done = run(tmp_path, "-q", first=("--again", str(tmp_path / "told")), CODE_OTHERS="2")
    assert (done.returncode, done.stdout, done.stderr) == (1, "others\n", "")


def run(
    folder: Path, *arguments: str, first: tuple[str, ...] = (), **codes: str
) -> subprocess.CompletedProcess[str]:
    stand_in = folder / "python"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return call(folder, *first, str(stand_in), *arguments, **codes)


def call(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "--processes", "2", *words]
    # No plugin that happens to be installed is waited for.
    environ = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | env
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environ, timeout=60
    )


#: A project of its own, whose tests in `test_cluster.py` are those of the cluster.
CONFTEST = """
import pathlib, sys
sys.path.append({tests!r})
from sharing import Share

def pytest_addoption(parser):
    parser.addoption("--share", type=pathlib.Path)
    parser.addoption("--cluster-first", action="store_true")

def pytest_configure(config):
    folder, first = config.getoption("--share"), config.getoption("--cluster-first")
    if folder is not None:
        config.pluginmanager.register(Share(folder, first, lambda path: False))
"""
TESTS = {
    "good": "def test_good(): pass\n",
    "bad": "def test_bad(): raise ValueError\n",
    "unsteady": (
        "def test_unsteady(request):\n"
        "    before = request.path.with_suffix('.before')\n"
        "    there = before.exists()\n"
        "    before.touch()\n"
        "    assert there, 'the first time'\n"
    ),
    "crash": "def test_crash():\n    import os\n    os._exit(3)\n",
    # Passes when both files are begun: by two processes, as neither test is over then.
    "meet": (
        "def test_meet(request):\n"
        "    import time\n"
        "    request.path.with_suffix('.there').touch()\n"
        "    end = time.monotonic() + 50\n"
        "    while len(list(request.path.parent.glob('*.there'))) < 2:\n"
        "        assert time.monotonic() < end, 'one process has both'\n"
        "        time.sleep(0.01)\n"
    ),
}


def write_project(folder: Path, others: list[str], cluster: list[str]) -> None:
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = cluster\n")
    (folder / "conftest.py").write_text(CONFTEST.format(tests=str(Path(__file__).parent)))
    (folder / "test_others.py").write_text("".join(TESTS[name] for name in others))
    marked = "import pytest\npytestmark = pytest.mark.cluster\n"
    (folder / "test_cluster.py").write_text(marked + "".join(TESTS[name] for name in cluster))


@pytest.mark.parametrize(
    ("others", "beside", "code", "named"),
    [
        (["good"], ["bad"], 1, []),
        (["good", "unsteady"], ["unsteady"], 0, ["test_others.py::test_unsteady", UNSTEADY]),
        (["bad", "unsteady"], ["good"], 1, ["test_others.py::test_unsteady"]),
        (["meet", "crash"], ["meet", "unsteady"], 1, [UNSTEADY]),
    ],
)
def test_what_fails_once_is_named(
    tmp_path: Path, others: list[str], beside: list[str], code: int, named: list[str]
) -> None:
    write_project(tmp_path, others, beside)
    told = tmp_path / "told"
    done = call(tmp_path, "--again", str(told), sys.executable)
    assert done.returncode == code, done.stdout + done.stderr
    lines = told.read_text().splitlines(keepends=True) if told.exists() else []
    assert sorted(line.strip() for line in lines) == sorted(named)
    if named:
        assert done.stdout.endswith("\nFailed once, passed when run again:\n" + "".join(lines))


def test_each_test_is_run_once_and_what_its_file_shares_is_made_once(tmp_path: Path) -> None:
    write_project(tmp_path, ["good"], ["good"])
    names = ["one/test_a", "one/test_b", "two/test_c", "two/deep/test_d", "test_e"]
    tell = (
        f"    with open({str(tmp_path / 'told')!r}, 'a') as file:\n        print({{}}, file=file)\n"
    )
    for name in names:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "import pytest\n@pytest.fixture(scope='module')\ndef shared():\n"
            + tell.format(f"'{name} begins'")
            + "    yield\n"
            + tell.format(f"'{name} ends'")
            + "@pytest.mark.parametrize('i', [1, 2])\ndef test(shared, i):\n"
            + tell.format(f"'{name}', i")
        )
    done = call(tmp_path, sys.executable)
    assert done.returncode == 0, done.stdout
    told = (tmp_path / "told").read_text().splitlines()
    for name in names:
        own = [line.removeprefix(f"{name} ") for line in told if line.startswith(f"{name} ")]
        assert own == ["begins", "1", "2", "ends"]
    assert len(told) == 4 * len(names)


def test_the_cluster_alone_is_treated_alike(tmp_path: Path) -> None:
    write_project(tmp_path, ["bad"], ["unsteady"])
    told = tmp_path / "told"
    told.write_text("  from another run\n")
    done = call(tmp_path, "--again", str(told), "--only", "cluster", sys.executable)
    assert done.returncode == 0, done.stdout
    assert "test_bad" not in done.stdout
    assert told.read_text() == f"  from another run\n  {UNSTEADY}\n"


def test_what_failed_some_time_ago_does_not_count(tmp_path: Path) -> None:
    write_project(tmp_path, ["bad", "unsteady"], ["good"])
    assert call(tmp_path, sys.executable).returncode == 1
    told = tmp_path / "told"
    done = call(tmp_path, "--again", str(told), sys.executable, "-k", "unsteady or test_cluster")
    assert (done.returncode, told.exists()) == (0, False), done.stdout


def test_ci_names_them_at_its_very_end(tmp_path: Path) -> None:
    """Whatever becomes of the rest, and though another run has printed much since."""
    ci = tmp_path / ".ci" / "run"
    ci.parent.mkdir()
    shutil.copy(TOOL.parents[1] / ".ci" / "run", ci)
    make = tmp_path / "make"
    make.write_text(
        '#!/bin/sh\necho "$@"\n'
        "for last; do :; done; file=${last#AGAIN=--again }\n"
        'echo "  $1 was unsteady" >>"$file"\n'
        "exit $CODE\n"
    )
    make.chmod(0o755)
    for code, runs in ((0, ["test", "test-slurm24", "test-heavy"]), (1, ["test"])):
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code)}
        done = subprocess.run([ci], capture_output=True, text=True, env=env, timeout=60)
        assert bool(done.returncode) is bool(code), done.stderr
        said = "".join(f"  {name} was unsteady\n" for name in runs)
        assert done.stdout.endswith("\nFailed once and passed when run again; mend them:\n" + said)


def test_ctrl_c_is_waited_for(tmp_path: Path) -> None:
    """Whoever takes a second to clean up has it; the terminal sends the signal to all."""
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f"#!{sys.executable}\n"
        "import os, pathlib, sys, time\n"
        "name = os.getpid()\n"
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
    command = [sys.executable, str(TOOL), "--processes", "3", str(stand_in)]
    process = subprocess.Popen(command, start_new_session=True)
    wait_until(
        lambda: len(list(tmp_path.glob("*.there"))) == 3,
        60,
        lambda: "they never begin",
    )
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 1
    assert len(list(tmp_path.glob("*.cleaned"))) == 3
