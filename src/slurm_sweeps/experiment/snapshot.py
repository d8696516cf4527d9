"""A copy of the code that a sweep is of, so that nothing changes for it when the code is edited.

What git tracks around the script, as it is now, and what is new and not ignored is copied once into
the experiment's folder. Workers have the copy first on their import path, and `train` stays as it
was written down then, also when the sweep goes on later: what of the code differs by then is said.
"""

from __future__ import annotations

import dataclasses
import filecmp
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import StorageError, UsageError
from ..programs.program import Program
from ..running.session import script_dir
from ..running.train import keep_train, pickle_train, write_train
from ..storage.layout import Layout, build_draft_path
from ..storage.records import RunRecord
from .provenance import ask_git, find_code

#: A repository whose files take more bytes is not copied.
MOST_BYTES = 10**9

#: What git does not track is only copied if it takes no more bytes: it may be data.
MOST_UNTRACKED_BYTES = 10**7

#: The most of what git lists, in bytes.
_MOST_NAMES_BYTES = 10**8

#: So many names of files are said.
_MAX_SAID = 10


class Code(NamedTuple):
    """What workers run."""

    digest: str  # of the pickled `train`
    path: Sequence[str] = ()  # what they have on their import path before all else
    notices: Sequence[str] = ()  # what the user should know


def write_code(
    train: Any, pickled: bytes, snapshot: bool, layout: Layout, runs: Sequence[RunRecord]
) -> Code:
    """Write `train`, and a snapshot if one is wanted, for the workers; or keep what is there.

    Args:
        train, pickled: The function or program, and as it travels.
        runs: Of what code earlier drivers were.

    Raises:
        UsageError, StorageError: See `take_snapshot`.
    """
    if not snapshot:
        notices = forget_snapshot(layout)
        return Code(write_train(pickled, layout.train), (), notices)
    is_new = not layout.code.exists()
    root, notices = take_snapshot(find_code(), layout)
    path = map_path(root, layout.code, sys.path)
    if not is_new and _is_of_this_python(runs):
        digest = keep_train(layout.train)
        if digest is not None:
            return Code(digest, path, notices)
    if isinstance(train, Program):
        folder = map_into(root, layout.code, Path(train.folder or script_dir()))
        if folder is not None and folder.is_dir():
            pickled = pickle_train(dataclasses.replace(train, folder=folder))
    return Code(write_train(pickled, layout.train), path, notices)


def _is_of_this_python(runs: Sequence[RunRecord]) -> bool:
    """Whether what an earlier driver has pickled can be read here: by the same minor version."""
    version = platform.python_version_tuple()[:2]
    return all(str(run.told.get("python")).split(".")[:2] == [*version] for run in runs)


def take_snapshot(folder: Path, layout: Layout) -> tuple[Path, list[str]]:
    """Copy the repository around a folder for an experiment, unless that has a copy already.

    Returns:
        The repository's root, and what is to be said: files that were left out, or those that
        differ from a copy that is there.

    Raises:
        UsageError: There is no repository, or it is too large.
        StorageError: It can't be copied.
    """
    root = _find_root(folder)
    if layout.code.exists():
        return root, list(_compare(root, layout))
    draft = build_draft_path(layout.code)
    try:
        shutil.rmtree(draft, ignore_errors=True)
        notices = _copy(root, draft, layout)
        draft.rename(layout.code)
    except OSError as error:
        raise StorageError(f"snapshot: {root} can't be copied: {error}") from error
    return root, notices


def forget_snapshot(layout: Layout) -> list[str]:
    """Remove the copy of a sweep that goes on without; return what is to be said."""
    if not layout.code.exists():
        return []
    shutil.rmtree(layout.code, ignore_errors=True)
    return ["the snapshot of the code is left: the sweep goes on with the code as it is now"]


def map_path(root: Path, copy: Path, path: Sequence[str]) -> list[str]:
    """Return where the entries of the import path that lie in a repository are in its copy."""
    found = []
    for entry in path:
        mapped = map_into(root, copy, Path(entry))
        if mapped is not None and mapped.is_dir():
            found.append(str(mapped))
    return found


def map_into(root: Path, copy: Path, place: Path) -> Path | None:
    """Return where a place in a repository is in its copy; None for one outside of it."""
    relative = os.path.relpath(place.resolve(), root)
    return None if relative.split(os.sep)[0] == ".." else (copy / relative).absolute()


def _find_root(folder: Path) -> Path:
    root = ask_git(folder, "rev-parse", "--show-toplevel")
    if root is None:
        raise UsageError(
            f"snapshot=True needs a git repository around {folder}, which says what belongs to the "
            "code: do git init there, or leave snapshot out"
        )
    return Path(root.rstrip("\n"))


def _list_files(root: Path, layout: Layout, *which: str) -> Iterator[Path]:
    """List files of a repository, from its root, but for those of sweeps."""
    names = ask_git(root, "ls-files", "-z", *which, most=_MOST_NAMES_BYTES) or ""
    sweeps = layout.local_dir.resolve()
    for name in names.split("\0"):
        path = root / name
        is_ours = path.is_relative_to(sweeps) and sweeps != root
        if name and not is_ours and (path.is_symlink() or path.is_file()):
            yield Path(name)


def _list_tracked(root: Path, layout: Layout) -> list[Path]:
    return list(_list_files(root, layout, "--cached", "--recurse-submodules"))


def _copy(root: Path, target: Path, layout: Layout) -> list[str]:
    tracked = _list_tracked(root, layout)
    new = list(_list_files(root, layout, "--others", "--exclude-standard"))
    large = [name for name in new if (root / name).lstat().st_size > MOST_UNTRACKED_BYTES]
    names = [*tracked, *(name for name in new if name not in large)]
    size = sum((root / name).lstat().st_size for name in names)
    if size > MOST_BYTES:
        raise UsageError(
            f"snapshot=True: the files of {root} take {size // 10**6:,} MB, and "
            f"{MOST_BYTES // 10**6:,} are the most: keep data out of it (.gitignore), or leave "
            "snapshot out"
        )
    target.mkdir(parents=True)
    for name in names:
        copied = target / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copied, follow_symlinks=False)
    if not large:
        return []
    limit = f"takes more than {MOST_UNTRACKED_BYTES // 10**6} MB"
    return [f"snapshot: left out is what git does not track and {limit}: {_say(large)}"]


def _compare(root: Path, layout: Layout) -> Iterator[str]:
    """Say what of a repository differs from its copy."""
    copied = (path for path in layout.code.rglob("*") if path.is_symlink() or path.is_file())
    names = {p.relative_to(layout.code) for p in copied if p.parent.name != "__pycache__"}
    names.update(_list_tracked(root, layout))
    differ = sorted(name for name in names if not _is_same(root / name, layout.code / name))
    if differ:
        yield (
            f"the code has changed since this sweep was begun: {_say(differ)}. Trials go on with "
            "the snapshot; snapshot=False goes on with the code as it is now"
        )


def _is_same(path: Path, copy: Path) -> bool:
    if path.is_symlink() or copy.is_symlink():
        both = path.is_symlink() and copy.is_symlink()
        return both and os.readlink(path) == os.readlink(copy)
    try:
        return filecmp.cmp(path, copy, shallow=False)
    except OSError:  # one of them is not there
        return False


def _say(names: Sequence[Path]) -> str:
    more = len(names) - _MAX_SAID
    return ", ".join(map(str, names[:_MAX_SAID])) + (f", and {more} more" if more > 0 else "")
