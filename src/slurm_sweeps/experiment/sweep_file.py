"""A sweep of a program, told in a YAML file: the same names and values as in Python.

A space is a key with its arguments, `{loguniform: [1e-5, 1e-1]}`, and perhaps a guess beside it,
`{loguniform: [1e-5, 1e-1], prior: 1e-3, confidence: high}`; rules and samplers likewise.
Errors name the line.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from .. import samplers
from ..errors import SAID_LAST, ProgramError, SlurmSweepsError, UsageError, UsageTypeError
from ..programs.output import File
from ..programs.program import Program
from ..rules.asha import ASHA, Hyperband
from ..rules.feasible import AtLeast, AtMost
from ..rules.median import MedianStopping
from ..running.session import log
from ..search.choices import Choice, Grid
from ..search.priors import Prior
from ..search.repeat import Repeat
from ..search.search_space import join_path
from ..search.spaces import Integer, LogInteger, LogUniform, Normal, Quantized, Uniform
from ..slurm.config import LocalCfg, SlurmCfg
from ..slurm.jobs import Jobs
from .arguments import list_constant_lists
from .experiment import Experiment
from .keep import Keep

#: What is made of a key's value; all other keys are arguments as they are.
BUILDS: dict[str, tuple[str, Callable[..., Any]]] = {
    "asha": ("pruner", ASHA),
    "hyperband": ("pruner", Hyperband),
    "median_stopping": ("pruner", MedianStopping),
    "slurm": ("slurm_cfg", SlurmCfg),
    "local": ("local_cfg", LocalCfg),
    "keep": ("keep", Keep),
    "random": ("sampler", samplers.Random),
    "sobol": ("sampler", samplers.Sobol),
    "latin_hypercube": ("sampler", samplers.LatinHypercube),
    "saltelli": ("sampler", samplers.Saltelli),
    "model": ("sampler", samplers.Model),
    "optuna": ("sampler", samplers.Optuna),
}
#: What may stand beside a space.
OF_PRIOR = {"prior", "confidence"}
BOUNDS = {"at_most": AtMost, "at_least": AtLeast}
SPACES: dict[str, Callable[..., Any]] = {
    kind.__name__.lower(): kind
    for kind in (Uniform, LogUniform, Integer, LogInteger, Normal, Quantized, Choice, Grid, Repeat)
}


def _list_arguments(call: Callable[..., Any], *but: str) -> list[str]:
    return [name for name in inspect.signature(call).parameters if name not in ("self", *but)]


OF_PROGRAM = _list_arguments(Program, "folder")
OF_RUN = _list_arguments(Experiment.run)
OF_EXPERIMENT = _list_arguments(
    Experiment,
    "train",
    "warm_start",
    "skip",
    "backend",
    "where",
    *BUILDS,
    *(argument for argument, _ in BUILDS.values()),
)
#: Those that are nothing else in a program's command.
_ARGUMENTS = [name for name in (*OF_EXPERIMENT, *OF_RUN, *_list_arguments(SlurmCfg)) if "_" in name]
KEYS = {*OF_PROGRAM, *OF_RUN, *OF_EXPERIMENT, *BUILDS}


def read_sweep_file(path: Path, local_dir: Path | None = None) -> tuple[Experiment, dict[str, Any]]:
    """Read a file: the experiment, and the arguments of its `run`.

    What exists of this name is restored, unless the file says `restore` or `overwrite`. A
    `local_dir` takes the place of the file's.

    Raises:
        UsageError: It can't be read, or something in it makes no sense.
    """
    told, lines = _load(path)
    at = partial(_told_with_line, path, lines)

    def build_space(value: Any, place: str) -> Any:
        """Make spaces of what is written as one, to any depth."""
        if isinstance(value, list):
            return [build_space(each, place) for each in value]
        if not isinstance(value, dict):
            return value
        with at(place):
            kind = None if place == "cfg" else _find_kind(value)
        if kind is None:
            return {k: build_space(each, join_path(place, str(k))) for k, each in value.items()}
        inner = build_space(value[kind], join_path(place, kind))
        if kind in ("choice", "grid", "repeat") and isinstance(inner, list):
            inner = [inner]
        with at(place):
            prior = _read_prior(value)
            if isinstance(inner, dict):
                return _build(kind, SPACES[kind], inner | prior)
            return SPACES[kind](*(inner if isinstance(inner, list) else [inner]), **prior)

    for key in told:
        if key not in KEYS:
            with at(str(key)):
                raise UsageError(f"there is no key {key!r}; {_hint(key, sorted(KEYS))}")
    for key in ("metrics", "result"):
        if isinstance(told.get(key), dict):
            with at(key):
                told[key] = File(**{"path": told[key].pop("file", None), **told[key]})
    if "command" not in told:
        raise UsageError(f"{path}: there is no key 'command': what is to be run for each trial")
    words: dict[str, Any] = {"folder": path.absolute().parent}
    for key in OF_PROGRAM:
        if key in told:
            words[key] = told[key]
            with at(key):  # whose value it is that makes no sense
                train = Program(**words)
    arguments = build_arguments(told, at)
    arguments["cfg"] = build_space(told.get("cfg", {}), "cfg")
    if local_dir is not None:
        arguments["local_dir"] = local_dir
    if not arguments.get("overwrite"):
        arguments.setdefault("restore", "auto")
    with at("cfg", "command", "cwd", "env", *OF_EXPERIMENT):
        experiment = Experiment(train, **arguments)
    experiment._tell_as(partial(say_as_in_file, path), f"'slurm-sweeps run {path.absolute()}'")
    return experiment, {key: told[key] for key in OF_RUN if key in told}


def try_once(experiment: Experiment) -> str:
    """Run a file's program by hand, with the middle of each space, in a new folder; say how it was.

    Raises:
        ProgramError: It fails, or tells no metric; without its last words, which are shown.
    """
    space = experiment._search.space
    for text in (*experiment._notices, *list_constant_lists(space.template, not space.leaves)):
        print(experiment._say(text))
    cfg = space.build(lambda _: 0.5)
    os.chdir(tempfile.mkdtemp(prefix=f"try-{experiment.name}-"))
    print(f"trying {json.dumps(cfg, default=str)} in {os.getcwd()}")
    try:
        if final := experiment._train(cfg):
            log(final)
    except ProgramError as error:
        raise ProgramError(str(error).partition(SAID_LAST)[0], error.exit_code) from None
    return "that is complete: the sweep can be run"


@contextlib.contextmanager
def told_with_line(path: Path) -> Iterator[None]:
    """Have an error that the sweep of a file raises, when it begins, name the line."""
    of_run, errors = ("command", *OF_RUN), (UsageError, UsageTypeError)
    with _told_with_line(path, _load(path)[1], "", *of_run, errors=errors):
        yield


def say_as_in_file(path: Path, text: str) -> str:
    """Say in a sweep file's words what a message says in Python's, for who has written none."""
    for pattern, words in _WORDS.items():
        text = re.sub(pattern, words, text)
    return text.replace(_AGAIN, f"'slurm-sweeps run {path}'")


#: What a message of ours says in Python, and its words in a file; what is begun goes on by itself.
_AGAIN = "\0again"
_KINDS = "|".join(kind.__name__ for kind in SPACES.values())
_WORDS: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"\b[Pp]ass (?=\w+=)": "write ",
    r"write restore=True": "write restore: true",
    r'\brestore="auto"': "restore: auto",
    r"\brestore=True": _AGAIN,
    r"\b([Mm])end train\b": r"\1end the program",
    r"\bss\.(?=(Slurm|Local)Cfg|Jobs|Keep)": "",
    r"\brun\(([^()]*)\)": r"\1",
    r"\b(Slurm|Local)Cfg\(([^()]*)\)": lambda found: (
        f"{found[1].lower()}: {{{found[2].replace('=', ': ')}}}"
    ),
    rf"\bss\.({_KINDS})\(([^()]*)\)": lambda found: (
        f"{{{found[1].lower()}: [{found[2].strip('[]')}]}}"
    ),
    rf"\bss\.({_KINDS})\b": lambda found: found[1].lower(),
    rf"(?<![-\w.'])({'|'.join(_ARGUMENTS)})=(?=[\w.\"])": r"\1: ",
    r"\b(overwrite|snapshot|join|seed|keep)=(?=True|False|None)": r"\1: ",
    r"(?<=: )(True|False)\b": lambda found: found[1].lower(),
}


@contextlib.contextmanager
def _told_with_line(
    path: Path,
    lines: Mapping[str, int],
    place: str,
    *keys: str,
    errors: tuple[type[Exception], ...] = (SlurmSweepsError, TypeError, ValueError),
) -> Iterator[None]:
    """Put the line before an error: of the one of `keys`, or below the place, that it names."""
    try:
        yield
    except errors as error:
        below = [each for each in lines if each in keys or each.startswith(f"{place}.")]
        found = {each: re.search(rf"\b{each.rpartition('.')[2]}\b", str(error)) for each in below}
        named = [(match.start(), lines[each]) for each, match in found.items() if match]
        line = min(named)[1] if named else lines.get(place)
        where = str(path) if line is None else f"{path}, line {line}"
        raise UsageError(f"{where}: {error}") from None


def _build(key: str, build: Callable[..., Any], written: Any) -> Any:
    """Make what a key stands for of its arguments, given by name."""
    names = _list_arguments(build)
    if not isinstance(written, dict):
        raise UsageError(
            f"{key} needs its arguments by name, like {{{names[0]}: …}}; got {written!r}"
        )
    for name in written:
        if name not in names:
            raise UsageError(f"{key} has no {name!r}; {_hint(name, names)}")
    return build(**written)


def _hint(wrong: Any, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(wrong), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"


def _find_kind(value: dict[Any, Any]) -> str | None:
    """Return which space a part of a cfg is written as, if it is one.

    Raises:
        UsageError: It is written as one that there is not, or without its arguments.
    """
    kind, written = next(iter(value.items()), (None, None))
    if not {*value} - {kind} <= OF_PRIOR or not isinstance(kind, str):
        return None
    if kind in SPACES:
        if isinstance(written, list | dict):
            return kind
        raise UsageError(f"{kind} needs its arguments, in brackets; got {written!r}")
    like = difflib.get_close_matches(kind.lower().replace("_", ""), SPACES, 1, 0.75)
    if like and isinstance(written, list):
        raise UsageError(
            f"there is no space {kind!r}; did you mean {like[0]!r}? There are {', '.join(SPACES)}. "
            "(A list that is the same in all trials: put a second key beside it)"
        )
    return None


def _read_prior(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the guess that is written beside a space, as an argument of it."""
    if "prior" not in value:
        if "confidence" in value:
            raise UsageError("confidence needs a prior beside it: {prior: 1e-3, confidence: high}")
        return {}
    return {"prior": Prior(value["prior"], value.get("confidence", "medium"))}


