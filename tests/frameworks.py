"""What becomes of a test that needs a framework where there is none."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import Any

import pytest


def require_package(name: str) -> None:
    """Skip where a package isn't installed, or fail in CI (`CI=true`); it is not imported."""
    if find_spec(name) is None:
        reason = f"{name} is not installed (pip install --group frameworks)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true: the tests of the integrations must run, but {reason}")
        pytest.skip(reason)


def require_module(name: str) -> Any:
    """Import a module of a package that must be there; see `require_package`.

    That may take seconds: call it in a fixture or a test, not while tests are collected.
    """
    require_package(name.partition(".")[0])
    return importlib.import_module(name)
