"""What is tried in the sweeps of these tests: functions that go wrong in every way.

Workers import this module, so it imports nothing that is slow.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import slurm_sweeps as ss
from slurm_sweeps.running.channel import KINDS, encode

Cfg = dict[str, Any]

#: How long a trial waits for what must come.
WAIT_S = 60.0


def wait_for(path: Path, count: int = 1) -> None:
    """Wait until a folder holds so many files, or a file is there."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if len(list(path.iterdir())) >= count if path.is_dir() else path.exists():
            return
        time.sleep(0.01)
    raise TimeoutError(str(path))


def succeed(cfg: Cfg) -> None:
    ss.log({"loss": cfg["x"]}, 1)


def succeed_on_attempt_3(_cfg: Cfg) -> None:
    """Each attempt logs two iterations; the first one logs one more, that no other reaches."""
    saved = ss.checkpoint_dir() / f"attempt{ss.attempt()}"
    saved.touch()
    assert len(list(ss.checkpoint_dir().iterdir())) == ss.attempt()
    assert ss.trial_dir() == Path.cwd() == ss.checkpoint_dir().parent
    assert ss.trial_dir().name == ss.trial_id()
    ss.log({"loss": ss.attempt() / 10}, 1)
    ss.log({"loss": ss.attempt() / 100}, 2)
    if ss.attempt() == 1:
        ss.log({"loss": 9.0}, 9)
    if ss.attempt() < 3:
        raise RuntimeError(f"not at attempt {ss.attempt()}")


