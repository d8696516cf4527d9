"""Tools that people already look at: what a sweep has stored is sent to them.

They are told from the store, where the driver runs or afterwards, never by trials: a compute node
may have no network. Each needs a library of its own, which is imported in the process that sends.
"""

from .mlflow import MLflow
from .optuna import Optuna
from .tensorboard import TensorBoard
from .wandb import WandB

__all__ = ["MLflow", "Optuna", "TensorBoard", "WandB"]
