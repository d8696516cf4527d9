"""Forks of a process that has imported what `train` needs: whether they are safe, and as by hand.

A fork copies memory, not threads, and not what the driver of an accelerator keeps in the kernel for
its process. So other threads and an accelerator in use rule it out. That somebody has asked NVML,
NVIDIA's library for managing GPUs, which ones there are is fine: it works on in a fork. Where it
can't be told that it was no more than that, it is taken for more.

Which native threads matter is found by trying. Libraries made for it (OpenBLAS) end their threads
in the parent when it forks, and start them again when they are needed; what is still there after a
fork that was thrown away would be missed by a child. GNU's OpenMP is the exception: a child waits
for ever for the threads of its parent, but it gives them up when asked to (`omp_pause_resource`,
OpenMP 5.0), and then starts new ones in parent and child alike. So it is asked.

A fork is made as if it had imported by itself (`disown`):

- What is to be done at the end of a process is left to the one that loaded: a module's temporary
  folder would else be deleted by the first trial. (`multiprocessing` sees to that by itself.)
- Random numbers that a process seeds from entropy are seeded anew: Python's (it does so by itself
  in a fork), NumPy's and PyTorch's global ones. Those that the user has seeded while loading stay
  as they are: the same in every trial, as by hand. A NumPy `Generator` of the user's own stays as
  it is too: it doesn't tell a seed that somebody chose from entropy.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import re
import select
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any, NoReturn, TypeVar, cast

from .processes import die_with_parent

T = TypeVar("T")

#: Devices whose state in the parent is of no use to a forked child, as their paths begin.
NVIDIA = "/dev/nvidia"
ACCELERATORS = (NVIDIA, "/dev/kfd", "/dev/accel")
NVML = "libnvidia-ml"
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
#: Ends a fork by itself if it was used before it: numba's OpenMP layer.
REFUSES_FORKS = "numba.np.ufunc.omppool"
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
    if device := _find_accelerator_in_use():
        return f"importing what train needs has opened the accelerator {device}"
    if REFUSES_FORKS in sys.modules:
        return f"importing what train needs has used {REFUSES_FORKS}, which ends forks"
    return _find_lasting_threads()


def silence_fork_warnings() -> None:
    """Don't let Python and JAX warn of forks with threads: what forks here has looked."""
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)


def has_looked_for_gpus() -> bool:
    """Whether something here may know how many NVIDIA GPUs this process sees."""
    return _is_mapped(NVML) or bool(_list_open(NVIDIA))


def _has_cuda_started() -> bool:
    """Ask CUDA's driver, if this process has loaded it."""
    if not _is_mapped("libcuda.so"):
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        answer = driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))
    except (OSError, AttributeError):  # it can't be asked
        return bool(_list_open(NVIDIA))
    return int(answer) == CUDA_SUCCESS


def _find_accelerator_in_use() -> str | None:
    paths = _list_open(*ACCELERATORS)
    if paths and _is_mapped(NVML) and not _is_mapped(*OTHER_USES):
        paths = [path for path in paths if not path.startswith(NVIDIA)]
    return paths[0] if paths else None


def _find_lasting_threads() -> str | None:
    """Say which native threads a fork would miss, after those that can have gone."""
    if not _list_native_threads():
        return None
    if try_in_fork(bytes, FORK_LIMIT_S) is None:  # for what a fork does to the threads here
        return "a fork of what train needs did not even get as far as its end"
    if _settle():
        _pause_openmp()
    names = _settle()
    if not names:
        return None
    named = sorted(set(names) - {_read("/proc/self/comm")})  # that of threads without their own
    which = f" ({', '.join(named[:3])})" if named else ""
    return f"importing what train needs has started {len(names)} native threads{which}"


def try_in_fork(job: Callable[[], bytes], limit_s: float) -> bytes | None:
    """Call `job` in a fork that is thrown away.

    Args:
        job: What it raises is printed.
        limit_s: How long the fork may take, in seconds.

    Returns:
        What it has returned, nothing if it did not get so far; None if it took too long.
    """
    mine, its = os.pipe()
    parent_pid = os.getpid()
    with warnings.catch_warnings():
        silence_fork_warnings()
        pid = os.fork()
    if pid == 0:
        os.close(mine)
        _tell(its, parent_pid, job)
    os.close(its)
    said = _hear(mine, time.monotonic() + limit_s)
    os.close(mine)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # who ignores SIGCHLD has no children to wait for
        os.waitpid(pid, 0)
    return said


def _tell(out: int, parent_pid: int, job: Callable[[], bytes]) -> NoReturn:
    """In the fork: do it, write what comes of it, end."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(parent_pid)
        data = job()
        while data:
            data = data[os.write(out, data) :]
    except BaseException:  # noqa: BLE001 - the process border: the slot's log gets all of it
        traceback.print_exc()
    finally:
        os._exit(0)


def _hear(fd: int, deadline: float) -> bytes | None:
    """Read to the end of a pipe; None if that doesn't come in time."""
    data = b""
    while True:
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        more = os.read(fd, 65536)
        if not more:
            return data
        data += more


