"""An objective that was written for Optuna, as `train`; and the `trial` that it is called with.

Its `suggest_…` are answered by the driver, where Optuna's sampler is, which learns of all trials.
Nothing of Optuna is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import yaml as _  # noqa: F401 - `format_cfg` needs it: hosts load it once for all trials

from ..errors import TrialPruned, UsageError
from ..running.session import get_context, log, suggest
from ..running.train import format_cfg
from ..storage.layout import TrialLayout

#: What a trial of Optuna's has and this one has not, and why.
MISSING = {
    "study": "the study is the experiment, in the driver: read it with ss.Result",
    "storage": "what a sweep has stored is read with ss.Result",
    "distributions": "what parameters were drawn from is known to the driver alone",
    "relative_params": "what parameters were drawn from is known to the driver alone",
    "system_attrs": "use user_attrs",
    "set_system_attr": "use set_user_attr",
    "datetime_start": "the trial's times are in ss.Result",
}


class Objective:
    """The `train` of an objective."""

    def __init__(self, objective: Callable[[Any], Any], names: Sequence[str]) -> None:
        self._objective = objective
        self._names = names

    def __call__(self, cfg: dict[str, Any]) -> dict[str, float]:
        """Call the objective with a trial; its value is the trial's last report.

        Raises:
            TrialPruned: The objective has raised Optuna's.
            UsageError: It has returned more values than there are directions, or fewer.
            Exception: What it has raised.
        """
        try:
            value = self._objective(OptunaTrial(self._names))
        except Exception as error:
            kind = type(error)
            if kind.__name__ == "TrialPruned" and kind.__module__.startswith("optuna"):
                raise TrialPruned(str(error) or "the objective has pruned it") from None
            raise
        values = value if isinstance(value, tuple | list) else (value,)
        if len(values) != len(self._names):
            raise UsageError(
                f"the objective returned {len(values)} values, and from_optuna knows directions "
                f"of {len(self._names)}: give it one for each"
            )
        return dict(zip(self._names, values, strict=True))


class OptunaTrial:
    """What an objective takes for Optuna's trial.

    Attributes:
        params: What was drawn so far, by name.
        user_attrs: What `set_user_attr` was told; also in `user_attrs.json` in the trial's folder.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._is_pruned = False
        self.params: dict[str, Any] = {}
        self.user_attrs: dict[str, Any] = {}

    @property
    def number(self) -> int:
        """The trial's position in its sweep, from 0."""
        return get_context().number

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float:
        """Draw a float from `low` to `high`, or of the steps from `low` on."""
        return float(self._draw(name, "float", low=low, high=high, step=step, log=log))

    def suggest_int(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        """Draw an int from `low` to `high`, both included, or of the steps from `low` on."""
        return int(self._draw(name, "int", low=low, high=high, step=step, log=log))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Draw one of the choices."""
        choices = list(choices)
        if not all(each is None or isinstance(each, bool | int | float | str) for each in choices):
            raise UsageError(
                f"suggest_categorical({name!r}): choices are None, bool, int, float or str, which "
                f"can be stored, got {choices!r}; choose by a name"
            )
        return self._draw(name, "categorical", choices=choices)

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """Draw a float, under a name that Optuna has given up."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """Draw a float on a logarithmic scale, under a name that Optuna has given up."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """Draw one of the steps from `low` on, under a name that Optuna has given up."""
        return self.suggest_float(name, low, high, step=q)

    def _draw(self, name: str, method: str, **arguments: Any) -> Any:
        if name not in self.params:
            self.params[name] = suggest(name, method, arguments)
            text = format_cfg(self.params)
            TrialLayout(get_context().directory).cfg.write_text(text, encoding="utf-8")
        return self.params[name]

    def report(self, value: float, step: int) -> None:
        """Report a value on the way; whether the trial is to be pruned, `should_prune` tells.

        Raises:
            TrialPruned: It was to be pruned at the report before.
            TrialInterrupted: As `log`.
            UsageError: There are several objectives, of which it tells one.
        """
        if len(self._names) > 1:
            raise UsageError(
                "trial.report tells of one objective, as in Optuna, and there are several: call "
                f"ss.log with all of them, {list(self._names)!r}"
            )
        try:
            log({self._names[0]: value}, step)
        except TrialPruned:
            if self._is_pruned:
                raise
            self._is_pruned = True

    def should_prune(self) -> bool:
        """Tell whether the pruner stops this trial."""
        return self._is_pruned

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep something with the trial."""
        self.user_attrs[key] = value
        text = json.dumps(self.user_attrs, default=str, indent=1)
        (get_context().directory / "user_attrs.json").write_text(text, encoding="utf-8")

    def __getattr__(self, name: str) -> NoReturn:
        why = MISSING.get(name, "there is no such attribute")
        raise AttributeError(f"trial.{name} of a trial of ss.from_optuna: {why}")
