"""What a program is given: its command and files, with a trial's values in place of their names.

A command is split before values are put in, so that no value becomes a second argument or a
shell's command. Where a shell is wanted, each value is quoted for it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import string
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import UsageError, UsageTypeError

#: What a command may name besides the cfg's own names.
OWN_NAMES = ("trial_id", "trial_dir", "checkpoint_dir", "attempt")

#: What runs a script, the first word behind it, and what such a script's name ends with.
INTERPRETER = re.compile(r"(python|pypy)[\d.]*|Rscript|julia|perl|ruby|node|(ba)?sh")
SCRIPTS = (".py", ".R", ".r", ".jl", ".pl", ".rb", ".js", ".sh")

#: All of the cfg as options.
ARGS = "args"


def split_command(command: str | Sequence[str], shell: bool) -> tuple[str, ...]:
    """Return the command's words; one text for a shell.

    Raises:
        UsageTypeError: It is neither a string nor a list of strings.
        UsageError: It is empty, its quotes are not closed, or a placeholder is no name.
    """
    if shell and not isinstance(command, str):
        raise UsageTypeError(f"Program: with shell=True the command is one string, got {command!r}")
    if isinstance(command, str):
        words = (command,) if shell else tuple(_split_as_shell(command))
    elif isinstance(command, Sequence) and all(isinstance(word, str) for word in command):
        words = tuple(command)
    else:
        raise UsageTypeError(
            f"Program: command must be a string or a list of strings, got {command!r}"
        )
    if not words or not words[0].strip():
        raise UsageError(f"Program: the command is empty: {command!r}")
    for word in words:
        if "\0" in word:
            raise UsageError(f"Program: the command holds a NUL character: {word!r}")
        names = list_names(word)
        if ARGS in names and not shell and word != "{args}":
            raise UsageError(f"Program: {{args}} must be a word of its own, not part of {word!r}")
    return words


def _split_as_shell(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UsageError(f"Program: can't split the command {command!r}: {error}") from None


def list_names(text: str) -> list[str]:
    """Return the names in `text` that values are put in for, as `str.format` writes them."""
    return [name for _, name, _, _ in _parse(text) if name is not None]


def _parse(text: str) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    try:
        yield from string.Formatter().parse(text)
    except ValueError as error:
        raise UsageError(
            f"Program: {text!r}: {error}. Names stand in braces, like {{lr}}; write {{{{ and }}}} "
            "for braces of the program's own"
        ) from None


def check_names(argument: str, used: Iterable[str], known: Iterable[str]) -> None:
    """Raise UsageError if a command, say, names what no trial will have."""
    names = {*known, *OWN_NAMES, ARGS}
    for name in used:
        if name not in names and not any(each.startswith(f"{name}.") for each in names):
            raise UsageError(
                f"Program: in {argument}, {{{name}}} is not in the cfg, which has "
                f"{', '.join(sorted(known)) or 'no names'}; besides there are "
                f"{', '.join(OWN_NAMES)} and {ARGS}"
            )


def find_missing(
    words: Sequence[str], cwd: Path | None, made: Container[str], path: str | None
) -> str | None:
    """Return the program, or the script that it interprets, if that is no file on this host.

    Args:
        words: The command, as `find_program` leaves it.
        cwd: Where it runs; None for the trial's folder, where only what is `made` can be.
        made: Files that are written there first.
        path: Where programs are looked for, if not on PATH.
    """
    program, *rest = words
    rest = [word for word in rest[:2] if word != "-u"][:1]
    if not INTERPRETER.fullmatch(PurePosixPath(program).name):
        rest = []
    for word in (program, *(word for word in rest if PurePosixPath(word).suffix in SCRIPTS)):
        if list_names(word) or os.path.normpath(word) in made:
            continue
        if word is program and "/" not in word:
            is_there = shutil.which(word, path=path) is not None
        elif cwd is None and not os.path.isabs(word):
            is_there = False
        else:
            is_there = Path(cwd or "/", word).exists()
        if not is_there:
            return word
    return None


def flatten(cfg: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return the values of a nested cfg by their dotted names, parts that are dicts included."""
    values: dict[str, Any] = {}
    for key, value in cfg.items():
        name = f"{path}{key}"
        values[name] = value
        if isinstance(value, Mapping):
            values |= flatten(value, f"{name}.")
    return values


