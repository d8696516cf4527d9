"""The host of several slots over real pipes: its slots' workers, and what becomes of them."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hazards import find_stand_in
from worker_process import TIMEOUT_S, read_when_there

from cluster_tools.processes import read_process, wait_until
from slurm_sweeps.errors import UsageError
from slurm_sweeps.running.channel import Connection, Record, start_process
from slurm_sweeps.running.host import build_host_argv
from slurm_sweeps.running.processes import choose_cpus
from slurm_sweeps.running.train import encode_cfg, pickle_train, write_train
from slurm_sweeps.slurm.allocation import Node
from slurm_sweeps.slurm.config import SlurmCfg
from slurm_sweeps.slurm.step import Slot, merge_slots
from slurm_sweeps.slurm.text import Gres
from sweep_scripts import Scripts


class Driver:
    """The few words that a driver would say to a host."""

    def __init__(self, folder: Path, train: Callable[[dict[str, Any]], Any]) -> None:
        self.folder = folder
        file = folder / "train.pkl"
        self._train = {"train": str(file), "digest": write_train(pickle_train(train), file)}
        process = start_process(build_host_argv(slots=8), dict(os.environ))
        self.link = Connection(process, folder / "host.log")
        self._heard: list[Record] = []
        self._selector = selectors.DefaultSelector()
        for fd in self.link.streams:
            self._selector.register(fd, selectors.EVENT_READ)

    def open(self, slot: int, **init_too: Any) -> Record:
        """Open a slot; return its worker's hello."""
        graces = dict.fromkeys(("prune_grace_s", "exit_grace_s", "term_grace_s"), 30.0)
        init = {"kind": "init", **self._train, "slot": slot, **graces}
        self.link.send({**init, **init_too})
        return self.wait_for("hello", slot)

    def run(self, slot: int, cfg: dict[str, Any], **more: Any) -> None:
        directory = str(self.folder / f"trial-{slot}")
        record = {"trial_id": f"trial-{slot}", "number": slot, "attempt": 1, "dir": directory}
        cfg_text = encode_cfg(cfg)
        self.link.send(
            {
                "kind": "run",
                "slot": slot,
                "env": {},
                "cfg": cfg_text,
                "cfg_yml": "",
                **record,
                **more,
            }
        )
        wait_until(lambda: not self.link.send_rest(), TIMEOUT_S, lambda: "it reads no more")

    def wait_for(self, kind: str, slot: int) -> Record:
        """Return the next record of this kind that a slot says; others are kept for later."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            for record in self._heard:
                if (record["kind"], record.get("slot")) == (kind, slot):
                    self._heard.remove(record)
                    return record
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            assert self._selector.get_map(), f"it has ended before {kind!r} of slot {slot}"
            said = f"{self._heard}, {self.link.tail.decode()}"
            assert ready, f"no {kind!r} of slot {slot} came; {said}"
            for key, _ in ready:
                records = self.link.read(key.fd)
                if records is None:
                    self._selector.unregister(key.fd)
                else:
                    self._heard += records


@contextlib.contextmanager
def start_host(folder: Path, train: Callable[[dict[str, Any]], Any]) -> Iterator[Driver]:
    driver = Driver(folder, train)
    try:
        yield driver
    finally:
        assert driver.link.end(TIMEOUT_S) == 0


def count_imports(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str = "") -> Path:
    """Write a module `counted` that leaves a file each time it is imported; return where."""
    imports = folder / "imports"
    imports.mkdir()
    text = f"import os, uuid\nopen({str(imports)!r} + '/' + uuid.uuid4().hex, 'w').close()\n{code}"
    (folder / "counted.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "counted", raising=False)
    return imports


def train_with_import(cfg: dict[str, Any]) -> None:
    import counted  # type: ignore[import-not-found] # written by the test

    import slurm_sweeps as ss

    ss.log({"loss": cfg["x"], cfg.get("name", "other"): 1.0}, 1)
    counted.__name__  # noqa: B018 - used


def test_all_slots_use_one_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imports = count_imports(tmp_path, monkeypatch)
    with start_host(tmp_path, train_with_import) as driver:
        pids = [driver.open(slot)["pid"] for slot in (0, 3, 7)]
        assert len({driver.link.process.pid, *pids}) == 4
        for slot in (0, 3, 7):
            driver.wait_for("ready", slot)
            # Longer than what a pipe takes at once: it must not get between what others say.
            driver.run(slot, {"x": float(slot), "name": "long" * 3000})
        for slot in (0, 3, 7):
            report = driver.wait_for("report", slot)
            assert report["metrics"] == {"loss": float(slot), "long" * 3000: 1.0}
            decision = {"number": slot, "attempt": 1, "iteration": 1, "do": "go_on"}
            driver.link.send({"kind": "decision", "slot": slot, **decision})
            assert driver.wait_for("ended", slot)["how"] == "completed"
    assert len(list(imports.iterdir())) == 1


def test_where_forking_is_unsafe_each_worker_imports_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=[600], daemon=True)"
    imports = count_imports(tmp_path, monkeypatch, f"{thread}.start()\n")
    with start_host(tmp_path, train_with_import) as driver:
        for slot in (0, 1):
            driver.open(slot)
            assert "every trial gets a fresh interpreter" in driver.wait_for("notice", slot)["text"]
            driver.wait_for("ready", slot)
            driver.run(slot, {"x": 1.0})
            assert driver.wait_for("report", slot)["metrics"]["loss"] == 1.0
    assert len(list(imports.iterdir())) == 3  # the host's, and each trial's


#: What NVML leaves behind where it was asked for GPUs, and what an answer depends on.
LOOKS_FOR_GPUS = """
import ctypes, shutil
from slurm_sweeps.running import forking
forking.NVIDIA = {folder!r} + "/nvidia"
forking.ACCELERATORS = (forking.NVIDIA,)
nvml = {folder!r} + f"/libnvidia-ml.so.{{os.getpid()}}"
ctypes.CDLL(shutil.copy({stand_in!r}, nvml))
device = open({folder!r} + "/nvidiactl", "w")
GPUS = os.environ["CUDA_VISIBLE_DEVICES"]
"""


def train_with_gpus(_cfg: dict[str, Any]) -> None:
    import counted

    import slurm_sweeps as ss

    seen = {"imported": float(counted.GPUS), "trial": float(os.environ["CUDA_VISIBLE_DEVICES"])}
    ss.log(seen, 1)


@pytest.mark.parametrize(
    ("seen", "visible", "n_imports"),
    [
        ("4,5", ([0], [1]), 3),  # the host's and each slot's
        ("4", ([0], [0]), 1),  # several slots share one GPU
        ("4", (None, None), 1),
    ],
)
def test_slots_that_see_some_of_the_gpus_that_were_looked_for_import_by_themselves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: str,
    visible: tuple[list[int] | None, ...],
    n_imports: int,
) -> None:
    """What an import has counted is that which its trials have."""
    names = {"folder": str(tmp_path), "stand_in": str(find_stand_in())}
    imports = count_imports(tmp_path, monkeypatch, LOOKS_FOR_GPUS.format(**names))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    with start_host(tmp_path, train_with_gpus) as driver:
        for slot, gpu in {0: 4.0, 1: float(seen[-1])}.items():
            step = {"slot": slot, "slots": 2, "salt": 0, "port_range": [20000, 20099]}
            step |= {"cpus_per_task": 1, "mem_mb": None, "visible_gpus": visible[slot]}
            driver.open(slot, share=step)
            if n_imports > 1 and slot == 0:
                assert "every slot imports by itself" in driver.wait_for("notice", 0)["text"]
            ready = driver.wait_for("ready", slot)
            assert ready["gpus"] == f"{gpu:.0f}"
            driver.run(slot, {}, port=ready["port"], address=ready["address"])
            report = driver.wait_for("report", slot)
            assert report["metrics"] == {"imported": gpu, "trial": gpu}
    assert len(list(imports.iterdir())) == n_imports


def sit(_cfg: dict[str, Any]) -> None:
    import time
    from pathlib import Path

    Path("pid").write_text(f"{os.getpid()}\n")
    time.sleep(600)


def start_sitting(driver: Driver, slot: int) -> tuple[int, int]:
    """Return the pids of a slot's worker and of its trial."""
    worker = driver.open(slot)["pid"]
    driver.wait_for("ready", slot)
    driver.run(slot, {})
    return worker, int(read_when_there(driver.folder / f"trial-{slot}" / "pid"))


