"""How it is told that memory ran out: by what real libraries raise, by the kernel, and by Slurm."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_process import start_worker

import slurm_sweeps as ss
from slurm_sweeps.errors import ProgramError
from slurm_sweeps.running import usage
from slurm_sweeps.running.ends import judge
from slurm_sweeps.running.usage import (
    is_out_of_memory,
    tells_of_killed_child,
    tells_of_killed_step,
)


def test_kills_can_be_counted() -> None:
    assert usage.count_oom_kills() >= 0


def test_the_cgroups_own_count_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 2\n")
    monkeypatch.setattr(usage, "find_cgroup_files", lambda *_: [events])
    assert usage.count_oom_kills() == 2


def catch(call: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - what it is, is looked at
        call()
    return caught.value


def take_too_much_of_torch() -> None:
    import torch

    torch.empty(2**55)


def fail_as_cuda_does() -> None:
    import torch

    raise torch.cuda.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …"
    )


@pytest.mark.parametrize(
    "call",
    [lambda: np.empty(2**55), lambda: bytearray(2**60), take_too_much_of_torch, fail_as_cuda_does],
)
def test_what_libraries_raise_is_known(call: Callable[[], object]) -> None:
    error = catch(call)
    assert is_out_of_memory(error, str(error))


@pytest.mark.parametrize(
    ("said", "is_out"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.", True),
        ("OOM when allocating tensor with shape[8192,8192] and type float", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("HIP out of memory. Tried to allocate 2.00 GiB", True),
        ("[Errno 12] Cannot allocate memory", True),
        ("std::bad_alloc", True),
        ("CUDA error: device-side assert triggered", False),
        ("memory of the experiment is empty", False),
        ("index 5 is out of bounds", False),
    ],
)
def test_what_others_say_is_known(said: str, is_out: bool) -> None:
    assert is_out_of_memory(RuntimeError(), said) == is_out


def test_a_program_that_was_killed_did_not_run_out_of_memory_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = ss.Program(["sh", "-c", "kill -9 $$"])
    error = catch(lambda: program({}))
    assert isinstance(error, ProgramError)
    assert not is_out_of_memory(error, str(error))
    assert tells_of_killed_child(str(error))


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lose_a_child() -> None:
    with ProcessPoolExecutor(1) as pool:
        pool.submit(kill_itself).result()


def lose_a_child_of_joblib() -> None:
    from joblib import Parallel, delayed

    Parallel(2)(delayed(kill_itself)() for _ in range(2))


@pytest.mark.parametrize("call", [lose_a_child, lose_a_child_of_joblib])
def test_a_killed_child_is_known_by_what_pools_raise(call: Callable[[], object]) -> None:
    error = catch(call)
    assert tells_of_killed_child(f"{type(error).__qualname__}: {error}")
    assert not is_out_of_memory(error, "")


def test_a_child_that_the_kernel_killed_is_what_the_trial_failed_of() -> None:
    said: Any = {"how": "failed", "error_type": "BrokenProcessPool", "message": "abruptly"}
    assert judge(said, None, 1, oom=False) == said
    end = judge(said, None, 1, oom=True)
    assert (end["how"], end["error_type"]) == ("failed", "OutOfMemory")
    assert end["message"] == "the kernel killed a process of the trial: BrokenProcessPool: abruptly"


@pytest.mark.parametrize(
    ("said", "is_out"),
    [
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.1. Some of the step …", True),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in step 7.1 cgroup.", True),
        ("a word\nsrun: error: n1: task 0: Out Of Memory\n", True),
        ("slurmstepd: error: Step 7.0 exceeded memory limit (2050392 > 2048000), being …", True),
        ("srun: error: n1: task 0: Killed", False),
        ("train prints: oom_kill event", False),
    ],
)
def test_what_slurm_says_is_known(said: str, is_out: bool) -> None:
    assert tells_of_killed_step(said) == is_out


def test_a_trial_says_that_memory_ran_out_and_what_it_was_told_by(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        try:
            np.empty(2**55)
        except MemoryError as error:
            raise ValueError("no batch of this size") from error

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run()
        end = worker.wait_for("ended")
    assert (end["how"], end["error_type"]) == ("failed", "OutOfMemory")
    assert end["message"] == "ValueError: no batch of this size"
    assert "Unable to allocate" in end["traceback"]
