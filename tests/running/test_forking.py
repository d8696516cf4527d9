"""Whether a process can be forked, judged in processes that hold what may forbid it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hazards import find_stand_in

from slurm_sweeps.running.train import load_train, pickle_train, write_train


def run_python(code: str, *arguments: str) -> list[str]:
    """Run a script in a process of its own; return the lines it prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


THREAD = """
import threading
from slurm_sweeps.running.forking import find_fork_hazard

threading.Thread(target=threading.Event().wait, name="prefetcher", daemon=True).start()
print(find_fork_hazard())
"""


def test_a_python_thread_is_a_hazard() -> None:
    assert run_python(THREAD) == ["importing what train needs has started threads (prefetcher)"]


#: Files stand for the devices, and an extension of NumPy's, by other names, for the libraries.
OPEN_DEVICE = """
import ctypes, shutil, sys
from pathlib import Path
from slurm_sweeps.running import forking

stand_in, folder, device, *libraries = sys.argv[1:]
forking.NVIDIA = folder + "/nvidia"
forking.ACCELERATORS = (forking.NVIDIA, folder + "/kfd")
for library in libraries:
    ctypes.CDLL(shutil.copy(stand_in, Path(folder, library)))
file = open(Path(folder, device), "w")
print(forking.find_fork_hazard())
print(forking.has_looked_for_gpus())
"""
NVML = "libnvidia-ml.so.1"


@pytest.mark.skipif(sys.platform != "linux", reason="devices are seen on Linux only")
@pytest.mark.parametrize(
    ("device", "libraries", "hazard"),
    [
        ("kfd", [], "has opened the accelerator {}"),
        ("kfd", [NVML], "has opened the accelerator {}"),
        ("nvidiactl", [], "has opened the accelerator {}"),
        ("nvidiactl", [NVML], None),
        ("nvidia0", [NVML, "libEGL_nvidia.so.0"], "has opened the accelerator {}"),
        # A driver that can't be asked. One that can, and NVML's own work: `tests/gpu`.
        ("nvidiactl", [NVML, "libcuda.so.1"], "has started CUDA"),
        ("other", ["libcuda.so.1"], None),  # there is none to start
    ],
)
def test_an_accelerator_is_a_hazard_unless_nvml_alone_has_opened_it(
    tmp_path: Path, device: str, libraries: list[str], hazard: str | None
) -> None:
    arguments = (str(find_stand_in()), str(tmp_path), device, *libraries)
    found, has_looked = run_python(OPEN_DEVICE, *arguments)
    said = hazard and f"importing what train needs {hazard}".format(tmp_path / device)
    assert found == str(said)
    assert has_looked == str(device.startswith("nvidia") or NVML in libraries)


NATIVE_THREAD = """
import ctypes, os, shutil, sys
from pathlib import Path
from slurm_sweeps.running.forking import find_fork_hazard

print(find_fork_hazard())
libc = ctypes.CDLL(None)
pause = ctypes.cast(libc.pause, ctypes.c_void_p)
libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, pause, None)
print(find_fork_hazard())
(other,) = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
with open(f"/proc/self/task/{other}/comm", "w") as file:
    file.write("cuda00001800007")  # what NVML calls its own
print(find_fork_hazard())
ctypes.CDLL(shutil.copy(sys.argv[1], Path(sys.argv[2], "libnvidia-ml.so.1")))
print(find_fork_hazard(), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="native threads are seen on Linux only")
def test_a_native_thread_is_a_hazard_but_for_that_of_nvml(tmp_path: Path) -> None:
    before, *with_one, with_that_of_nvml = run_python(
        NATIVE_THREAD, str(find_stand_in()), str(tmp_path)
    )
    assert before == with_that_of_nvml == "None"
    one = "importing what train needs has started 1 native threads"
    assert with_one == [one, f"{one} (cuda00001800007)"]


CLEAN = """
import numpy, sys
import numpy.linalg
from slurm_sweeps.running.forking import find_fork_hazard
numpy.linalg.svd(numpy.ones((300, 300)))  # OpenBLAS starts its threads, if it has more than one
print(find_fork_hazard())
"""


def test_numpy_is_no_hazard() -> None:
    assert run_python(CLEAN) == ["None"]


OPENMP = """
import ctypes, os, sys
from pathlib import Path
import sklearn.cluster, threadpoolctl
from slurm_sweeps.running.forking import find_fork_hazard

def fit():
    sklearn.cluster.KMeans(4, n_init=1).fit([[i, i * i] for i in range(5000)])

def read_limit():
    return [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "openmp"]

threadpoolctl.threadpool_limits(3, "openmp")
fit()
print(read_limit())
print(find_fork_hazard(), read_limit())
if os.fork() == 0:
    fit()
    print(read_limit(), flush=True)
    os._exit(0)
os.wait()
fit()
"""


def test_openmp_is_no_hazard_and_keeps_its_number_of_threads() -> None:
    before, after, in_fork = run_python(OPENMP)
    assert (before, after, in_fork) == ("[3]", "None [3]", "[3]")


STUCK = """
import os, time
from slurm_sweeps.running import forking

forking.FORK_LIMIT_S = 0.5
forking._list_native_threads = lambda: ["one"]  # to have it try
os.register_at_fork(after_in_child=lambda: time.sleep(600))
print(forking.find_fork_hazard())
"""


def test_a_fork_that_does_not_come_back_is_a_hazard() -> None:
    assert run_python(STUCK) == ["a fork of what train needs did not even get as far as its end"]


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
    path = tmp_path / "private" / "train.pkl"
    load_train(path, write_train(pickle_train(len), path), ahead)
    assert os.environ.get(name) == expected