def kill_itself(_cfg: Cfg) -> None:
    ss.log({"loss": 1.0}, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_its_worker(_cfg: Cfg) -> None:
    ss.log({"loss": 1.0}, 1)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(WAIT_S)


def kill_all_workers_at_once(cfg: Cfg) -> None:
    """Four trials wait for each other, then each ends the worker above it; once."""
    met = ss.trial_dir().parent / "met"
    if ss.attempt() == 1:
        met.mkdir(exist_ok=True)
        (met / ss.trial_id()).touch()
        wait_for(met, 4)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(WAIT_S)
    ss.log({"loss": cfg["x"]}, 1)


def kill_the_host(cfg: Cfg) -> None:
    """Three trials with children wait for each other; one ends what all are forks of, once."""
    met = ss.trial_dir().parent / "met"
    if ss.attempt() == 1:
        met.mkdir(exist_ok=True)
        child = subprocess.Popen(["sleep", "600"])
        (met / str(child.pid)).touch()
        wait_for(met, 3)
        with contextlib.suppress(FileExistsError, ProcessLookupError):
            (met.parent / "killer").mkdir()
            stat = Path(f"/proc/{os.getppid()}/stat").read_text()
            os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
        time.sleep(WAIT_S)
    ss.log({"loss": cfg["x"]}, 1)


def fail(cfg: Cfg) -> None:
    raise ValueError(f"never with {sorted(cfg)}")


def fail_after_a_report(_cfg: Cfg) -> None:
    ss.log({"loss": 1.0}, 1)
    raise ValueError("later")


def take_memory(_cfg: Cfg) -> None:
    """Far more than the test allows."""
    ss.log({"loss": 1.0}, 1)
    hold = [bytearray(16 << 20) for _ in range(64)]
    time.sleep(len(hold))


def take_memory_in_a_child(cfg: Cfg) -> None:
    """The same in a process of its own."""
    with ProcessPoolExecutor(1) as pool:
        pool.submit(take_memory_there, cfg).result()


def take_memory_there(_cfg: Cfg) -> None:
    hold = [bytearray(16 << 20) for _ in range(64)]
    time.sleep(len(hold))


# A run's state, as PyTorch's `torch.save({"epoch": …, "model": …}, file)` would keep it.


def go_on_from_checkpoint(cfg: Cfg) -> None:
    """Save each epoch, load what is there; be killed once in the middle."""
    import pickle

    file = ss.checkpoint_dir() / "last.pkl"
    weights, first = 0.0, 1
    if file.exists():
        state = pickle.loads(file.read_bytes())
        weights, first = state["weights"], state["epoch"] + 1
    for epoch in range(first, 9):
        weights += cfg["x"]
        new = file.with_suffix(".new")
        new.write_bytes(pickle.dumps({"epoch": epoch, "weights": weights}))
        new.rename(file)
        ss.log({"loss": weights, "first": first}, epoch)
        if epoch == 4 and ss.attempt() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


# Told to stop.


def look_at_should_stop(cfg: Cfg) -> None:
    """Logs nothing for long; saves and returns when it is asked to stop."""
    (ss.trial_dir() / f"began{ss.attempt()}").touch()
    deadline = time.monotonic() + WAIT_S
    while ss.attempt() == 1 and time.monotonic() < deadline:
        if ss.should_stop():
            (ss.checkpoint_dir() / "saved").touch()
            return
        time.sleep(0.01)
    assert (ss.checkpoint_dir() / "saved").exists() or ss.attempt() == 1
    ss.log({"loss": cfg["x"]}, 1)


def log_until_told(cfg: Cfg) -> None:
    """Logs until `log` raises, which it writes down."""
    if ss.attempt() == 1:
        try:
            for iteration in range(1, 10**6):
                ss.log({"loss": 1.0}, iteration)
                (ss.trial_dir() / "last").write_text(str(iteration))
                time.sleep(0.01)
        except ss.TrialInterrupted:
            (ss.trial_dir() / "interrupted").touch()
            raise
    ss.log({"loss": cfg["x"]}, 1)


def never_listen(cfg: Cfg) -> None:
    """Ignores TERM, logs nothing, has a daemon."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (ss.trial_dir() / f"began{ss.attempt()}").touch()
    if ss.attempt() == 1:
        subprocess.Popen(["sleep", str(9 * WAIT_S)], start_new_session=True)
        (ss.trial_dir() / "daemon").touch()
        time.sleep(2 * WAIT_S)
    ss.log({"loss": cfg["x"]}, 1)


# Bad neighbours.


def write_a_lot(_cfg: Cfg) -> None:
    """100 MB of text, noise, and what looks like the channel's own records, to standard output."""
    line = b"0123456789" * 100 + b"\n"
    for _ in range(1000):
        os.write(1, line * 100)
        if _ % 100 == 0:
            ss.log({"loss": float(_)}, _)
    os.write(1, os.urandom(1 << 20))
    record = b'{"kind":"report","number":0,"attempt":1,"iteration":5000,"metrics":{"loss":-1.0}}'
    os.write(1, b"\x1e" + record + b"\n\x1e\x1e" + record[:20])
    os.write(2, b"\x1e" + record + b"\n")
    subprocess.run(["printf", r"\036%s\n", record.decode()], check=True)
    ss.log({"loss": 0.5}, 1000)


def leave_processes(cfg: Cfg) -> None:
    """A child, a daemon in a session of its own, and one that ignores all it may ignore."""
    sleep = "import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\n"
    argv = [sys.executable, "-c", f"{sleep}time.sleep({2 * WAIT_S})"]
    subprocess.Popen(argv)
    subprocess.Popen(argv, start_new_session=True)
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            time.sleep(2 * WAIT_S)
        os._exit(0)
    ss.log({"loss": cfg["x"]}, 1)


def close_all_files(cfg: Cfg) -> None:
    """Every odd trial closes what it has not opened."""
    ss.log({"loss": cfg["x"]}, 1)
    if cfg["odd"]:
        os.closerange(3, 4096)
        with contextlib.suppress(OSError):
            (ss.trial_dir() / "mine").write_bytes(b"mine")
    ss.log({"loss": cfg["x"]}, 2)


def write_into_the_channel(cfg: Cfg) -> None:
    """What no trial does by accident: records cut short and edited, into the channel itself.

    Each field that a record must have is left out in turn.
    """
    from slurm_sweeps.running import session

    assert session._active is not None
    channel = session._active._reports
    ss.log({"loss": cfg["x"]}, 1)
    channel.sendall(b'\x1e{"kind":"report","number":0,"att\n')
    channel.sendall(
        b'\x1e{"kind":"report","number":0,"attempt":1,"iteration":2,"metrics":{"loss":"x"}}\n'
    )
    channel.sendall(b'\x1e{"kind":"ended","number":0,"how":"failed","exit_code":"none"}\n')
    channel.sendall(b'\x1e{"kind":"ended","number":0,"how":"failed","rank":7}\n')
    channel.sendall(b'\x1e{"kind":"ended","number":4711,"how":"failed"}\n')
    channel.sendall(b'\x1e{"kind":"report","number":4711,"attempt":1,"iteration":2,"metrics":{}}\n')
    channel.sendall(b"\x1e\xff\xfe\n")
    for record in list_lacking_records():
        channel.sendall(encode(record))
    ss.log({"loss": cfg["x"]}, 3)


def list_lacking_records() -> list[dict[str, Any]]:
    """What workers say to the driver, each record without one of the fields that it must have."""
    values = {"number": 0, "attempt": 1, "iteration": 2, "pid": 1, "metrics": {"loss": 0.0}}
    values |= {"host": "", "traceback": "", "text": "", "how": "failed", "ask": {}}
    return [
        {"kind": kind, **{name: values[name] for name in KINDS[kind] - {lacking}}}
        for kind in ("hello", "broken", "notice", "started", "report", "suggest", "ended")
        for lacking in KINDS[kind]
    ]


def log_as_fast_as_it_can(cfg: Cfg) -> None:
    """For some seconds; says how many reports it sent."""
    end = time.monotonic() + cfg["seconds"]
    iteration = 0
    while time.monotonic() < end:
        iteration += 1
        ss.log({"loss": iteration, "other": 0.5}, iteration)
    (ss.trial_dir() / "sent").write_text(str(iteration))


def log_when_told(_cfg: Cfg) -> None:
    """Begins, waits for a file, reports a lot, and says when all of that has been answered."""
    ss.log({"loss": 0.0}, 0)
    (ss.trial_dir() / "began").touch()
    wait_for(ss.trial_dir().parent / "go")
    for iteration in range(1, 501):
        ss.log({"loss": 1 / iteration}, iteration)
    (ss.trial_dir() / "answered").touch()


def leave_with(cfg: Cfg) -> None:
    ss.log({"loss": 1.0}, 1)
    sys.exit(cfg["code"])


def save_a_checkpoint(cfg: Cfg) -> None:
    """Save 1 MB; where there is no room for it, raise as libraries do."""
    file, full = ss.checkpoint_dir() / "last", None
    try:
        file.write_bytes(bytes(1 << 20))
    except OSError as error:
        if cfg["raises"] != "no word of it":
            file.unlink()
        if cfg["raises"] == "itself":
            raise
        if cfg["raises"] == "a consequence":
            raise RuntimeError("could not save") from error
        full = str(error)
    if full is not None and cfg["raises"] == "no word of it":  # torch.save
        raise RuntimeError("unexpected pos 576 vs 534")
    if full is not None:  # as DataLoader carries it from a process of its own
        raise OSError(f"Caught OSError in worker process 0: {full}")
    ss.log({"loss": cfg["x"]}, 1)
