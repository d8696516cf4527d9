"""Whether a process that has imported what `train` needs can be forked for each trial.

A fork copies memory, not threads, and not what the driver of an accelerator keeps in the kernel for
its process. So other threads and an accelerator in use rule it out. That somebody has asked NVML,
NVIDIA's library for managing GPUs, which ones there are is fine: it works on in a fork. Where it
can't be told that it was no more than that, it is taken for more.

Which native threads matter is found by trying. Libraries made for it (OpenBLAS) end their threads
in the parent when it forks, and start them again when they are needed; what is still there after a
fork that was thrown away would be missed by a child. GNU's OpenMP is the exception: a child waits
for ever for the threads of its parent, but it gives them up when asked to (`omp_pause_resource`,
OpenMP 5.0), and then starts new ones in parent and child alike. So it is asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

#: Devices whose state in the parent is of no use to a forked child, as their paths begin.
NVIDIA = "/dev/nvidia"
ACCELERATORS = (NVIDIA, "/dev/kfd", "/dev/accel")
#: NVIDIA's libraries that open its devices to draw, or to compute without CUDA.
OTHER_USES = (
    "libEGL_nvidia",
    "libGLX_nvidia",
    "libnvidia-eglcore",
    "libnvidia-glcore",
    "libnvidia-opencl",
)
#: What CUDA's driver answers when all is well, which it isn't until `cuInit` was called.
CUDA_SUCCESS = 0
#: Modules that end a fork by themselves if they were used before it: numba's OpenMP layer.
REFUSE_FORKS = ("numba.np.ufunc.omppool",)
#: The OpenMP libraries of GNU, LLVM and Intel; wheels bring copies, with a hash in the name.
OPENMP = re.compile(r"/lib(gomp|omp|iomp5)[-.][^/]*$")
#: How its standard says "give up all you can".
OMP_PAUSE_HARD = 2
#: How long a fork that ends at once may take to end, and threads that were asked to end, in s.
FORK_LIMIT_S = 30.0
SETTLE_S = 0.2


def keep_cuda_closed() -> None:
    """Let `torch.cuda.is_available()` ask NVML instead of starting CUDA, as Lightning does.

    `DEVICE = "cuda" if torch.cuda.is_available() else "cpu"` stands at the top of many a module.
    Without this every trial after it would have to be a fresh interpreter. PyTorch's own variable;
    who has set it is left alone.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def find_fork_hazard() -> str | None:
    """Say why forking this process would be unsafe now, or None if it isn't.

    Unsafe are other Python threads, an accelerator in use (its driver can't follow a fork), and
    native threads that outlive a fork. To know, this forks; and OpenMP's threads are ended, which
    start again by themselves. To be called by the thread that has imported and that will fork.
    """
    others = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if others:
        return f"importing what train needs has started threads ({', '.join(others[:3])})"
    if _has_cuda_started():
        return "importing what train needs has started CUDA"
    device = _find_accelerator_in_use()
    if device:
        return f"importing what train needs has opened the accelerator {device}"
    refusing = [name for name in REFUSE_FORKS if name in sys.modules]
    if refusing:
        return f"importing what train needs has used {refusing[0]}, which ends forks"
    return _find_lasting_threads()


def silence_fork_warnings() -> None:
    """Don't let Python and JAX warn of forks with threads: what forks here has looked."""
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)


def has_looked_for_gpus() -> bool:
    """Whether something here may know how many NVIDIA GPUs this process sees."""
    return _has_asked_nvml() or _is_nvidia_open()


def _has_cuda_started() -> bool:
    """Ask CUDA's driver, if this process has loaded it."""
    if not _is_mapped("libcuda.so"):
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        answer = driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))
    except (OSError, AttributeError):  # it can't be asked
        return _is_nvidia_open()
    return int(answer) == CUDA_SUCCESS


def _find_accelerator_in_use() -> str | None:
    paths = [path for path in _list_open_files() if path.startswith(ACCELERATORS)]
    if _has_asked_nvml() and not any(map(_is_mapped, OTHER_USES)):
        paths = [path for path in paths if not path.startswith(NVIDIA)]
    return paths[0] if paths else None


def _has_asked_nvml() -> bool:
    return _is_mapped("libnvidia-ml")


def _is_nvidia_open() -> bool:
    return any(path.startswith(NVIDIA) for path in _list_open_files())


def _list_open_files() -> list[str]:
    paths = []
    with contextlib.suppress(OSError):  # no such folder outside Linux
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                paths.append(os.readlink(f"/proc/self/fd/{fd}"))
    return paths


def _find_lasting_threads() -> str | None:
    """Say which native threads a fork would miss, after those that can have gone."""
    if not _list_native_threads():
        return None
    if not _try_fork():
        return "a fork of what train needs did not even get as far as its end"
    if _settle():
        _pause_openmp()
    names = _settle()
    if not names:
        return None
    named = sorted({name for name in names if name != _read_own_name()})
    which = f" ({', '.join(named[:3])})" if named else ""
    return f"importing what train needs has started {len(names)} native threads{which}"


def _try_fork() -> bool:
    """Fork a process that ends at once, for what that does here; tell whether it has ended."""
    with warnings.catch_warnings():
        silence_fork_warnings()
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    deadline = time.monotonic() + FORK_LIMIT_S
    with contextlib.suppress(ChildProcessError):  # who ignores SIGCHLD has no children to wait for
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return False
            time.sleep(0.001)
    return True


def _pause_openmp() -> None:
    """Let every copy of OpenMP here end its threads; how many it may start stays as it was set."""
    for path in {path for path in _list_mapped_files() if OPENMP.search(path)}:
        with contextlib.suppress(OSError, AttributeError):  # one before OpenMP 5.0
            library = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
            threads = library.omp_get_max_threads()
            library.omp_pause_resource_all(OMP_PAUSE_HARD)
            library.omp_set_num_threads(threads)


def _settle() -> list[str]:
    """List native threads as soon as there are none, or when those there are seem to stay."""
    deadline = time.monotonic() + SETTLE_S
    while (names := _list_native_threads()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return names


def _list_native_threads() -> list[str]:
    """Name this process's other threads, but those of NVML and jemalloc: forks do without them."""
    idle = ("jemalloc_bg_thd", "cuda") if _has_asked_nvml() else ("jemalloc_bg_thd",)
    names = []
    with contextlib.suppress(OSError):  # no such folder outside Linux
        for thread in set(os.listdir("/proc/self/task")) - {str(os.getpid())}:
            with contextlib.suppress(OSError):  # it has just ended
                names.append(_read_thread_name(thread))
    return [name for name in names if not name.startswith(idle)]


def _read_own_name() -> str:
    """Return what threads without a name of their own are called."""
    return _read_thread_name(str(os.getpid()))


def _read_thread_name(thread: str) -> str:
    return Path("/proc/self/task", thread, "comm").read_text(errors="replace").strip()


def _is_mapped(library: str) -> bool:
    return any(library in path for path in _list_mapped_files())


def _list_mapped_files() -> list[str]:
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return []
    return [line.split(maxsplit=5)[-1] for line in maps.splitlines() if "/" in line]
