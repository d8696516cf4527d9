"""The parts of the test cluster that can be tested without one."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from cluster_tools import (
    ClusterSpec,
    SlurmInstall,
    clean_environ,
    leftover_processes,
    reason_unavailable,
    wait_until,
)
from cluster_tools.config import (
    build_cgroup_conf,
    build_gres_conf,
    build_slurm_conf,
    parse_version,
)
from cluster_tools.environment import find_free_ports
from cluster_tools.jobs import parse_records
from cluster_tools.requirement import require


def test_leftovers_are_found_by_environment_and_by_command_line() -> None:
    mark = str(uuid.uuid4())
    sleep = [sys.executable, "-c", "import time; time.sleep(100)"]
    by_environment = subprocess.Popen(sleep, env={**os.environ, "MARK": mark})
    by_command_line = subprocess.Popen([*sleep, mark])
    try:
        found = {process.pid for process in leftover_processes(mark)}
        assert found == {by_environment.pid, by_command_line.pid}
    finally:
        for process in (by_environment, by_command_line):
            process.kill()
    # Not waited for yet: a zombie is no process that lives.
    wait_until(lambda: not leftover_processes(mark), 5, lambda: str(leftover_processes(mark)))
    for process in (by_environment, by_command_line):
        process.wait()


def test_wait_until_says_what_it_waited_for() -> None:
    with pytest.raises(TimeoutError, match=r"after 0 s: the moon is not full"):
        wait_until(lambda: False, 0, lambda: "the moon is not full")


def test_free_ports_are_different_and_not_without_end() -> None:
    assert len(set(find_free_ports(5))) == 5
    with pytest.raises(OSError, match=r"tried 500 ports .* of 501 are free"):
        find_free_ports(501)


def test_without_slurm_tests_are_skipped_and_in_ci_they_fail() -> None:
    require(None, {"CI": "true"})
    with pytest.raises(pytest.skip.Exception, match="no Slurm: it is gone"):
        require("it is gone", {})
    with pytest.raises(pytest.fail.Exception, match=r"CI=true: .* no Slurm: it is gone"):
        require("it is gone", {"CI": "true"})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for Linux first")
@pytest.mark.skipif(os.geteuid() != 0, reason="asks for root first")
def test_the_missing_programs_are_named(tmp_path: Path) -> None:
    reason = reason_unavailable(SlurmInstall(root=tmp_path))
    assert reason is not None
    assert reason.startswith("not installed: munged, slurmctld, slurmd, srun")


def test_a_chroot_install_sees_its_own_paths(tmp_path: Path) -> None:
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/sbin/slurmd").touch()
    install = SlurmInstall(root=tmp_path)
    assert install.argv("slurmd", "-D") == ["chroot", str(tmp_path), "/usr/sbin/slurmd", "-D"]
    assert install.inside(tmp_path / "tmp" / "x") == "/tmp/x"


def test_variables_that_steer_slurm_do_not_pass() -> None:
    leaking = ["SLURM_JOB_ID", "SBATCH_PARTITION", "SRUN_DEBUG", "PMIX_RANK", "MASTER_ADDR"]
    environ = dict.fromkeys([*leaking, "HOME", "MY_SLURM_THING"], "x")
    assert clean_environ(environ) == {"HOME": "x", "MY_SLURM_THING": "x"}


def test_the_environment_of_a_test_is_clean() -> None:
    pytest_alone = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*pytest_alone, "-k", "sees_no_allocation", __file__],
        env={**os.environ, "SLURM_JOB_ID": "1", "SBATCH_PARTITION": "x", "MASTER_PORT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_test_sees_no_allocation() -> None:
    assert clean_environ(os.environ) == dict(os.environ)


def test_records_of_scontrol_are_read() -> None:
    line = "JobId=3 JobName=my job TRES=cpu=2,mem=1G Command=(null) CPUs/Task=1 WorkDir=/tmp/a b \n"
    assert parse_records(line) == [
        {
            "JobId": "3",
            "JobName": "my job",
            "TRES": "cpu=2,mem=1G",
            "Command": "(null)",
            "CPUs/Task": "1",
            "WorkDir": "/tmp/a b",
        }
    ]


def test_configuration_follows_version_and_gpus() -> None:
    assert parse_version("slurm-wlm 22.05.8\n") == (22, 5, 8)
    assert parse_version("slurm 24.11.5-4\n") == (24, 11, 5)
    assert build_cgroup_conf((22, 5, 8)) == "CgroupAutomount=no\n"
    assert build_cgroup_conf((24, 11, 5)) == "CgroupPlugin=disabled\n"
    assert (
        build_gres_conf(ClusterSpec(nodes=1, gpus=1), "/d")
        == "NodeName=n1 Name=gpu File=/d/nvidia0\n"
    )
    *_, untyped, typed = build_gres_conf(ClusterSpec(nodes=2), "/d").splitlines()
    assert untyped == "NodeName=n1 Name=gpu File=/d/nvidia[0-3]"
    assert typed == "NodeName=n2 Name=gpu Type=a100 File=/d/nvidia[0-3]"
    assert build_gres_conf(ClusterSpec(gpus=0), "/d") == ""


def test_what_a_cluster_is_to_be_like_is_a_parameter() -> None:
    spec = ClusterSpec(
        nodes=1, cpus=14, threads_per_core=2, extra=("MpiDefault=pmix", "MaxStepCount=12")
    )
    lines = build_slurm_conf(spec, "host", [1, 2], "/b", "/s").splitlines()
    (node,) = [line for line in lines if line.startswith("NodeName=")]
    assert "CPUs=14 Boards=1 SocketsPerBoard=1 CoresPerSocket=7 ThreadsPerCore=2 " in node
    assert [line for line in lines if line.startswith("M")][-2:] == list(spec.extra)
    assert "MpiDefault=none" not in lines