def fill_words(
    words: Sequence[str], cfg: Mapping[str, Any], values: Mapping[str, Any]
) -> list[str]:
    """Put a trial's values into a command's words; `{args}` becomes as many as it takes."""
    filled = []
    for word in words:
        filled += build_options(cfg) if word == "{args}" else [fill(word, values)]
    return filled


def fill_shell(text: str, cfg: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Put a trial's values into a shell's command, each quoted."""
    quoted = {name: shlex.quote(format_value(value)) for name, value in values.items()}
    return fill(text, {**quoted, ARGS: shlex.join(build_options(cfg))})


def fill(text: str, values: Mapping[str, Any]) -> str:
    """Put values in for the names in `text`.

    Raises:
        UsageError: A name has no value in this trial, or its format (`{lr:.3e}`) doesn't suit it.
    """
    parts = []
    for literal, name, spec, _ in _parse(text):
        parts.append(literal)
        if name is not None:
            parts.append(_format(text, name, values, spec or ""))
    return "".join(parts)


def _format(text: str, name: str, values: Mapping[str, Any], spec: str) -> str:
    if name not in values:
        raise UsageError(f"Program: this trial's cfg has no {name!r}, which {text!r} asks for")
    if not spec:
        return format_value(values[name])
    try:
        return format(values[name], spec)
    except (TypeError, ValueError) as error:
        raise UsageError(f"Program: {{{name}:{spec}}} of {values[name]!r}: {error}") from None


def build_options(cfg: Mapping[str, Any]) -> list[str]:
    """Write all of a cfg as options: `--lr 0.1 --net.width 64 --flag`.

    True is the option alone, False and None are left out, a list is several words behind its
    option: as argparse, Fire, jsonargparse and LightningCLI read them. A value that begins with a
    dash is written behind an equals sign, or it would be taken for an option.
    """
    words: list[str] = []
    for name, value in flatten(cfg).items():
        if isinstance(value, Mapping) or value is None or value is False:
            continue
        option = f"--{name}"
        items = [format_value(v) for v in (value if isinstance(value, list | tuple) else [value])]
        if value is True:
            words.append(option)
        elif len(items) == 1 and items[0].startswith("-"):
            words.append(f"{option}={items[0]}")
        else:
            words += [option, *items]
    return words


def format_value(value: Any) -> str:
    """Write a value as a program's argument: text as it is, lists and dicts as JSON."""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def find_program(words: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Replace the program, or the script that it runs, by its whole path if it lies in `folder`.

    `python train.py` means the file beside the user's script, as when it is typed there. Only the
    first word that is a file there is taken: what follows may be meant for the trial's own folder.
    """
    found = list(words)
    for i, word in enumerate(words):
        if not word.startswith("-") and not list_names(word):
            path = folder / word
            if not Path(word).is_absolute() and path.is_file():
                found[i] = str(path)
                break
    return tuple(found)


def read_templates(files: Any, folder: Path) -> dict[str, str]:
    """Return the text of each template, by the name of the file to write.

    Raises:
        UsageTypeError: `files` is no dict of paths.
        UsageError: One can't be read, has a fault, or is to be written outside the trial's folder.
    """
    if not isinstance(files, Mapping):
        raise UsageTypeError(f"Program: files must be a dict of paths, got {files!r}")
    texts = {}
    for name, source in files.items():
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"Program: files are written into the trial's folder, and {name!r} is not below it"
            )
        try:
            texts[name] = (folder / source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"Program: can't read the template {folder / source}: {error}"
            ) from None
        render(name, texts[name], None)
    return texts


def render(name: str, text: str, names: Mapping[str, Any] | None) -> str:
    """Fill in a template; without names, only look whether it is one."""
    try:
        import jinja2
    except ImportError:
        raise UsageError(
            "Program: files are jinja2 templates: pip install 'slurm-sweeps[program]'"
        ) from None
    rules = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    try:
        template = rules.from_string(text)
        return "" if names is None else template.render(names)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(
            f"Program: the template of {name!r}, line {error.lineno}: {error.message}"
        ) from None
    except jinja2.UndefinedError as error:
        raise UsageError(f"Program: the template of {name!r}: {error.message}") from None
