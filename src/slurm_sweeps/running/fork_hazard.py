"""Whether a process that has imported what `train` needs can be forked for each trial.

A fork copies memory, not threads, and not what the driver of an accelerator keeps in the kernel for
its process. So other threads and an accelerator in use rule it out. That somebody has asked NVML,
NVIDIA's library for managing GPUs, which ones there are is fine: it works on in a fork. Where it
can't be told that it was no more than that, it is taken for more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
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
    native threads of unknown origin. OpenBLAS keeps threads too, but it ends them before a fork
    and starts them again after it.
    """
    others = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if others:
        return f"importing what train needs has started threads ({', '.join(others[:3])})"
    if _has_cuda_started():
        return "importing what train needs has started CUDA"
    device = _find_accelerator_in_use()
    if device:
        return f"importing what train needs has opened the accelerator {device}"
    count = _count_native_threads()
    if count > 1 and not _is_mapped("openblas"):
        return f"importing what train needs has started {count - 1} native threads"
    return None


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


def _count_native_threads() -> int:
    """Count this process's threads, without the one that NVML keeps: a fork does without it."""
    count, has_asked_nvml = 0, _has_asked_nvml()
    with contextlib.suppress(OSError):  # no such folder outside Linux
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it has just ended
                name = Path("/proc/self/task", thread, "comm").read_text(errors="replace")
                count += not (has_asked_nvml and name.startswith("cuda"))
    return count


def _is_mapped(library: str) -> bool:
    try:
        return library in Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return False
