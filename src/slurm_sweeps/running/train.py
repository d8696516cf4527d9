"""Carrying `train` and configurations to the workers, and loading `train` ahead of its trials.

`train` travels as a pickle in the experiment's folder. A pickle runs code when it is read, so it is
only read from a folder that is the reader's own and that nobody else can write; and what is read
must have the digest that the driver has sent, or it was exchanged after that look.

A worker loads it once and forks a process for each trial. To let all trials share the imports that
`train` begins with, the worker does those in advance: those that every trial would do before it has
done anything else, which are the same in whatever process they happen. An import after another
statement may depend on it (`os.environ[...] = ...`), one in a branch may never be meant to happen:
they are left to the trial.

A trial's configuration travels in its `run` record, and once more as the text of its `cfg.yml`, for
people.
"""

from __future__ import annotations

import base64
import contextlib
import dis
import faulthandler
import functools
import importlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, cast

try:
    from _blake2 import blake2b  # what `hashlib` has too, which loads OpenSSL into every trial
except ImportError:  # a Python that was built without its own
    from hashlib import blake2b

from ..errors import StorageError, TrainError, UsageTypeError
from ..storage.layout import build_draft_path
from .channel import Record, encode_bounded
from .forking import keep_cuda_closed
from .pickling import dumps, explain, loads

Train = Callable[[dict[str, Any]], Any]


def pickle_train(train: Train) -> bytes:
    """Pickle `train`.

    Raises:
        TrainError: It can't be pickled.
    """
    try:
        return dumps(train, with_script=True)
    except Exception as error:  # objects may raise anything when pickled
        raise TrainError(f"train ({train!r}) {explain(error, train, 'train')}") from error


#: From how many MB on the size of what travels is said.
LARGE_MB = 100


def describe_size(size: int) -> str | None:
    """Say that what `pickle_train` made is large, if its so many bytes are."""
    if size < LARGE_MB * 10**6:
        return None
    return (
        f"train takes {size // 10**6} MB along (variables of the script or from around it): each "
        "host reads and keeps them, and for a moment twice as much. Load large data in a module "
        "that train imports, or inside train"
    )


def write_train(data: bytes, path: Path) -> str:
    """Write what `pickle_train` made to `path`, whose folder becomes the user's alone (mode 0700).

    Returns:
        The digest that `read_train` asks for.

    Raises:
        StorageError: It can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        temporary = build_draft_path(path)
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask: `read_train` is strict
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"can't write {path}: {error}. Choose a local_dir that you can write, on a disk that "
            "has room"
        ) from error
    return _compute_digest(data)


def keep_train(path: Path) -> str | None:
    """Return the digest of what `write_train` wrote before; None if that is not there."""
    try:
        return _compute_digest(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"can't read {path}: {error}") from error


def _compute_digest(data: bytes) -> str:
    return blake2b(data, digest_size=32).hexdigest()


def load_train(
    path: Path, digest: str, ahead: bool, notify: Callable[[str], object] = print
) -> Train:
    """Get ready to call `train` in forked trials.

    Args:
        ahead: Load it here, with all that it imports, so that every trial finds it loaded. If
            False the trial loads it in its own process: where there is only one trial nothing is
            saved by that, and MPI must be started by the trial itself, once in a job step.

    Raises:
        TrainError: See `read_train`.
        Exception: Whatever loading raises.
    """
    if not ahead:
        return lambda cfg: read_train(path, digest)(cfg)
    keep_cuda_closed()
    train = read_train(path, digest, notify)
    import_ahead(train)
    return train


def read_train(path: Path, digest: str, notify: Callable[[str], object] = print) -> Train:
    """Unpickle `train`, after a look at who could have written it.

    Raises:
        TrainError: The folder or file belongs to, or can be written by, somebody else; or it is not
            what the driver wrote.
        Exception: Whatever unpickling raises, a missing module for instance.
    """
    for place in (path.parent, path):
        _check_owned(place)
    data = path.read_bytes()
    if _compute_digest(data) != digest:
        raise TrainError(
            f"{path} is not what the driver wrote: someone has exchanged it. Refused, since "
            "unpickling it would run their code. Use a local_dir of your own"
        )
    with contextlib.suppress(Exception):  # a closed standard error
        faulthandler.enable(2)  # what crashes in an import leaves a word: which
    return cast(Train, loads(data, notify))


def _check_owned(place: Path) -> None:
    try:
        status = place.stat()
    except FileNotFoundError:
        raise TrainError(
            f"this node does not see {place}: is it on a disk that only the driver's node has? "
            "Use a local_dir that all nodes of the job share"
        ) from None
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
    """Import what the body of `train` begins with, so that forked trials find it there.

    If the first thing that it does then is to call a function of the same module, that one's first
    imports too. What can't be imported, or ends the process, is left for the trial to do.
    """
    for name, members in _find_imports(train):
        with contextlib.suppress(Exception, SystemExit):
            module = importlib.import_module(name)
            for member in members:
                if not hasattr(module, member):
                    with contextlib.suppress(Exception, SystemExit):
                        importlib.import_module(f"{name}.{member}")


#: How instructions begin that only move values, define functions, or import.
NO_EFFECT = (
    *("LOAD_", "STORE_FAST", "STORE_DEREF", "STORE_GLOBAL", "BUILD_", "IMPORT_", "MAKE_"),
    *("RESUME", "NOP", "CACHE", "EXTENDED_ARG", "POP_TOP", "PUSH_NULL", "PRECALL", "KW_NAMES"),
    *("COPY", "SWAP", "ROT_", "DUP_TOP", "BINARY_SUBSCR", "SET_FUNCTION_ATTRIBUTE"),
    "SETUP_FINALLY",  # of a `try`, which newer versions of Python begin without an instruction
)


def _find_imports(train: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each absolute import that a callable begins with: module, and the names it takes."""
    function, seen = _find_function(train), set[FunctionType]()
    while function is not None and function not in seen:
        seen.add(function)
        loaded: list[dis.Instruction] = []  # by the statement so far
        called = None
        for instruction in dis.get_instructions(function.__code__):
            if instruction.opname == "IMPORT_NAME" and loaded[-2].argval == 0:
                yield instruction.argval, tuple(loaded[-1].argval or ())
            elif instruction.opname.startswith("LOAD_"):
                loaded.append(instruction)
            elif instruction.opname.startswith(("STORE_", "POP_TOP")):
                loaded.clear()
            elif instruction.opname.startswith("CALL"):
                called = _find_called(function, loaded)
            if not instruction.opname.startswith(NO_EFFECT):
                break
        function = called


