"""Carrying `train` from the driver to the workers, and loading it there ahead of its trials.

`train` travels as a pickle (cloudpickle: what lives in `__main__`, a notebook or a closure goes by
value, the rest by name) in the experiment's folder. A pickle runs code when it is read, so it is
only read from a folder that is the reader's own and that nobody else can write.

A worker loads it once and forks a process for each trial. To let all trials share the imports that
`train` does inside its body, the worker does those in advance.

`cfg.yml`, a trial's configuration for people to read and paste.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import importlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast

import cloudpickle

from ..errors import StorageError, TrainError
from ..storage.layout import TrialLayout, build_draft_path
from ..trial import describe_value
from .fork_hazard import keep_cuda_closed

Train = Callable[[dict[str, Any]], Any]


def pickle_train(train: Train) -> bytes:
    """Pickle `train`.

    Raises:
        TrainError: It can't be pickled.
    """
    try:
        return cast(bytes, cloudpickle.dumps(train))
    except Exception as error:  # objects may raise anything when pickled
        raise TrainError(
            f"train ({train!r}) can't be pickled: {type(error).__name__}: {error}. Create what "
            "can't travel (locks, files, connections, models on a GPU) inside train"
        ) from error


def write_train(data: bytes, path: Path) -> None:
    """Write what `pickle_train` made to `path`, whose folder becomes the user's alone (mode 0700).

    Raises:
        StorageError: It can't be written.
    """
    try:
        _write(data, path)
    except OSError as error:
        raise StorageError(
            f"can't write {path}: {error}. Choose a local_dir that you can write, on a disk that "
            "has room"
        ) from error


def _write(data: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    temporary = build_draft_path(path)
    with temporary.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)  # whatever the umask: `read_train` is strict
        file.write(data)
    temporary.replace(path)


def load_train(path: Path, ahead: bool) -> Train:
    """Get ready to call `train` in forked trials.

    Args:
        path: The pickle.
        ahead: Load it here, with all that it imports, so that every trial finds it loaded. If
            False the trial loads it in its own process: where there is only one trial nothing is
            saved by that, and MPI must be started by the trial itself, once in a job step.

    Raises:
        TrainError: See `read_train`.
        Exception: Whatever loading raises.
    """
    if not ahead:
        return functools.partial(_read_and_call, path)
    keep_cuda_closed()
    train = read_train(path)
    import_ahead(train)
    return train


def _read_and_call(path: Path, cfg: dict[str, Any]) -> Any:
    return read_train(path)(cfg)


def read_train(path: Path) -> Train:
    """Unpickle `train`, after a look at who could have written it.

    Raises:
        TrainError: The folder or file belongs to, or can be written by, somebody else.
        Exception: Whatever unpickling raises, a missing module for instance.
    """
    for place in (path.parent, path):
        _check_owned(place)
    train = cast(Train, cloudpickle.loads(path.read_bytes()))
    _fill_main(train)
    return train


def _fill_main(train: Train) -> None:
    """Put what came along of the script's `__main__` where pickle and multiprocessing look for it.

    Without, an object of a class of the script could not be pickled inside of `train`: its name
    could not be found in this process's `__main__`, which is another one.
    """
    function = _find_function(train)
    if function is None or function.__module__ != "__main__":
        return
    main = vars(sys.modules["__main__"])
    main.update({k: v for k, v in function.__globals__.items() if not k.startswith("__")})
    for own in (function, type(train)):
        if own.__module__ == "__main__" and own.__qualname__.isidentifier():
            main.setdefault(own.__qualname__, own)


def _check_owned(place: Path) -> None:
    status = place.stat()
    if status.st_uid != os.geteuid():
        raise TrainError(
            f"{place} belongs to user {status.st_uid}, not to you ({os.geteuid()}): "
            "refused, since unpickling it would run code of theirs. Use a local_dir of your own"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TrainError(
            f"{place} can be written by others (mode {stat.S_IMODE(status.st_mode):o}): refused, "
            f"since unpickling it could run code of theirs. Do: chmod go-w {str(place)!r}"
        )


def import_ahead(train: Train) -> None:
    """Import what the body of `train` imports, so that forked trials find it there.

    Follows the functions of the same module that `train` calls by name. A module that can't be
    imported is left for the trial to complain about.
    """
    for name, members in _find_imports(train):
        with contextlib.suppress(Exception):
            module = importlib.import_module(name)
            _import_submodules(module, members)


def _import_submodules(module: ModuleType, members: tuple[str, ...]) -> None:
    for member in members:
        if not hasattr(module, member):
            with contextlib.suppress(Exception):
                importlib.import_module(f"{module.__name__}.{member}")


def _find_imports(train: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each absolute import in the body of a callable: module and the names taken from it."""
    waiting, seen = [_find_function(train)], set()
    while waiting:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        for code in _walk_code(function.__code__):
            yield from _read_imports(code)
            for name in code.co_names:
                called = function.__globals__.get(name)
                if isinstance(called, FunctionType) and called.__module__ == function.__module__:
                    waiting.append(called)


def _find_function(train: Any) -> FunctionType | None:
    while isinstance(train, functools.partial):
        train = train.func
    train = getattr(train, "__func__", train)  # a bound method
    if not isinstance(train, FunctionType):
        train = getattr(type(train), "__call__", None)  # noqa: B004 - the method itself is wanted
    return train if isinstance(train, FunctionType) else None


def _walk_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _walk_code(constant)


def _read_imports(code: CodeType) -> Iterator[tuple[str, tuple[str, ...]]]:
    level_and_names: list[Any] = []  # the two constants loaded before an import
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name in ("LOAD_CONST", "LOAD_SMALL_INT"):
            level_and_names = [*level_and_names[-1:], instruction.argval]
        elif name == "IMPORT_NAME" and level_and_names[0] == 0:
            yield instruction.argval, tuple(level_and_names[-1] or ())


def format_cfg(cfg: dict[str, Any]) -> str:
    """Write a cfg as YAML; what YAML can't hold is shown as text."""
    text = json.dumps(cfg, default=describe_value, ensure_ascii=False)
    # File names that are not UTF-8 hold halves of surrogate pairs, which a file can't.
    plain = json.loads(text.encode("utf-8", "replace"))
    import yaml  # here: only the driver writes it

    # The C emitter is five times faster; PyYAML has it where libyaml was there when it was built.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=True))


def write_cfg(cfg: dict[str, Any], folder: Path) -> None:
    """Make a trial's folder and write its `cfg.yml`."""
    folder.mkdir(parents=True, exist_ok=True)
    TrialLayout(folder).cfg.write_text(format_cfg(cfg), encoding="utf-8")
