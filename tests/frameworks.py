"""What becomes of a test that needs a framework where there is none."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import Any

import pytest


def require_module(name: str) -> Any:
    """Import a module; skip if its package isn't installed, or fail in CI (`CI=true`)."""
    if find_spec(name.partition(".")[0]) is None:
        reason = f"{name} is not installed (pip install --group frameworks)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true: the tests of the integrations must run, but {reason}")
        pytest.skip(reason, allow_module_level=True)
    return importlib.import_module(name)
