"""Objects of the user's script, as bytes that another process can read: `train`, and cfgs.

What lives in `__main__`, a notebook or a closure goes by value, the rest by name; cloudpickle does
that. Added is what lets the other process treat them as by hand:

- Functions keep their file and line, whatever the version of cloudpickle, and the source of cells
  of a notebook goes along: tracebacks show it, and what compiles source (`torch.jit.script`,
  `tf.function`) finds it.
- The other process's `__main__` becomes the script's, as far as it travels: functions of the script
  have it as their globals, and pickle, by reference, and multiprocessing find classes, functions
  and the file there.
- Where the script's top level has run (`script`), its classes are those, by name: what is
  registered for them there holds, and only their values are set as they were in the driver.
- What can't be pickled is named, with where it is used.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import importlib.machinery
import io
import linecache
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import reduce
from itertools import islice
from types import CodeType, FunctionType, MethodType
from typing import Any

import cloudpickle

from .script import read_script, run_script
from .settings import apply_settings, read_settings

#: How deep, and into how many parts of one thing, the search for what can't be pickled goes.
MAX_DEPTH = 8
MAX_PARTS = 1000

_has_entered_main = False
_script_classes: set[type] = set()  # that the script's top level has made in this process


def dumps(thing: object, with_script: bool = False) -> bytes:
    """Write an object as bytes for `loads`.

    Args:
        with_script: Let the other process run the script's top level, and have its settings.

    Raises:
        Exception: Whatever its parts raise when pickled.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(_describe_main() | (_describe_script() if with_script else {}))
    pickler.dump(thing)
    pickler.dump(pickler.of_main)  # nothing but references to what was written already
    return file.getvalue()


def loads(data: bytes, notify: Callable[[str], object] = print) -> Any:
    """Read what `dumps` wrote; in a worker or trial, `__main__` becomes the script's.

    Raises:
        Exception: Whatever unpickling raises, a missing module for instance.
    """
    unpickler = pickle.Unpickler(io.BytesIO(data))
    is_stand_in = _enter_main(unpickler.load(), notify)
    thing = unpickler.load()
    if is_stand_in:
        vars(sys.modules["__main__"]).update(unpickler.load())
    return thing


class _MainGlobals(dict[str, Any]):
    """Stands for the globals of the script's functions: where they are read, `__main__`'s."""

    def __reduce__(self) -> tuple[Callable[[], dict[str, Any]], tuple[()]]:
        return _get_main_globals, ()


def _get_main_globals() -> dict[str, Any]:
    return vars(sys.modules["__main__"])


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no annotations
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.of_main: dict[str, Any] = {}
        self._sources: dict[str, tuple[str, str | None]] = {}
        self._main = sys.modules["__main__"]
        self.globals_ref[id(vars(self._main))] = _MainGlobals()

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, CodeType):
            return self._reduce_code(thing)
        if isinstance(thing, (type, FunctionType)) and thing.__module__ == "__main__":
            name = thing.__qualname__
            if vars(self._main).get(name) is thing:
                self.of_main[name] = thing
        reduced = super().reducer_override(thing)
        if isinstance(thing, type) and thing.__module__ == "__main__" and type(reduced) is tuple:
            make, args, state, *_, set_state = reduced
            made = thing.__qualname__, make, args
            return _make_class, made, (set_state, state), None, None, _set_class_state
        return reduced

    def _reduce_code(self, code: CodeType) -> tuple[Any, ...]:
        make, args = self.dispatch_table[CodeType](code)[:2]
        file = code.co_filename
        if file not in self._sources:
            if os.path.exists(file):  # perhaps relative to a folder that a trial isn't in
                self._sources[file] = os.path.abspath(file), None
            else:
                self._sources[file] = file, "".join(linecache.getlines(file)) or None
        return _restore_code, (*self._sources[file], make, args)