def test_a_worker_that_dies_is_told_of_and_may_come_again(tmp_path: Path) -> None:
    with start_host(tmp_path, sit) as driver:
        first, other = start_sitting(driver, 0), start_sitting(driver, 1)
        os.kill(first[0], signal.SIGKILL)
        assert driver.wait_for("gone", 0)["exit_code"] == -signal.SIGKILL
        wait_until(lambda: read_process(first[1]) is None, TIMEOUT_S, lambda: "the trial lives")
        assert all(read_process(pid) for pid in other)
        (tmp_path / "trial-0" / "pid").unlink()
        start_sitting(driver, 0)


def test_what_imports_have_started_outlives_a_worker_and_what_its_trial_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_imports(
        tmp_path, monkeypatch, 'import subprocess\nHELPER = subprocess.Popen(["sleep", "600"])\n'
    )

    def train(_cfg: dict[str, Any]) -> None:
        import subprocess
        import time
        from pathlib import Path

        import counted

        child = subprocess.Popen(["setsid", "sleep", "600"])
        Path("pids").write_text(f"{counted.HELPER.pid} {child.pid}\n")
        time.sleep(600)

    with start_host(tmp_path, train) as driver:
        worker = driver.open(0)["pid"]
        driver.wait_for("ready", 0)
        driver.run(0, {})
        helper, child = map(int, read_when_there(tmp_path / "trial-0" / "pids").split())
        os.kill(worker, signal.SIGKILL)
        driver.wait_for("gone", 0)
        wait_until(lambda: read_process(child) is None, TIMEOUT_S, lambda: "it lives")
        driver.open(0)
        assert read_process(helper)
    assert read_process(helper) is None


