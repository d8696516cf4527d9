"""What trials import late: told by a trial, tried in a fork, then imported once in its worker.

Libraries load parts of themselves at first use: the first optimizer of PyTorch 800 modules, two
seconds of each trial. No trial can leave them to the next, as each is a fork of its worker. So one
that has ended well says what it has loaded beyond its worker. Before the next trial the worker
imports that, so far as it should make no difference to a trial:

- Only modules of installed packages that the worker had begun to load. What nobody has touched
  before `train` may depend on what `train` sets first, and is left to it; the user's own modules
  too. What such a module loads in turn comes along.
- Nothing if `train` has set an environment variable that one of their files mentions.
- Nothing if importing them by themselves, in a fork that is thrown away, draws or seeds random
  numbers, starts processes, hangs, crashes, loads another package than the trial did, or leaves
  what makes forks unsafe.

A module that can't be imported by itself is left to the trials, and so are all of them where one
of the above is found; the notice says why. What was told once isn't tried again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from .channel import Record
from .forking import find_fork_hazard, try_in_fork
from .processes import list_children

#: With fewer modules than this a trial loses less than a notice is worth.
LEAST = 20
#: How long the fork may take that tries, in s: a trial was slower, with all that it did besides.
TRY_LIMIT_S = 120.0
#: Where installed packages are.
INSTALLED = ("/site-packages/", "/dist-packages/")
#: Global generators of random numbers, by module.
_GENERATORS = (("random", "getstate"), ("numpy.random", "get_state"), ("torch", "get_rng_state"))


class LateImports:
    """What a worker knows of it; its trials' processes inherit that."""

    def __init__(self) -> None:
        self._told: Record | None = None
        self._wanted: list[str] = []  # of that
        self._known: set[str] = set()
        self._note_loaded()

    # --- in a trial's process ---------------------------------------------------------------------

    def describe(self, env: Mapping[str, str | None]) -> Record | None:
        """Return what the worker should know when a trial has ended, if there is anything.

        Args:
            env: What the trial's environment has beyond that of its worker.
        """
        late = len(sys.modules) - self._count
        if late < LEAST:  # of most trials no more is asked: to look at names copies their pages
            return None
        names = [name for name in [*sys.modules][-late:] if name not in self._known]
        if len(names) < LEAST:
            return None
        return {"kind": "loaded", "modules": names, "env": _compare({**self._env, **env})}

    # --- in the worker ----------------------------------------------------------------------------

    def hear(self, told: Record) -> None:
        """Take note of what a trial has described, if any of it can be imported here."""
        late = told["modules"]
        self._known.update(late)
        packages = {name for name in map(_find_package, late) if _is_installed(name)}
        self._wanted = [name for name in late if _find_package(name) in packages]
        self._told = told if self._wanted else None

    @property
    def is_due(self) -> bool:
        """Whether there is something to import before the next trial."""
        return self._told is not None

    def load(self) -> str:
        """Import what was told, if that is safe; return a notice. The caller looks for hazards."""
        told, self._told = self._told or Record(), None
        late = told["modules"]
        loaded, problem = _try(self._wanted, set(late), told["env"])
        if problem is None:
            _import(loaded)
        self._note_loaded()
        what = _describe(self._wanted, len(late))
        if problem is not None:
            return f"{what}: {problem}; each trial goes on to import them by itself"
        return f"{what}: each worker imports them once from now on (import_ahead=False: none does)"

    def _note_loaded(self) -> None:
        self._known.update(sys.modules)
        self._count = len(sys.modules)
        self._env = dict(os.environ)


def _find_package(name: str) -> str:
    return name.partition(".")[0]


def _compare(env: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the variables that are others now than these, as they are; None for those unset."""
    names = {*env, *os.environ}
    return {name: os.environ.get(name) for name in names if os.environ.get(name) != env.get(name)}


def _describe(names: Iterable[str], count: int) -> str:
    """Name the packages, and a number that is the same for trials that differ a little."""
    digits = 10 ** (len(str(count)) - 1)
    packages = sorted({_find_package(name) for name in names})
    which = ", ".join(packages[:3])
    about = round(count / digits) * digits
    return f"trials load about {about} modules more than their worker (of {which})"


def _import(names: Iterable[str]) -> list[str]:
    """Import modules in the order in which a trial has begun to; return those that are there."""
    loaded = []
    for name in names:
        with contextlib.suppress(Exception, SystemExit):
            importlib.import_module(name)
            loaded.append(name)
    return loaded


def _is_installed(name: str) -> bool:
    """Whether a module is loaded, and from where packages are installed."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return any(part in str(getattr(spec, "origin", None)) for part in INSTALLED)


# --- the fork that tries --------------------------------------------------------------------------


def _try(names: list[str], late: set[str], env: Mapping[str, str | None]) -> tuple[list[str], Any]:
    """Import modules in a fork that is thrown away.

    Returns:
        Which can be imported, and why none should be; None if all is well.
    """
    said = try_in_fork(lambda: _judge(names, late, env), TRY_LIMIT_S)
    if said is None:
        return [], f"importing them takes longer than {TRY_LIMIT_S:.0f} s"
    if not said:
        return [], "a process that imports them crashes"
    loaded, problem = json.loads(said)
    return loaded, problem


def _judge(names: list[str], late: set[str], env: Mapping[str, str | None]) -> bytes:
    """In the fork: import, and see what that does."""
    before, states = set(sys.modules), _read_random_states(sys.modules)
    children = list_children()
    loaded = _import(names)
    new = [name for name in [*sys.modules] if name not in before]
    problem = _find_other_packages(new, before, late) or _find_read_variable(new, env)
    if problem is None and _read_random_states(before) != states:
        problem = "importing them draws or seeds random numbers"
    if problem is None and list_children() != children:
        problem = "importing them starts processes"
    return json.dumps([loaded, problem or find_fork_hazard()]).encode()


def _find_other_packages(new: list[str], before: set[str], late: set[str]) -> str | None:
    known = {_find_package(name) for name in before | late}
    for name in new:
        if _find_package(name) not in known and _is_installed(name):
            return f"importing them by themselves loads {name}, which the trial has not"
    return None


def _find_read_variable(new: list[str], env: Mapping[str, str | None]) -> str | None:
    """Find one that `train` has set, and not importing, and that a module's file mentions."""
    names = [name for name, value in env.items() if os.environ.get(name) != value]
    for module in new if names else ():
        for name in names:
            if name.encode() in _read_code(module):
                return f"train sets {name}, which {module} may read"
    return None


def _read_code(module: str) -> bytes:
    origin = getattr(getattr(sys.modules.get(module), "__spec__", None), "origin", None)
    with contextlib.suppress(OSError, TypeError), open(origin or os.devnull, "rb") as file:
        return file.read()
    return b""


def _read_random_states(modules: Iterable[str]) -> list[Any]:
    """Read the states of the global generators, of those of these modules."""
    loaded: Any = sys.modules
    states = [getattr(loaded[m], read)() for m, read in _GENERATORS if m in modules]
    return [s.tolist() if hasattr(s, "tolist") else pickle.dumps(s) for s in states]
