"""`cfg.yml`, a trial's configuration for people to read and paste."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ..trial import describe_value

# The C emitter is five times faster; PyYAML has it wherever libyaml was there when it was built.
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def format_cfg(cfg: dict[str, Any]) -> str:
    """Write a cfg as YAML; what YAML can't hold is shown as text."""
    text = json.dumps(cfg, default=describe_value, ensure_ascii=False)
    # File names that are not UTF-8 hold halves of surrogate pairs, which a file can't.
    plain = json.loads(text.encode("utf-8", "replace"))
    return str(yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def write_cfg(cfg: dict[str, Any], folder: Path) -> None:
    """Make a trial's folder and write its `cfg.yml`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.yml").write_text(format_cfg(cfg), encoding="utf-8")