def test_one_that_is_to_be_killed_goes_without_a_word(tmp_path: Path) -> None:
    with start_host(tmp_path, sit) as driver:
        first = start_sitting(driver, 0)
        driver.link.send({"kind": "kill", "slot": 0})
        for pid in first:
            wait_until(lambda pid=pid: read_process(pid) is None, TIMEOUT_S, lambda: "it lives")
        assert driver.open(0)["pid"] != first[0]  # and no `gone` came before this
        assert not [record for record in driver._heard if record["kind"] == "gone"]


def test_one_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    with start_host(tmp_path, sit) as driver:
        stopped = driver.open(0)["pid"]
        driver.wait_for("ready", 0)
        os.kill(stopped, signal.SIGSTOP)
        driver.run(0, {"much": "x" * 500_000})  # more than its pipe takes
        start_sitting(driver, 1)
        driver.link.send({"kind": "kill", "slot": 0})
        wait_until(lambda: read_process(stopped) is None, TIMEOUT_S, lambda: "it lives")


def test_a_large_record_reaches_a_worker_that_reads(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        import slurm_sweeps as ss

        ss.log({"length": len(cfg["much"])}, 1)

    with start_host(tmp_path, train) as driver:
        driver.open(0)
        driver.wait_for("ready", 0)
        driver.run(0, {"much": "x" * 500_000})
        assert driver.wait_for("report", 0)["metrics"] == {"length": 500_000.0}


def test_long_records_of_many_workers_are_not_torn(tmp_path: Path) -> None:
    slots = range(6)
    with start_host(tmp_path, train_that_tells_much) as driver:
        for slot in slots:
            driver.open(slot)
            driver.wait_for("ready", slot)
        for slot in slots:
            driver.run(slot, {"x": float(slot)})
        for slot in slots:
            for iteration in range(1, 21):
                report = driver.wait_for("report", slot)
                assert (report["iteration"], len(report["metrics"])) == (iteration, 1000)
                decision = {"number": slot, "attempt": 1, "iteration": iteration, "do": "go_on"}
                driver.link.send({"kind": "decision", "slot": slot, **decision})
        assert driver.link.malformed == 0


def train_that_tells_much(cfg: dict[str, Any]) -> None:
    import slurm_sweeps as ss

    for iteration in range(1, 21):
        ss.log({f"metric number {i}": cfg["x"] for i in range(1000)}, iteration)


def test_a_train_that_can_not_be_loaded_is_told_and_the_host_leaves(tmp_path: Path) -> None:
    with start_host(tmp_path, sit) as driver:
        (tmp_path / "train.pkl").write_bytes(b"no pickle")
        driver.open(3)
        assert "not what the driver wrote" in driver.wait_for("broken", 3)["traceback"]
        assert driver.link.process.wait(TIMEOUT_S) == 0


def test_nothing_is_left_when_the_driver_has_gone(tmp_path: Path) -> None:
    with start_host(tmp_path, sit) as driver:
        pids = [pid for slot in (0, 1) for pid in start_sitting(driver, slot)]
    for pid in pids:
        wait_until(lambda pid=pid: read_process(pid) is None, TIMEOUT_S, lambda: "it lives")


def test_slots_of_a_node_make_one_share() -> None:
    node = Node("n1", cpus=16, gres=(Gres("gpu", "a100", 4),))
    slots = [Slot(i, ("n1",), 1, 4, 1000, 1, step_cpus_per_task=4, gres="gpu:1") for i in range(4)]
    whole = merge_slots(slots, node)
    assert (whole.step_cpus_per_task, whole.mem_mb, whole.gres) == (16, 4000, "gpu:4")
    without = [Slot(i, ("n1",), 1, 4, None, step_cpus_per_task=4, gres="none") for i in range(2)]
    assert merge_slots(without, node).gres == "none"
    assert merge_slots(without, node).mem_mb is None
    overlapping = [Slot(i, ("n1",), 1, 1, exclusive=False, step_cpus_per_task=16) for i in range(9)]
    assert merge_slots(overlapping, node) == overlapping[0]
    limited = [replace(slot, mem_mb=1000) for slot in overlapping]
    assert merge_slots(limited, node).mem_mb == 9000
    assert merge_slots(limited, replace(node, mem_mb=8000)).mem_mb == 8000
    two_threads = replace(node, threads_per_core=2)
    assert merge_slots(slots[:3], two_threads).step_cpus_per_task == 12
    single = [replace(slot, cpus_per_task=1, step_cpus_per_task=1) for slot in slots]
    assert merge_slots(single, two_threads).step_cpus_per_task == 8  # cores are given whole
    mixed = replace(node, gres=(Gres("gpu", "a100", 2), Gres("gpu", "v100", 2)))
    assert merge_slots(slots[:3], mixed).gres == "gpu:a100:2,gpu:v100:2"


def test_a_slot_keeps_to_its_own_cpus_where_they_are_those_that_were_counted() -> None:
    assert choose_cpus([8, 9, 10, 11], 2, 2, 4) == [10, 11]
    assert choose_cpus([8, 9, 10], 2, 2, 3) == [10, 8]  # more slots than there is room for
    assert choose_cpus([0, 1], 2, 2, 4) == [0, 1]  # fewer than it was promised: a test cluster
    assert choose_cpus(range(64), 2, 2, 4) == range(64)  # not bound at all


@pytest.mark.parametrize(
    ("cfg", "text"),
    [
        ({"ntasks": 2}, "is for trials of one task .* leave it out with ntasks=2"),
        ({"fresh_step": True}, "leave it out with ntasks=1, fresh_step=True"),
        ({"args": "--mem=4G"}, "args can't say the CPUs, memory or GPUs of a trial"),
    ],
)
def test_what_can_not_share_imports_is_refused(cfg: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        SlurmCfg(share_imports=True, **cfg)


DETACHES = """
import os, pathlib, subprocess, time
import slurm_sweeps as ss

def train(cfg):
    child = subprocess.Popen(["setsid", "sleep", "600"])
    pathlib.Path("{pids}").write_text(f"{{os.getppid()}} {{os.getpid()}} {{child.pid}}\\n")
    time.sleep(600)

if __name__ == "__main__":
    ss.Experiment(train, {{}}, "exp").run(1, {slots})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent died")
@pytest.mark.parametrize("slots", [1, 2])
def test_hosts_that_were_stopped_end_when_their_driver_is_killed(
    scripts: Scripts, slots: int
) -> None:
    """With all that their trials have started; two slots have a worker between host and trial."""
    file = scripts.folder / "pids"
    with scripts.start(DETACHES.format(pids=file, slots=slots)) as driver:
        worker, trial, child = map(int, read_when_there(file).split())
        host = int(Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text())
        assert (host == worker) == (slots == 1)
        for pid in (host, worker, trial):
            os.kill(pid, signal.SIGSTOP)
        driver.kill()
        for pid in (host, worker, trial, child):
            wait_until(lambda pid=pid: read_process(pid) is None, TIMEOUT_S, lambda: "it lives")
