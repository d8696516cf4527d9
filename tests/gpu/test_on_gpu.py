"""On a real GPU: warm forks, its memory from trial to trial, Slurm's GPUs, DDP with Lightning."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster_tools import SlurmCluster
from slurm_sweeps import Result, Trial
from sweep_scripts import Scripts

pytestmark = pytest.mark.gpu

TIMEOUT_S = 300.0

#: What many a user's module begins with, and a `train` in it. It says whether it runs in a process
#: that has imported the module itself or in a fork.
MODULE = """
import os
import torch
import slurm_sweeps as ss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMPORTED_BY = os.getpid()

def train(cfg):
    x = torch.ones(512, 512, device=DEVICE, requires_grad=True)
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.empty(int(total * float(cfg["part"])), dtype=torch.uint8, device=DEVICE)
    held.fill_(1)
    if cfg["fate"] == "kill" and ss.attempt() == 1:
        os.kill(os.getpid(), 9)
    if cfg["fate"] == "raise":
        raise RuntimeError("as planned")
    for iteration in range(1, 5):
        (x @ x).sum().backward()
        ss.log({
            "loss": cfg["lr"] + 1 / iteration,
            "gradient": x.grad[0, 0].item() / iteration,
            "on_gpu": float(x.device.type == "cuda"),
            "forked": float(os.getpid() != IMPORTED_BY),
            "gpus": torch.cuda.device_count(),
        }, iteration)
"""
SWEEP = """
import sys
import slurm_sweeps as ss
from gpu_module import train

if __name__ == "__main__":
    part, n_trials, arguments = float(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])
    cfg = {"lr": ss.Uniform(0, 1), "fate": ss.Choice(["finish", "raise", "kill"]), "part": part}
    fates = ["raise", "finish", "kill"] + ["finish"] * (n_trials - 3)
    ss.Experiment(
        train, cfg, "gpu", asha=ss.ASHA("loss", "min"), seed=1,
        points_to_evaluate=[{"fate": fate} for fate in fates], **arguments,
    ).run(n_trials=n_trials)
"""
JOB = ("-N1", "-c2", "--mem-per-cpu=1G", "--gres=gpu:1", "-t5")


def write_sweep(folder: Path) -> None:
    (folder / "gpu_module.py").write_text(MODULE)
    (folder / "sweep.py").write_text(SWEEP)


def run_job(cluster: SlurmCluster, folder: Path, command: str, *options: str) -> str:
    """Run a Python command as a batch job to its end; return what it printed."""
    text = (
        f"export PYTHONPATH={shlex.quote(':'.join(sys.path[1:]))}\nexec {sys.executable} {command}"
    )
    job_id = cluster.sbatch(text, *options, cwd=folder)
    end = cluster.wait_job(job_id, TIMEOUT_S)
    output = cluster.job_output(job_id)
    assert end.exit_code == 0, output
    return output


def read_last(trial: Trial, name: str) -> float:
    return list(trial.metrics[name].values())[-1]


def check_trials(folder: Path, count: int) -> list[dict[str, Any]]:
    """All trials have computed on one GPU, in forks, and ended as their configuration has it.

    Returns what `slurm-sweeps show` tells of each.
    """
    trials = Result("gpu", folder / "slurm-sweeps").trials
    assert len(trials) == count
    for trial in trials:
        if trial.cfg["fate"] == "raise":
            assert str(trial.status) == "failed"
            assert "as planned" in str(trial.error)
            continue
        assert str(trial.status) in {"completed", "pruned"}, (trial, trial.error)
        assert trial.gpu_memory_mb
        for name, value in {"gradient": 1024.0, "on_gpu": 1.0, "gpus": 1.0, "forked": 1.0}.items():
            assert read_last(trial, name) == value, name
    assert {str(trial.status) for trial in trials} == {"completed", "pruned", "failed"}
    command = [sys.executable, "-m", "slurm_sweeps", "show", "gpu", "--json"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(shown.stdout)["trials"]


PROBE = """
import os, sys
from slurm_sweeps.running.forking import find_fork_hazard, keep_cuda_closed

keep_cuda_closed()
import torch
{code}
print(find_fork_hazard())
sys.stdout.flush()
child = os.fork()
if not child:
    try:
        counted = torch.cuda.device_count()  # by NVML, until CUDA has started
        print(counted * torch.ones(3, device="cuda").sum().item(), flush=True)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize(
    "code",
    [
        "",
        "torch.cuda.is_available()",
        "torch.cuda.device_count()",
        "torch.manual_seed(1)",
        "import lightning; lightning.seed_everything(1); torch.cuda.is_available()",
    ],
)
def test_looking_for_a_gpu_is_no_hazard(gpu_count: int, scripts: Scripts, code: str) -> None:
    lines = scripts.run(PROBE.format(code=code)).stdout.splitlines()
    assert lines[-2:] == ["None", str(3.0 * gpu_count)]


