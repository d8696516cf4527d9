"""What stands for NVIDIA's libraries where there are none."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def find_stand_in() -> Path:
    """Find a shared library that can be loaded under any name: one of NumPy's, which needs none."""
    spec = find_spec("numpy")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("random/_mt19937*.so"))
