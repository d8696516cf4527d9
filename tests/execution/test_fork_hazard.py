"""Whether a process can be forked, judged in processes that hold what may forbid it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slurm_sweeps.execution import fork_hazard
from slurm_sweeps.execution.fork_hazard import find_fork_hazard
from slurm_sweeps.execution.train_function import load_train, pickle_train, write_train


def run_python(code: str) -> list[str]:
    """Run a script in a process of its own; return the lines it prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_python_thread_is_a_hazard() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="prefetcher")
    thread.start()
    try:
        hazard = find_fork_hazard()
    finally:
        release.set()
        thread.join()
    assert hazard is not None
    assert hazard.startswith("importing what train needs has started threads (")
    assert "prefetcher" in hazard


def test_an_open_accelerator_is_a_hazard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kfd"
    device.write_text("")
    monkeypatch.setattr(fork_hazard, "ACCELERATORS", (str(device),))
    with device.open():
        hazard = find_fork_hazard()
    assert hazard == f"importing what train needs has opened the accelerator {device}"


def test_a_gpu_that_is_open_without_cuda_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NVML leaves it. With CUDA at work: `tests/gpu`."""
    device = tmp_path / "nvidiactl"
    device.write_text("")
    monkeypatch.setattr(fork_hazard, "NVIDIA", str(tmp_path / "nvidia"))
    monkeypatch.setattr(fork_hazard, "ACCELERATORS", (fork_hazard.NVIDIA,))
    with device.open():
        assert find_fork_hazard() is None


NATIVE_THREAD = """
import ctypes, os
from slurm_sweeps.execution.fork_hazard import find_fork_hazard

print(find_fork_hazard())
libc = ctypes.CDLL(None)
pause = ctypes.cast(libc.pause, ctypes.c_void_p)
libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, pause, None)
print(find_fork_hazard())
(other,) = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
with open(f"/proc/self/task/{other}/comm", "w") as file:
    file.write("cuda00001800007")  # what NVML calls its own
print(find_fork_hazard(), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="native threads are seen on Linux only")
def test_a_native_thread_is_a_hazard_but_for_that_of_nvml() -> None:
    before, with_one, with_that_of_nvml = run_python(NATIVE_THREAD)
    assert before == with_that_of_nvml == "None"
    assert with_one == "importing what train needs has started 1 native threads"


CLEAN = """
import numpy, sys
import numpy.linalg
from slurm_sweeps.execution.fork_hazard import find_fork_hazard
numpy.linalg.svd(numpy.ones((300, 300)))  # OpenBLAS starts its threads, if it has more than one
print(find_fork_hazard())
"""


def test_numpy_is_no_hazard() -> None:
    assert run_python(CLEAN) == ["None"]


@pytest.mark.parametrize(
    ("ahead", "users", "expected"),
    [
        (True, None, "1"),
        (True, "0", "0"),
        (False, None, None),
    ],
)
def test_pytorch_is_asked_to_leave_cuda_alone_while_importing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ahead: bool,
    users: str | None,
    expected: str | None,
) -> None:
    """Unless the user has an opinion, or the trial imports by itself."""
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    monkeypatch.setenv(name, "to be restored")
    if users is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, users)
    write_train(pickle_train(len), tmp_path / "private" / "train.pkl")
    load_train(tmp_path / "private" / "train.pkl", ahead)
    assert os.environ.get(name) == expected
