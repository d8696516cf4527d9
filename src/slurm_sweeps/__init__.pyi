"""The public names, and where each is defined: the one place that says so.

Type checkers read this file as it is; `__init__.py` reads it to load a name when it is first used.
"""

from . import samplers as samplers
from . import track as track
from .errors import AllocationError as AllocationError
from .errors import ExperimentExistsError as ExperimentExistsError
from .errors import ExperimentLockedError as ExperimentLockedError
from .errors import ExperimentNotFoundError as ExperimentNotFoundError
from .errors import LaunchError as LaunchError
from .errors import ProgramError as ProgramError
from .errors import SlurmSweepsError as SlurmSweepsError
from .errors import StorageError as StorageError
from .errors import SweepFailedError as SweepFailedError
from .errors import SweepStopped as SweepStopped
from .errors import TrainError as TrainError
from .errors import TrialInterrupted as TrialInterrupted
from .errors import TrialPruned as TrialPruned
from .errors import UsageError as UsageError
from .errors import UsageTypeError as UsageTypeError
from .experiment.experiment import Experiment as Experiment
from .experiment.from_optuna import from_optuna as from_optuna
from .experiment.keep import Keep as Keep
from .programs.output import File as File
from .programs.program import Program as Program
from .result import Result as Result
from .rules.asha import ASHA as ASHA
from .rules.asha import Hyperband as Hyperband
from .rules.feasible import AtLeast as AtLeast
from .rules.feasible import AtMost as AtMost
from .rules.median import MedianStopping as MedianStopping
from .running.session import attempt as attempt
from .running.session import checkpoint_dir as checkpoint_dir
from .running.session import log as log
from .running.session import script_dir as script_dir
from .running.session import should_stop as should_stop
from .running.session import trial_dir as trial_dir
from .running.session import trial_id as trial_id
from .running.session import trial_seed as trial_seed
from .search.choices import Choice as Choice
from .search.choices import Grid as Grid
from .search.priors import Prior as Prior
from .search.repeat import Repeat as Repeat
from .search.spaces import Integer as Integer
from .search.spaces import LogInteger as LogInteger
from .search.spaces import LogUniform as LogUniform
from .search.spaces import Normal as Normal
from .search.spaces import Quantized as Quantized
from .search.spaces import Uniform as Uniform
from .slurm.config import LocalCfg as LocalCfg
from .slurm.config import SlurmCfg as SlurmCfg
from .slurm.jobs import Jobs as Jobs
from .trial import Status as Status
from .trial import Trial as Trial

__version__: str