def build_arguments(
    told: Mapping[str, Any], at: Callable[[str], AbstractContextManager[None]]
) -> dict[str, Any]:
    """Make arguments of `Experiment` of what is told under their names and those of `BUILDS`.

    Other names are left alone. `at`, entered, says of an error where it is.
    """
    arguments = {key: told[key] for key in OF_EXPERIMENT if key in told}
    for key, (argument, build) in BUILDS.items():
        if key in told:
            with at(key):
                if argument in arguments:
                    others = [k for k, (its, _) in BUILDS.items() if its == argument and k in told]
                    raise UsageError(f"there can be one of these, not {' and '.join(others)}")
                words = told[key] or {}
                if isinstance(words, dict) and isinstance(words.get("jobs"), dict):
                    words = {**words, "jobs": _build("jobs", Jobs, words["jobs"])}
                arguments[argument] = _build(key, build, words)
    if isinstance(told.get("feasible"), dict):
        with at("feasible"):
            arguments["feasible"] = {
                name: _build_bound(bound) for name, bound in told["feasible"].items()
            }
    return arguments


def _build_bound(written: Any) -> Any:
    """Make a bound of `{at_most: 24}`; what is none is left as it is."""
    is_bound = isinstance(written, dict) and len(written) == 1 and BOUNDS.keys() >= written.keys()
    return next(BOUNDS[key](limit) for key, limit in written.items()) if is_bound else written


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-5 is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return what a file says, and on which line each key stands, by its dotted name."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, _Loader)
        told = yaml.load(text, _Loader)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read {path}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}, line {line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(told, dict):
        raise UsageError(f"{path} is no sweep: see slurm-sweeps run --help for an example")
    lines: dict[str, int] = {}
    assert root is not None  # since `told` is not
    for place, line in _walk(root, ""):
        if place in lines:
            raise UsageError(f"{path}, line {line}: {place!r} stands on line {lines[place]} too")
        lines[place] = line
    return told, lines


def _walk(node: yaml.Node, place: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = join_path(place, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _walk(value, inner)
