"""What becomes of a test that needs a Slurm (or a browser) where there is none."""

from __future__ import annotations

from collections.abc import Mapping

import pytest


def require(reason: str | None, environ: Mapping[str, str], what: str = "Slurm") -> None:
    """Do nothing if it is there; else skip, or fail in continuous integration (`CI=true`).

    Args:
        reason: Why it is not there; None if it is.
        environ: The environment.
        what: What is needed.
    """
    if reason is None:
        return
    if environ.get("CI") == "true":
        pytest.fail(f"CI=true: all tests must run, but there is no {what}: {reason}")
    pytest.skip(f"no {what}: {reason}")