def _make_class(name: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Return the class of this name that the script has made here, or make it of its parts."""
    try:
        found = reduce(getattr, name.split("."), sys.modules["__main__"])
    except AttributeError:
        found = None
    return found if isinstance(found, type) and found in _script_classes else make(*args)


def _set_class_state(made: type, how: tuple[Callable[[type, Any], type], Any]) -> type:
    set_state, state = how
    if made not in _script_classes:
        return set_state(made, state)
    for name, value in state[0].items():
        # What it does is the script's; what it is set to, the driver's.
        is_data = not callable(value) and not hasattr(value, "__get__")
        if is_data and not name.startswith("__") and not issubclass(made, Enum):
            with contextlib.suppress(Exception):
                setattr(made, name, value)
    return made


def _restore_code(
    file: str, source: str | None, make: Callable[..., CodeType], args: tuple[Any, ...]
) -> CodeType:
    if source is not None and file not in linecache.cache:
        # No time of change: so it stays when linecache looks for files that are gone.
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    return make(*args).replace(co_filename=file)


def _describe_script() -> dict[str, Any]:
    return {"code": read_script(), "folder": os.getcwd(), "settings": read_settings()}


def _describe_main() -> dict[str, Any]:
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return {
        "file": os.path.abspath(file) if file else None,
        "package": getattr(main, "__package__", None),
        "spec": getattr(getattr(main, "__spec__", None), "name", None),  # python -m
    }


def _enter_main(script: dict[str, Any], notify: Callable[[str], object]) -> bool:
    """Make `__main__` that of the script, if it is but `python -c`'s; tell whether it is."""
    global _has_entered_main
    main = sys.modules["__main__"]
    if _has_entered_main or hasattr(main, "__file__"):
        return _has_entered_main
    _has_entered_main = True
    if script["file"] is not None:
        main.__file__ = script["file"]
        main.__package__ = script["package"]
    if script["spec"] is not None:
        main.__spec__ = importlib.machinery.ModuleSpec(script["spec"], None, origin=script["file"])
    if script.get("code") is not None:
        problem = run_script(script["code"], script["folder"])
        if problem is not None:
            notify(problem)
        _note_classes(vars(main))
    for problem in apply_settings(script.get("settings", {})):
        notify(problem)
    return True


def _note_classes(scope: Mapping[str, Any]) -> None:
    """Note the classes that the script has made in a scope, and in those."""
    for value in list(scope.values()):
        is_new = isinstance(value, type) and value not in _script_classes
        if is_new and value.__module__ == "__main__":
            _script_classes.add(value)
            _note_classes(vars(value))


# --- what can't be pickled ------------------------------------------------------------------------


def explain(error: Exception, thing: object, name: str) -> str:
    """Say that a thing can't be pickled, why, which part of it is to blame, and what to do."""
    path, where = name, ""
    for _ in range(MAX_DEPTH):
        parts = islice(_list_parts(thing), MAX_PARTS)
        bad = next((part for part in parts if not _travels(part[1])), None)
        if bad is None:
            break
        label, thing, use = bad
        path = path + label if label.startswith((".", "[")) else label
        where = use or where
    culprit = "" if path == name else f"It is {path} ({type(thing).__qualname__}){where}. "
    return (
        f"can't be pickled: {type(error).__name__}: {error}. {culprit}"
        "Create what can't travel (locks, files, connections, models on a GPU) inside train"
    )


def _travels(thing: Any) -> bool:
    try:
        dumps(thing)
    except Exception:  # noqa: BLE001 - objects may raise anything when pickled
        return False
    return True


#: A part of a thing: its name, or what to write behind that of the thing; itself; where it is used.
_Part = tuple[str, Any, str]


def _list_parts(thing: Any) -> Iterator[_Part]:
    if isinstance(thing, FunctionType):
        yield from _list_variables(thing)
    elif isinstance(thing, MethodType):
        yield ".__self__", thing.__self__, ""
    elif isinstance(thing, functools.partial):
        yield ".func", thing.func, ""
        yield ".args", thing.args, ""
        yield ".keywords", thing.keywords, ""
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield f"[{key!r}]", value, ""
    elif isinstance(thing, (list, tuple)):
        for i, value in enumerate(thing):
            yield f"[{i}]", value, ""
    else:
        for key, value in getattr(thing, "__dict__", {}).items():
            yield f".{key}", getattr(value, "__func__", value), ""
        if not isinstance(thing, type) and type(thing).__module__ == "__main__":
            yield type(thing).__qualname__, type(thing), ""


def _list_variables(function: FunctionType) -> Iterator[_Part]:
    """Yield what a function that goes by value takes from around it."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it is not bound yet
            yield name, cell.cell_contents, _describe_use(function, name)
    for inner in _walk_code(code):
        for name in inner.co_names:
            if name in function.__globals__:
                yield name, function.__globals__[name], _describe_use(function, name)
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield f"a default of {function.__qualname__}", value, ""


def _describe_use(function: FunctionType, name: str) -> str:
    use = f", which {function.__qualname__} uses"
    for code in _walk_code(function.__code__):
        for step in dis.get_instructions(code):
            if step.argval == name and step.opname.startswith("LOAD_"):
                lines = (line for start, end, line in code.co_lines() if start <= step.offset < end)
                return f"{use} in line {next(lines)} of {os.path.basename(code.co_filename)}"
    return use


def _walk_code(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and those of the functions and classes that it defines."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _walk_code(constant)
