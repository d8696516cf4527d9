"""What a fork inherits from loading `train`, made as if it had loaded by itself.

- What is to be done at the end of a process is left to the one that loaded: a module's temporary
  folder would else be deleted by the first trial. (`multiprocessing` sees to that by itself.)
- Random numbers that a process seeds from entropy are seeded anew: Python's (it does so by itself
  in a fork), NumPy's and PyTorch's global ones. Those that the user has seeded while loading stay
  as they are: the same in every trial, as by hand. A NumPy `Generator` of the user's own stays as
  it is too: it doesn't tell a seed that somebody chose from entropy.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import weakref
from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any, TypeVar

T = TypeVar("T")

#: Functions for a process's end that concern what the trial itself does, by module.
_ENDS = (
    ("logging", "shutdown"),
    ("multiprocessing.util", "_exit_function"),
    ("mlflow.tracking.fluent", "_safe_end_run"),
)
#: PyTorch draws a seed of 64 bits where nobody gives one; people give shorter ones.
_LARGEST_GIVEN_SEED = 2**32


class _SeedNotes:
    """Notes what `random` is seeded with, if it is imported: each fork pays for it where it is."""

    def __init__(self) -> None:
        self.last: Any = None
        self.unwrap: Callable[[], None] = lambda: None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find `random` as Python does, to be wrapped when it was executed."""
        if name != "random":
            return None
        spec: Any = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def execute_and_wrap(module: Any) -> None:
            execute(module)
            self.wrap(module)

        spec.loader.exec_module = execute_and_wrap
        return spec

    def wrap(self, module: Any) -> None:
        """Note from now on."""
        seed = module.seed

        def seed_and_note(a: Any = None, version: int = 2) -> None:
            self.last = a
            seed(a, version)

        module.seed = seed_and_note
        self.unwrap = lambda: setattr(module, "seed", seed)


def note_seeding(load: Callable[[], T]) -> tuple[T, Any]:
    """Call `load`; return what that does, and the state of `random` if the user has seeded it."""
    notes: Any = _SeedNotes()
    if "random" in sys.modules:
        notes.wrap(sys.modules["random"])
    sys.meta_path.insert(0, notes)
    try:
        loaded = load()
    finally:
        sys.meta_path.remove(notes)
        notes.unwrap()
    return loaded, None if notes.last is None else sys.modules["random"].getstate()


def disown(random_state: Any) -> None:
    """In a fork: do what the module's docstring says.

    Args:
        random_state: What `note_seeding` has returned.
    """
    _leave_ends()
    if random_state is not None:
        sys.modules["random"].setstate(random_state)
    with contextlib.suppress(Exception):  # other versions; the trial may not need any of this
        _seed_numpy()
    with contextlib.suppress(Exception):
        _seed_torch()


def _leave_ends() -> None:
    atexit._clear()
    finalizers: Any = weakref.finalize
    for info in finalizers._registry.values():
        info.atexit = False
    finalizers._registered_with_atexit = False
    for module, name in _ENDS:
        end = getattr(sys.modules.get(module), name, None)
        if end is not None:
            atexit.register(end)


def _seed_numpy() -> None:
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is None:
        return
    # Kept only as long as it is the one that the generator was made with.
    entropy = getattr(numpy_random.mtrand._rand._bit_generator, "_seed_seq", True)
    if entropy is not None:
        numpy_random.seed()


def _seed_torch() -> None:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.initial_seed() >= _LARGEST_GIVEN_SEED:
        torch.default_generator.seed()  # CUDA's are seeded when it starts, which is in the trial
