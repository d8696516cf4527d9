"""Jobs are submitted as there is work: what becomes of those that Slurm refuses, or that fail.

Slurm's commands are short scripts here that do as a file beside them says: a cluster that refuses
is not at hand, and time is the test's. tests/cluster has the real ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster_tools.processes import wait_until
from slurm_sweeps.errors import LaunchError
from slurm_sweeps.running.recruiter import LONGEST_PAUSE_S, MAX_USELESS, Recruiter
from slurm_sweeps.slurm.jobs import Jobs
from slurm_sweeps.storage.layout import Layout

OUTAGE_S = 1800.0

COMMANDS = {
    "sbatch": """
        echo "$@" >> calls
        if [ -s refusal ]; then cat refusal >&2; exit 1; fi
        n=$(($(cat last 2> /dev/null || echo 0) + 1)); echo $n > last
        echo "$n PENDING Priority" >> queue
        echo $n""",
    "squeue": "[ ! -e away ] && cat queue",
    "scancel": """
        echo "$@" >> cancelled
        case "$1" in --*) > queue ;; *) for n; do sed -i "/^$n /d" queue; done ;; esac""",
}


class Office:
    """A recruiter, and the Slurm that it asks."""

    def __init__(self, folder: Path, most: int = 3) -> None:
        self.folder = folder
        for name, script in COMMANDS.items():
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/bash\ncd {folder}\n{script}\n")
            path.chmod(0o755)
        self.layout = Layout(folder / "sweeps", "big")
        (folder / "queue").touch()
        self.told: list[str] = []
        self.recruiter = Recruiter(Jobs(most, "-p gpu"), 1, self.layout, OUTAGE_S, self._tell)
        self.recruiter.begin()
        self.now = 0.0

    def _tell(self, text: str) -> None:
        if text not in self.told:
            self.told.append(text)

    def read(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def go_round(self, work: int = 9, lends: bool = False) -> None:
        """Let time pass until Slurm is asked again, and what it said is taken in."""
        asked = []

        def count(limit: int) -> int:
            asked.append(limit)
            return min(limit, work)

        self.now += 20.0
        self.recruiter.look(self.now, count, lends)
        assert asked
        is_idle: Callable[[], bool] = lambda: self.recruiter._background.is_idle  # noqa: E731
        wait_until(is_idle, 20, lambda: "Slurm's commands still run")
        self.recruiter.look(self.now, count, lends)


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    office = Office(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return office


def test_as_many_as_there_is_work_for(office: Office) -> None:
    office.go_round(work=9)
    assert len(office.read("queue")) == 3
    call = office.read("calls")[0]
    assert "--parsable --job-name=big-" in call
    assert call.endswith(f"-p gpu {office.layout.job_script}")
    office.recruiter.note_job("1", 4)
    office.go_round(work=5)
    assert office.read("cancelled") == ["3"]
    assert [line.split()[0] for line in office.read("queue")] == ["1", "2"]
    office.recruiter.stop()
    office.recruiter.close()
    assert office.read("cancelled")[1].startswith("--state=PENDING --user=")
    assert office.read("queue") == []
    assert any("wait in the queue (Priority)" in text for text in office.told)


def test_jobs_that_may_never_begin_are_told_of(office: Office) -> None:
    office.go_round()
    queue = office.folder / "queue"
    queue.write_text(queue.read_text().replace("Priority", "PartitionConfig"))
    office.go_round()
    assert any("(PartitionConfig): they may never begin" in text for text in office.told)
    assert not any("(Priority): " in text for text in office.told)


def test_a_wrong_option_ends_the_sweep_at_once(office: Office) -> None:
    (office.folder / "refusal").write_text("sbatch: error: invalid partition specified: gpu\n")
    words = "sbatch submits no job: invalid partition specified: gpu. Mend SlurmCfg"
    with pytest.raises(LaunchError, match=words):
        office.go_round()


def test_a_limit_is_waited_for_with_growing_pauses_and_told_once(office: Office) -> None:
    refusal = office.folder / "refusal"
    refusal.write_text("sbatch: error: QOSMaxSubmitJobPerUserLimit\n")
    for _ in range(40):
        office.go_round()
    calls = len(office.read("calls"))
    assert 5 <= calls <= 12  # in 800 s
    assert sum("QOSMaxSubmitJobPerUserLimit" in text for text in office.told) == 1
    refusal.write_text("")
    for _ in range(int(LONGEST_PAUSE_S / 20)):
        office.go_round()
    assert len(office.read("queue")) == 3


def test_a_limit_that_never_passes_ends_the_sweep(office: Office) -> None:
    (office.folder / "refusal").write_text("sbatch: error: QOSMaxSubmitJobPerUserLimit\n")
    office.go_round(lends=True)
    office.now += OUTAGE_S + 1000
    office.go_round(lends=True)  # other jobs lend
    office.go_round()
    office.now += OUTAGE_S + 1000
    with pytest.raises(LaunchError, match=r"for 1800 s there was no job: .*Limit; restore=True"):
        office.go_round()


def test_a_slurm_that_is_away_is_waited_for(office: Office) -> None:
    (office.folder / "away").touch()
    office.go_round()
    assert office.read("calls") == []
    (office.folder / "away").unlink()
    office.go_round()
    assert len(office.read("queue")) == 3


def let_jobs_fail(office: Office, rounds: int, useful: int = 0) -> int:
    """Let each job begin and end at once, but for every so many; return how many there were."""
    for _ in range(rounds):
        office.go_round(work=1)
        for line in office.read("queue"):
            job = line.split()[0]
            office.layout.job_log(job).write_text("hello\nNo module named slurm_sweeps\n")
            if useful and int(job) % useful == 0:
                office.recruiter.note_use(job)
        (office.folder / "queue").write_text("")
    return int(office.read("last")[0])


def test_jobs_that_come_to_nothing_are_counted_and_their_words_told(office: Office) -> None:
    """As when the setup's last line fails."""
    with pytest.raises(LaunchError, match=r"5 jobs in a row .* No module named slurm_sweeps; rest"):
        let_jobs_fail(office, rounds=30)
    assert int(office.read("last")[0]) == MAX_USELESS
    assert sum("has ended before any trial" in text for text in office.told) == MAX_USELESS - 1


def test_a_job_of_use_starts_the_count_anew(office: Office) -> None:
    assert let_jobs_fail(office, rounds=40, useful=3) > 2 * MAX_USELESS


def test_one_that_is_cancelled_as_it_waits_is_replaced(office: Office) -> None:
    for _ in range(3 * MAX_USELESS):
        office.go_round(work=1)
        (office.folder / "queue").write_text("")
        office.recruiter.note_end(office.now)
    assert int(office.read("last")[0]) == 3 * MAX_USELESS
    assert not any(re.search("of no use|before any trial", text) for text in office.told)
