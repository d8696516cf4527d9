"""Run in a batch job: start every planned step at once, write down what they say, end them.

Usage: python start_all_steps.py ANSWER_FILE CFG_JSON [MAX_CONCURRENT]

Each task of a step writes what it sees to a file, says so, and waits for the end of its stdin. So
the steps all hold what they were given when the last of them speaks; one that Slurm kept waiting
would never be heard, and the job's deadline ends it all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from slurm_sweeps.slurm.allocation import check_not_inside_a_step
from slurm_sweeps.slurm.client import read_allocation
from slurm_sweeps.slurm.config import SlurmCfg
from slurm_sweeps.slurm.share import Plan, plan_slots
from slurm_sweeps.slurm.step import Slot, build_srun_argv, build_step_environment

TASK = """
import json, os, pathlib, sys
from slurm_sweeps.slurm.step import build_trial_environment, choose_gpus
keywords = json.loads(sys.argv[1])
visible = keywords.pop('visible_gpus')
changes = build_trial_environment(os.environ, **keywords)
changes |= choose_gpus(os.environ, visible)
answer = pathlib.Path(sys.argv[2] + '.' + os.environ['SLURM_PROCID'])
answer.write_text(json.dumps({'seen': dict(os.environ), 'changes': changes}))
os.write(2, f'READY {answer}\\n'.encode())
sys.stdin.read()
"""
READY = "READY "


def start(slot: Slot, cfg: SlurmCfg, env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a slot's step, whose tasks write their answers to files in the folder."""
    keywords = {
        "master_port": 20000 + slot.index,
        "cpus_per_task": slot.cpus_per_task,
        "mem_mb": slot.mem_mb,
        "visible_gpus": slot.visible_gpus,
    }
    command = [sys.executable, "-c", TASK, json.dumps(keywords), str(folder / f"slot{slot.index}")]
    return subprocess.Popen(
        build_srun_argv(slot, cfg, command),
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def listen(process: subprocess.Popen[bytes], tasks: int) -> tuple[list[Any], list[str]]:
    """Wait for a line of each task; give the answers, and what else was said."""
    assert process.stderr is not None
    answers, rest = [], []
    while len(answers) < tasks:
        line = process.stderr.readline().decode()
        if line.startswith(READY):
            answers.append(json.loads(Path(line.removeprefix(READY).rstrip("\n")).read_text()))
        elif line:
            rest.append(line)
        else:
            break
    return answers, rest


def main(answer_file: str, cfg_json: str, most: str = "") -> None:
    """Do it all."""
    check_not_inside_a_step(os.environ)
    cfg = SlurmCfg(**json.loads(cfg_json))
    allocation = read_allocation(os.environ)
    assert allocation is not None
    plan: Plan = plan_slots(allocation, cfg, int(most) if most else None)
    env = build_step_environment(os.environ)
    folder = Path(answer_file).parent
    processes = [start(slot, cfg, env, folder) for slot in plan.slots]
    slots = []
    for slot, process in zip(plan.slots, processes, strict=True):
        tasks, rest = listen(process, slot.ntasks)
        planned = {name: getattr(slot, name) for name in Slot.__slots__}
        slots.append({"planned": planned, "tasks": tasks, "rest": rest})
    shown = subprocess.run(
        [os.environ.get("SCONTROL", "scontrol"), "--oneliner", "show", "step", allocation.job_id],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for process in processes:
        process.communicate()
    codes = [process.returncode for process in processes]
    answer = {"slots": slots, "notices": plan.notices, "steps": shown, "codes": codes}
    Path(answer_file).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