def _pause_openmp() -> None:
    """Let every copy of OpenMP here end its threads; how many it may start stays as it was set."""
    maps = _read("/proc/self/maps").splitlines()
    for path in {line.split(maxsplit=5)[-1] for line in maps if OPENMP.search(line)}:
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
    threads = set(_list("/proc/self/task")) - {str(os.getpid())}
    if not threads:
        return []
    idle = ("jemalloc_bg_thd", "cuda") if _is_mapped(NVML) else ("jemalloc_bg_thd",)
    names = [_read(f"/proc/self/task/{thread}/comm") for thread in threads]  # "": it has ended
    return [name for name in names if name and not name.startswith(idle)]


def _list_open(*beginnings: str) -> list[str]:
    """Return the paths of open files that begin so."""
    paths = []
    for fd in _list("/proc/self/fd"):
        with contextlib.suppress(OSError):
            paths.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in paths if path.startswith(beginnings)]


def _is_mapped(*libraries: str) -> bool:
    maps = _read("/proc/self/maps")
    return any(library in maps for library in libraries)


def _read(file: str) -> str:
    """Return what a file of /proc holds; nothing outside Linux."""
    with contextlib.suppress(OSError), open(file, errors="replace") as text:
        return text.read().strip()
    return ""


def _list(folder: str) -> list[str]:
    """Return the names in a folder of /proc; none outside Linux."""
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


# --- what a fork inherits -------------------------------------------------------------------------

#: Functions for a process's end that concern what the trial itself does, by module.
_ENDS = (
    ("logging", "shutdown"),
    ("multiprocessing.util", "_exit_function"),
    ("mlflow.tracking.fluent", "_safe_end_run"),
)
#: PyTorch draws a seed of 64 bits where nobody gives one; people give shorter ones.
_LARGEST_GIVEN_SEED = 2**32


class _SeedNotes:
    """Notes what `random` is seeded with, if it is imported: each fork pays for it where it is."""

    def __init__(self) -> None:
        self.last: Any = None
        self.unwrap: Callable[[], None] = lambda: None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find `random` as Python does, to be wrapped when it was executed."""
        if name != "random":
            return None
        spec: Any = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def execute_and_wrap(module: Any) -> None:
            execute(module)
            self.wrap(module)

        spec.loader.exec_module = execute_and_wrap
        return spec

    def wrap(self, module: Any) -> None:
        """Note from now on."""
        seed = module.seed

        def seed_and_note(a: Any = None, version: int = 2) -> None:
            self.last = a
            seed(a, version)

        module.seed = seed_and_note
        self.unwrap = lambda: setattr(module, "seed", seed)


def note_seeding(load: Callable[[], T]) -> tuple[T, Any]:
    """Call `load`; return what that does, and the state of `random` if the user has seeded it."""
    notes: Any = _SeedNotes()
    if "random" in sys.modules:
        notes.wrap(sys.modules["random"])
    sys.meta_path.insert(0, notes)
    try:
        loaded = load()
    finally:
        sys.meta_path.remove(notes)
        notes.unwrap()
    return loaded, None if notes.last is None else sys.modules["random"].getstate()


def disown(random_state: Any, has_ends: bool) -> None:
    """In a fork: do what the module's docstring says, as `note_seeding` and `has_ends` gave it."""
    if has_ends:
        _leave_ends()
    if random_state is not None:
        sys.modules["random"].setstate(random_state)
    with contextlib.suppress(Exception):  # other versions; the trial may not need any of this
        _seed_numpy()
    with contextlib.suppress(Exception):
        _seed_torch()


def has_ends() -> bool:
    """Whether a process has an end to do that is none of its forks', which don't look: 30 pages."""
    finalizers: Any = weakref.finalize
    return atexit._ncallbacks() > len(_find_ends()) or bool(finalizers._registry)


def _find_ends() -> list[Callable[[], object]]:
    found = (getattr(sys.modules.get(module), name, None) for module, name in _ENDS)
    return [end for end in found if end is not None]


def _leave_ends() -> None:
    ends, finalizers = _find_ends(), cast(Any, weakref.finalize)
    atexit._clear()
    for info in finalizers._registry.values():
        info.atexit = False
    finalizers._registered_with_atexit = False
    for end in ends:
        atexit.register(end)


def _seed_numpy() -> None:
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is None:
        return
    # Kept only as long as it is the one that the generator was made with.
    entropy = getattr(numpy_random.mtrand._rand._bit_generator, "_seed_seq", True)
    if entropy is not None:
        numpy_random.seed()


def _seed_torch() -> None:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.initial_seed() >= _LARGEST_GIVEN_SEED:
        torch.default_generator.seed()  # CUDA's are seeded when it starts, which is in the trial
