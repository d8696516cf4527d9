"""Measure this project and its peers side by side, and write RESULTS.md.

    python benchmarks/bench.py [--quick] [--rounds 3] [--before CHECKOUT]
    python benchmarks/bench.py --measure program --only this HyperQueue   # some rows, not written

Each peer gets a virtual environment of its own, with pinned versions (`environments.py`). A measure
is taken in rounds, all peers in turn in each (A B C, A B C, …), so that what disturbs the machine
disturbs all of them; a ratio is taken within its round. Every run prints a line of JSON;
`results.jsonl` has them all. With `--before`, another checkout of this project (`git worktree add`
makes one) is measured as a peer, by its own scripts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import results
from environments import (
    HYPERQUEUE,
    JOBLIB,
    OPTUNA,
    ORIGINAL,
    RAY_TUNE,
    SUBMITIT,
    SYNE_TUNE,
    make_environment,
)
from results import Run

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Peer:
    """What is measured.

    Args:
        name: In the tables.
        script: Of `peers/`, or a path.
        packages: What its virtual environment has; empty for the project itself.
        env: What tells the script which of its kinds is meant.
        n_trivial: Trials of `trivial` in a full run; `--quick` takes half. 0 if it has none.
        n_program: The same for `program`.
        n_readme: Trials of `readme`, fewer for slow ones, whose share more would not change; 0 if
            it only has `trivial`.
        n_readme_quick: The same for `--quick`.
        reports: Whether it has reports with a verdict.
        is_quick: Whether `--quick` measures it too.
    """

    name: str
    script: str
    packages: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    n_trivial: int = 100
    n_program: int = 0
    n_readme: int = 200
    n_readme_quick: int = 100
    reports: bool = True
    is_quick: bool = True


PEERS = (
    Peer(results.OURS, "ours.py", n_trivial=1000, n_program=1000),
    Peer(
        "slurm-sweeps 0.1.3",
        "original.py",
        ORIGINAL,
        n_trivial=20,
        n_readme=50,
        n_readme_quick=20,
    ),
    Peer(
        "Optuna, in memory (threads)",
        "optuna_storages.py",
        OPTUNA,
        (("BENCH_STORAGE", "memory"),),
        n_trivial=2000,
    ),
    Peer(
        "Optuna, journal file",
        "optuna_storages.py",
        OPTUNA,
        (("BENCH_STORAGE", "journal"),),
        n_trivial=300,
    ),
    Peer(
        "Optuna, SQLite",
        "optuna_storages.py",
        OPTUNA,
        (("BENCH_STORAGE", "sqlite"),),
        n_trivial=60,
    ),
    Peer(
        "submitit, local",
        "submitit_local.py",
        SUBMITIT,
        n_trivial=20,
        n_readme=40,
        n_readme_quick=20,
        reports=False,
    ),
    Peer(
        "Ray Tune",
        "ray_tune.py",
        RAY_TUNE,
        n_trivial=12,
        n_readme=24,
        reports=False,
        is_quick=False,
    ),
    Peer(
        "Syne Tune, local back end",
        "syne_tune_local.py",
        SYNE_TUNE,
        n_trivial=20,
        n_readme=30,
        reports=False,
        is_quick=False,
    ),
    Peer(
        "HyperQueue, LocalCluster",
        "hyperqueue_local.py",
        HYPERQUEUE,
        n_trivial=2000,  # its client looks once a second
        n_program=2000,
        n_readme=60,
        reports=False,
        is_quick=False,
    ),
    Peer(
        "joblib (loky)",
        "joblib_loky.py",
        JOBLIB,
        n_trivial=2000,
        n_program=1000,
        reports=False,
    ),
    Peer(
        "GNU parallel",
        "gnu_parallel.py",
        SUBMITIT,
        n_trivial=0,
        n_program=1000,
        n_readme=0,
        reports=False,
    ),
    Peer(
        "bare fork",
        "bare.py",
        SUBMITIT,
        (("BENCH_BARE", "fork"),),
        n_trivial=2000,
        n_readme=0,
        reports=False,
    ),
    Peer(
        "bare python -c",
        "bare.py",
        SUBMITIT,
        (("BENCH_BARE", "python"),),
        n_trivial=200,
        n_readme=0,
        reports=False,
    ),
)


MEASURES = ("trivial", "program", "readme", "first_line", "report")


def main() -> None:
    """Make what is missing, measure, write."""
    options = parse_options()
    peers = [p for p in PEERS if not options.only or any(o in p.name for o in options.only)]
    if options.before is not None:
        peers.insert(1, build_peer_before(options.before.resolve()))
    peers = [p for p in peers if p.is_quick or not options.quick]
    pythons = {peer.name: make_environment(peer.packages) for peer in peers}
    runs = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for run in measure_all(peers, pythons, Path(folder), options):
            runs.append(run)
            print(json.dumps(asdict(run)), flush=True)
    if options.only or options.measure:
        return  # what is written is whole
    lines = [json.dumps(asdict(run)) + "\n" for run in runs]
    (HERE / "results.jsonl").write_text("".join(lines))
    sizes = {p.name: measure_size(p, pythons[p.name]) for p in peers if p.n_readme}
    (HERE / "RESULTS.md").write_text(results.format_results(runs, sizes, options.quick, HERE))


def build_peer_before(checkout: Path) -> Peer:
    """Return this project as another checkout has it."""
    script = checkout / "benchmarks" / "peers" / "ours.py"
    packages = (str(checkout),)
    return Peer("slurm-sweeps, before", str(script), packages, n_trivial=1000, n_program=1000)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller numbers, fewer peers")
    parser.add_argument("--only", nargs="*", help="parts of the names of the peers to measure")
    parser.add_argument("--measure", nargs="*", choices=MEASURES, help="which to take")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, help="another checkout, measured as a peer")
    return parser.parse_args()


def measure_all(
    peers: list[Peer], pythons: dict[str, Path], folder: Path, options: argparse.Namespace
) -> Iterator[Run]:
    """Take every measure, round by round, the peers in turn.

    Nothing is removed meanwhile: ext4 passes over each file that was deleted in the last minutes
    when it looks for room for a new one, so that whoever writes files would be slower each round.
    """
    history = 10_000 if options.quick else 30_000  # some peers take a minute to write them
    measures = [(measure, 0) for measure in options.measure or MEASURES]
    if "report" in dict(measures):
        measures.append(("report", history))
    for measure, rows in measures:
        for number in range(1, options.rounds + 1):
            for peer in peers:
                argv = build_argv(peer, measure, rows, options.quick)
                if argv:
                    own = tempfile.mkdtemp(dir=folder)
                    yield run_one(peer, pythons[peer.name], argv, number, own)


def build_argv(peer: Peer, measure: str, rows: int, quick: bool) -> list[str]:
    """Return the arguments of a peer's script; none if it doesn't have the measure."""
    if measure in ("trivial", "program"):
        n = peer.n_trivial if measure == "trivial" else peer.n_program
        return [measure, "--n", str(n // 2 if quick else n)] if n else []
    if measure == "readme":
        n = min(peer.n_readme, peer.n_readme_quick) if quick else peer.n_readme
        return [measure, "--n", str(n)] if n else []
    if measure == "first_line":
        return [measure] if peer.n_readme else []
    return [measure, "--rows", str(rows)] if peer.reports else []


def run_one(peer: Peer, python: Path, argv: list[str], number: int, folder: str) -> Run:
    """Run one measure of one peer in a folder; a peer that fails is told of, and has no figure."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env |= {**dict(peer.env), "BENCH_FOLDER": folder}
    load = os.getloadavg()[0]
    command = [str(python), str(HERE / "peers" / peer.script), *argv]
    name = argv[0] + (f" after {int(argv[2]):,} rows" if argv[0] == "report" else "")
    error, said = None, {}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode == 0:
            said = json.loads(done.stdout.splitlines()[-1])
        else:
            error = (done.stderr.strip() or "no word").splitlines()[-1]
    except subprocess.TimeoutExpired:
        error = f"took more than {TIMEOUT_S} s"
    value, unit = said.pop("value", None), said.pop("unit", "")
    if argv[0] in ("trivial", "program", "readme") and said:
        said["trials"] = int(argv[2])
    return Run(peer.name, name, number, value, unit, said, round(load, 1), error)


def measure_size(peer: Peer, python: Path) -> results.Size:
    """Count what a peer installs: distributions and bytes, without pip and setuptools."""
    code = (
        "import importlib.metadata as m, json, os\n"
        "found = {d.metadata['Name']: sum(f.locate().stat().st_size for f in d.files or ()"
        " if f.locate().exists()) for d in m.distributions()}\n"
        "found = {k: v for k, v in found.items() if k not in ('pip', 'setuptools', 'wheel')}\n"
        "print(json.dumps([len(found), sum(found.values())]))"
    )
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    count, size = json.loads(done.stdout)
    return results.Size(count, size, ", ".join(peer.packages))


if __name__ == "__main__":
    main()
