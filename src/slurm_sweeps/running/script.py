"""The top level of the user's script: run once in each process that loads `train`.

What it registers and sets up (environments of gymnasium, pytrees of JAX, resolvers, handlers of
`logging`) is then there as by hand, in the process that trials are forks of. It is run as
`multiprocessing` runs it for the processes that it spawns: all but what stands under
`if __name__ == "__main__":`. A script without such a line was not written to be run again: it may
train for an hour before it begins its sweep. It is left alone, and so is an installed program;
the variable `SLURM_SWEEPS_SCRIPT` decides otherwise ("0": never, "1": a script without that line
too, up to where it makes its experiment).

The code travels in `train.pkl`: it is that of the driver, whatever becomes of the file meanwhile.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import ast

#: Whether scripts are run: see above.
SCRIPT_VARIABLE = "SLURM_SWEEPS_SCRIPT"
#: How long that may take, in seconds.
LIMIT_S = 300

_is_under_way = False


class _Reached(BaseException):
    """The script wants to sweep: what comes before it was run."""


class _TooSlow(BaseException):
    """The time is up."""


def end_if_under_way() -> None:
    """Leave the script, if this process only runs its top level: here it begins its sweep."""
    if _is_under_way:
        raise _Reached


def read_script() -> bytes | None:
    """Return the code of this process's script to be run elsewhere; None if it is not to be."""
    wanted = os.environ.get(SCRIPT_VARIABLE, "")
    file = getattr(sys.modules["__main__"], "__file__", None)
    if wanted == "0" or file is None or is_installed(os.path.abspath(file)):
        return None
    import ast  # only a driver needs it

    try:
        tree = ast.parse(Path(file).read_bytes(), file)
        has_guard = any(_is_guard(node) for node in tree.body)
        if not has_guard and wanted != "1":
            return None
        tree.body = [part for node in tree.body for part in _leave_out_guard(node)]
        return marshal.dumps(compile(tree, os.path.abspath(file), "exec", dont_inherit=True))
    except (OSError, SyntaxError, ValueError):  # it was changed, or was none of Python's
        return None


def describe_left_out() -> str:
    """Say, for a sweep that has failed, that this process's script was left out, if it was."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None or is_installed(os.path.abspath(file)) or read_script() is not None:
        return ""
    return (
        f'. {os.path.basename(file)} has no line if __name__ == "__main__":, so trials go '
        "without its top level: where train needs what that registers or sets up, put what starts "
        "the sweep under such a line"
    )


def is_installed(file: str) -> bool:
    """Tell whether a file is a program's (pytest, ipykernel), not a script of the user's."""
    is_in_bin = os.path.dirname(file) == os.path.dirname(sys.executable)
    return is_in_bin or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _is_guard(node: ast.stmt) -> bool:
    import ast

    if not isinstance(node, ast.If):
        return False
    parts = list(ast.walk(node.test))
    has_name = any(isinstance(part, ast.Name) and part.id == "__name__" for part in parts)
    return has_name and any(getattr(part, "value", None) == "__main__" for part in parts)


def _leave_out_guard(node: Any) -> list[ast.stmt]:
    return list(node.orelse) if _is_guard(node) else [node]


def run_script(code: bytes, folder: str) -> str | None:
    """Run what `read_script` gave in `__main__`, and in that folder; return what went wrong."""
    global _is_under_way
    main = sys.modules["__main__"]
    _is_under_way = True
    try:
        with _in_folder(folder), _time_limit():
            exec(marshal.loads(code), vars(main))
    except _Reached:
        return None
    except _TooSlow:
        what = f"takes longer than {LIMIT_S} s in a host"
    except BaseException as error:  # noqa: BLE001 - a script may raise anything, and exit
        traceback.print_exc()
        what = f"fails in a host ({type(error).__name__}: {error})"
    else:
        return None
    finally:
        _is_under_way = False
    return (
        f"the top level of {main.__file__} {what}: trials go without what it does from there on. "
        'Put what is not for them under if __name__ == "__main__":; '
        f"{SCRIPT_VARIABLE}=0 leaves all of it out"
    )


@contextmanager
def _in_folder(folder: str) -> Iterator[None]:
    before = os.getcwd()
    with contextlib.suppress(OSError):
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _time_limit() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _say_too_slow)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _say_too_slow(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - Python's
    raise _TooSlow
