"""A virtual environment for each peer, with pinned versions, kept from run to run.

They lie in `~/.cache/slurm-sweeps-bench`, or below XDG_CACHE_HOME.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slurm-sweeps-bench"

#: The newest of PyPI on 2026-11-27. GNU parallel is the machine's own.
OPTUNA = ("optuna==5.0.0", "numpy==2.4.6", "SQLAlchemy==2.1.9")
RAY_TUNE = ("ray[tune]==2.60.0", "numpy==2.4.6", "pandas==3.1.1")
SYNE_TUNE = ("syne-tune[basic]==0.16.0", "numpy==2.4.6", "pandas==3.1.1")
SUBMITIT = ("submitit==1.5.4",)
HYPERQUEUE = ("hyperqueue==0.27.0", "cloudpickle==3.1.3")
JOBLIB = ("joblib==1.6.0",)
#: What this project was before it was written anew.
ORIGINAL = ("slurm-sweeps==0.1.3", "numpy==2.4.6", "pandas==3.1.1")
#: Its quantile regression imports the hub, though it needs nothing from there.
SYNE_TUNE_MODELS = (*SYNE_TUNE, "huggingface-hub==2.4.0")


def make_environment(packages: tuple[str, ...]) -> Path:
    """Return the Python of an environment with these packages, or with this checkout if none.

    One that is a checkout's folder is installed each time, as it may have changed since.
    """
    checkout = next((name for name in packages if Path(name).is_dir()), None)
    name = "-".join(packages) or "this checkout"
    folder = CACHE / "".join(c if c.isalnum() or c in ".-=" else "_" for c in name)[:100]
    python, done = folder / "bin" / "python", folder / "done"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not done.exists():
        print(f"making {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([*install, *(packages or [str(CHECKOUT)])], check=True)
        done.touch()
    elif checkout or not packages:
        again = ["--force-reinstall", "--no-deps", checkout or str(CHECKOUT)]
        subprocess.run([*install, *again], check=True)
    return python