@pytest.mark.parametrize("code", ["torch.cuda.init()", "torch.zeros(1, device='cuda')"])
@pytest.mark.usefixtures("gpu_count")
def test_using_a_gpu_is_a_hazard(scripts: Scripts, code: str) -> None:
    hazard, fork = scripts.run(PROBE.format(code=code)).stdout.splitlines()[:2]
    assert hazard == "importing what train needs has started CUDA"
    assert "Cannot re-initialize CUDA" in fork


@pytest.mark.usefixtures("gpu_count")
def test_on_this_machine_each_trial_has_the_gpu_to_itself(scripts: Scripts) -> None:
    """Each takes 70 % of its memory, however the one before it has ended."""
    write_sweep(scripts.folder)
    scripts.run(SWEEP, "0.7", "12", "dict(local_cfg=ss.LocalCfg(gpus=1))", timeout_s=TIMEOUT_S)
    check_trials(scripts.folder, 12)


def test_in_a_job_each_trial_has_the_gpu_to_itself(
    gpu_cluster: SlurmCluster, tmp_path: Path
) -> None:
    write_sweep(tmp_path)
    run_job(gpu_cluster, tmp_path, "sweep.py 0.7 12 'dict()'", "-n1", *JOB)
    assert {trial["gpus"] for trial in check_trials(tmp_path, 12)} == {"0"}


@pytest.mark.parametrize("share_imports", [False, True])
def test_slots_of_a_job_share_a_gpu(
    gpu_cluster: SlurmCluster, tmp_path: Path, share_imports: bool
) -> None:
    write_sweep(tmp_path)
    arguments = f"'dict(slurm_cfg=ss.SlurmCfg(share_imports={share_imports}))'"
    output = run_job(gpu_cluster, tmp_path, f"sweep.py 0.1 16 {arguments}", "-n4", *JOB)
    assert "dealt out in turn" in output
    check_trials(tmp_path, 16)


LIGHTNING = """
import os
import lightning, torch
import slurm_sweeps as ss
from slurm_sweeps.integrations.lightning import SlurmSweepsCallback

IMPORTED_BY = os.getpid()

class Network(lightning.LightningModule):
    def __init__(self, lr):
        super().__init__()
        self.lr, self.layer = lr, torch.nn.Linear(8, 1)

    def training_step(self, batch, _):
        return (self.layer(batch) - batch.sum(1, keepdim=True)).square().mean()

    def validation_step(self, batch, _):
        loss = self.training_step(batch, _)
        self.log("loss", loss, sync_dist=True)
        self.log("on_gpu", float(batch.is_cuda), sync_dist=True)
        self.log("ranks", float(self.trainer.world_size), sync_dist=True)
        self.log("forked", float(os.getpid() != IMPORTED_BY), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)

def train(cfg):
    from lightning.pytorch.strategies import DDPStrategy
    loader = torch.utils.data.DataLoader(torch.randn(256, 8), 32)
    trainer = lightning.Trainer(
        accelerator="gpu", devices=1, num_nodes=int(os.environ.get("SLURM_NNODES", "1")),
        # NCCL refuses two ranks on one GPU, which is what the two nodes of this Slurm have.
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=8, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[SlurmSweepsCallback(["loss", "on_gpu", "ranks", "forked"])],
    )
    trainer.fit(Network(cfg["lr"]), loader, loader)
"""
LIGHTNING_SWEEP = """
import slurm_sweeps as ss
from lightning_module import train

if __name__ == "__main__":
    ss.Experiment(
        train, {"lr": ss.LogUniform(1e-6, 0.1)}, "gpu", asha=ss.ASHA("loss", "min"), seed=1,
        slurm_cfg=ss.SlurmCfg(nodes=2, ntasks=2),
    ).run(n_trials=8)
"""


def test_lightning_ddp_is_warm_and_pruned(gpu_cluster: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "lightning_module.py").write_text(LIGHTNING)
    (tmp_path / "sweep.py").write_text(LIGHTNING_SWEEP)
    options = ("-N2", "--ntasks-per-node=1", "-c2", "--mem-per-cpu=2G", "--gres=gpu:1", "-t5")
    run_job(gpu_cluster, tmp_path, "sweep.py", *options)
    result = Result("gpu", tmp_path / "slurm-sweeps")
    assert len(result.trials) == 8
    statuses = {str(trial.status) for trial in result.trials}
    assert statuses == {"completed", "pruned"}, [trial.error for trial in result.trials]
    for trial in result.trials:
        for name, value in {"on_gpu": 1.0, "ranks": 2.0, "forked": 1.0}.items():
            assert read_last(trial, name) == value, name
