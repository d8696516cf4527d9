"""What a program tells of its progress: lines that it prints, or appends to a file of its own.

All of it is read from files that grow. Standard output and error of a program are its trial's logs,
written by the program itself: nothing stands between that could block it, and however much it
prints is read in large pieces.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UsageError, UsageTypeError

#: So much of a file is read at once, in bytes; a line is cut there.
CHUNK = 1 << 20

#: What tells a report's iteration, in a pattern's group, a column or a key.
ITERATION = "iteration"

#: A carriage return alone ends a line too: progress bars are drawn with it.
_LINE_END = re.compile(rb"[\r\n]+")

#: What people print behind a number; and what of a pattern stands for itself, between words.
_BEHIND, _BETWEEN = ",;:)]}%", re.compile(r"(?<![\\?])[ =:,;]+")

#: So many lines are kept that are almost reports, while none is one.
MOST_MISSED = 3


class Found(NamedTuple):
    """What one line reports."""

    metrics: dict[str, float]
    iteration: int | None  # None where the line doesn't tell: reports are counted then


#: How a line is read: what it reports, None if it is no report.
Reader = Callable[[str], Found | None]


@dataclass(frozen=True, slots=True)
class File:
    """A file that the program appends its metrics to.

    Args:
        path: In the folder that the program runs in. `.csv` and `.tsv` begin with a line of names;
            anything else holds a JSON object in each line.
        iteration: The column or key that counts the progress; where there is none, lines are
            counted from 1.
    """

    path: str
    iteration: str = ITERATION

    def __post_init__(self) -> None:
        for name in ("path", "iteration"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise UsageTypeError(f"File: {name} must be a name, got {value!r}")

    def build_reader(self) -> Reader:
        """Return how its lines are read, from the first on."""
        delimiter = {".csv": ",", ".tsv": "\t"}.get(Path(self.path).suffix.lower())
        if delimiter is None:
            return partial(read_json, iteration=self.iteration)
        return Table(delimiter, self.iteration).read


def read_match(line: str, pattern: re.Pattern[str]) -> Found | None:
    """Read a line that a pattern is found in; its named groups are the metrics."""
    found = pattern.search(line)
    return None if found is None else build_found(found.groupdict(), ITERATION)


def relax(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """Return a pattern that also takes other case, blanks and punctuation, if that can be had."""
    with contextlib.suppress(re.error):
        return re.compile(_BETWEEN.sub(r"\\W*", pattern.pattern), pattern.flags | re.IGNORECASE)
    return pattern


def read_json(line: str, iteration: str = ITERATION) -> Found | None:
    """Read a line that is a JSON object; its numbers are the metrics."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    numbers = {name: v for name, v in values.items() if type(v) in (int, float)}
    return build_found(numbers, iteration)


class Table:
    """Reads lines of values, after a first line of names."""

    def __init__(self, delimiter: str, iteration: str) -> None:
        self._delimiter = delimiter
        self._iteration = iteration
        self._names: list[str] = []

    def read(self, line: str) -> Found | None:
        row = next(csv.reader([line], delimiter=self._delimiter), [])
        if not self._names:
            self._names = [name.strip() for name in row]
            return None
        return build_found(dict(zip(self._names, row, strict=False)), self._iteration)


def build_found(values: Mapping[str, Any], iteration_name: str) -> Found | None:
    """Make a report of named texts or numbers; what is no number is left out."""
    metrics, iteration = {}, None
    for name, value in values.items():
        try:
            number = float(value.rstrip(_BEHIND) if isinstance(value, str) else value)
        except (TypeError, ValueError, OverflowError):
            continue
        if name != iteration_name:
            metrics[name] = number
        elif math.isfinite(number) and 0 <= number < 2**63:
            iteration = int(number)
    return Found(metrics, iteration) if metrics else None


def check_metrics(owner: str, metrics: Any) -> str | re.Pattern[str] | File | None:
    """Return what `metrics` or `result` of a Program was given, a pattern compiled.

    Raises:
        UsageTypeError: It is none of a pattern, "jsonl" and a `File`.
        UsageError: The pattern is none, or has no group but `iteration`.
    """
    if metrics is None or metrics == "jsonl" or isinstance(metrics, File):
        checked: str | File | None = metrics
        return checked
    if not isinstance(metrics, str | re.Pattern):
        raise UsageTypeError(
            f'Program: {owner} must be a regular expression, "jsonl" or ss.File("log.csv"), got '
            f"{metrics!r}"
        )
    try:
        pattern = re.compile(metrics)
    except re.error as error:
        raise UsageError(
            f"Program: {owner}='{metrics}' is no regular expression: {error}"
        ) from None
    if not isinstance(pattern.pattern, str):
        raise UsageTypeError(f"Program: {owner} must be a pattern of text, got {metrics!r}")
    if not set(pattern.groupindex) - {ITERATION}:
        raise UsageError(
            f"Program: {owner}='{pattern.pattern}' has no named group that is a metric: write "
            r"'loss=(?P<loss>\S+)'"
        )
    return pattern


class GrowingFile:
    """Reads the lines that are appended to a file, which need not be there yet.

    Args:
        path: Read again from its beginning if it has become shorter.
        position: Where to begin, in bytes.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self._path = path
        self._position = position
        self._rest = b""

    def read_lines(self, is_over: bool = False) -> Iterator[str]:
        """Yield the lines that have been completed; if nothing more comes, the rest too."""
        while data := self._read():
            *lines, self._rest = _LINE_END.split(self._rest + data)
            if len(self._rest) > CHUNK:
                lines, self._rest = [*lines, self._rest], b""
            yield from (line.decode("utf-8", "replace") for line in lines)
        if is_over and self._rest:
            rest, self._rest = self._rest, b""
            yield rest.decode("utf-8", "replace")

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._position:
                    self._position, self._rest = 0, b""
                file.seek(self._position)
                data = file.read(CHUNK)
        except OSError:  # not yet there
            return b""
        self._position += len(data)
        return data


class Reports:
    """The reports of a program, from one or more files that are all read in one way.

    Args:
        files: Each with a reader of its own, since a table's names stand in its first line.
        almost: Reads the lines that are none, but look as if they were meant to be.
    """

    def __init__(self, files: Mapping[GrowingFile, Reader], almost: Reader | None = None) -> None:
        self._files = files
        self._almost = almost
        self.count = 0
        self.missed: list[str] = []

    def read(self, is_over: bool = False) -> Iterator[tuple[dict[str, float], int]]:
        """Yield what is new: metrics and iteration."""
        for file, read in self._files.items():
            for line in file.read_lines(is_over):
                found = read(line)
                if found is not None:
                    self.count += 1
                    yield found.metrics, self.count if found.iteration is None else found.iteration
                elif self._almost and not self.count and len(self.missed) < MOST_MISSED:
                    self.missed += [line] if self._almost(line) else []


def build_reports(
    wanted: str | re.Pattern[str] | File | None, logs: Mapping[Path, int], folder: Path
) -> Reports:
    """Return where reports come from.

    Args:
        logs: What the program prints to, and how long that is already, in bytes.
        folder: That it runs in.
    """
    if wanted is None:
        return Reports({})
    if isinstance(wanted, File):
        return Reports({GrowingFile(folder / wanted.path): wanted.build_reader()})
    files = [GrowingFile(path, position) for path, position in logs.items()]
    if isinstance(wanted, str):
        return Reports(dict.fromkeys(files, read_json))
    read, almost = (partial(read_match, pattern=each) for each in (wanted, relax(wanted)))
    return Reports(dict.fromkeys(files, read), almost)