def _find_called(function: FunctionType, loaded: list[dis.Instruction]) -> FunctionType | None:
    """Return the function that a statement calls, if it is one of the same module for sure."""
    names = [i.argval for i in loaded if i.opname == "LOAD_GLOBAL"]
    if len(names) != 1 or loaded[0].opname != "LOAD_GLOBAL":
        return None
    called = function.__globals__.get(names[0])
    is_near = isinstance(called, FunctionType) and called.__module__ == function.__module__
    return called if is_near else None


def _find_function(train: Any) -> FunctionType | None:
    while isinstance(train, functools.partial):
        train = train.func
    train = getattr(train, "__func__", train)  # a bound method
    if not isinstance(train, FunctionType):
        train = getattr(type(train), "__call__", None)  # noqa: B004 - the method itself is wanted
    return train if isinstance(train, FunctionType) else None


def check_travels(template: dict[str, Any], example: dict[str, Any]) -> None:
    """See that cfgs reach a worker: one with spaces in it, and an example that was drawn of it.

    Raises:
        UsageTypeError: A cfg, or what a space in it may give, can't be pickled.
        UsageError: The example is too large.
    """
    try:
        dumps(template)
    except Exception as error:  # objects may raise anything when pickled
        raise UsageTypeError(f"cfg {explain(error, template, 'cfg')}") from error
    for sent in ({"cfg": encode_cfg(example)}, describe_cfg(example)):  # the second takes its time
        encode_bounded({"kind": "run", "trial_id": "", **sent})


def describe_cfg(cfg: dict[str, Any]) -> Record:
    """Write a cfg for a `run` record: to be read back, for people, and as journals have it."""
    encoded = encode_cfg(cfg)
    described: Record = {"cfg": encoded, "cfg_yml": format_cfg(cfg)}
    if isinstance(encoded, str):
        from ..trial import canonical_json

        described["stored"] = json.loads(canonical_json(cfg))
    return described


def encode_cfg(cfg: dict[str, Any]) -> dict[str, Any] | str:
    """Write a cfg for a `run` record: as it is if JSON gives it back the same, else pickled."""
    return cfg if _is_plain(cfg) else base64.b64encode(dumps(cfg)).decode()


def decode_cfg(sent: dict[str, Any] | str) -> dict[str, Any]:
    """Read the cfg of a `run` record."""
    cfg: dict[str, Any] = loads(base64.b64decode(sent)) if isinstance(sent, str) else sent
    return cfg


def _is_plain(value: Any) -> bool:
    """Whether JSON gives a value back the same, in type too (a tuple would become a list)."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and _is_plain(value[key]) for key in value)
    if kind is list:
        return all(map(_is_plain, value))
    return value is None or kind in (str, float, int, bool)


def format_cfg(cfg: dict[str, Any]) -> str:
    """Write a cfg as YAML; what YAML can't hold is shown as text."""
    import yaml  # here, as the next: only the driver writes it, and hosts stay small

    from ..trial import describe_value

    text = json.dumps(cfg, default=describe_value, ensure_ascii=False)
    # File names that are not UTF-8 hold halves of surrogate pairs, which a file can't.
    plain = json.loads(text.encode("utf-8", "replace"))
    # The C emitter is five times faster; PyYAML has it where libyaml was there when it was built.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=True))


def check_there(train: Path) -> None:
    """See that an experiment's folder, with the pickled `train` in it, is still there.

    Raises:
        StorageError: Somebody has removed it.
    """
    try:
        train.stat()
    except FileNotFoundError as error:
        raise StorageError(
            f"{train} is gone: someone has removed the experiment's folder, or part of it, while "
            "the sweep ran. restore=True goes on without what trials wrote there, overwrite=True "
            "begins anew"
        ) from error
    except OSError:  # it can't be seen for the moment
        return
