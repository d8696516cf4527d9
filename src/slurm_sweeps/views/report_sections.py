"""The parts of the report's page as HTML. Pure; all that users wrote is escaped here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from ..trial import Status
from .formats import format_number, format_span, format_value
from .pictures.data import SweepData
from .pictures.importance import Importance
from .plots.failures import FailureGroup
from .plots.occupation import Occupation
from .plots.progress import Savings, find_start
from .space import format_space

#: Groups of failures that are shown.
_MAX_GROUPS = 20


def build_tile(label: str, value: str, note: str = "", bad: bool = False) -> str:
    """One of the numbers at the top."""
    kind = "value bad" if bad else "value"
    return (
        f'<div class="tile"><div class="label">{escape(label)}</div>'
        f'<div class="{kind}">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )


def build_tiles(data: SweepData, savings: Savings, occupation: Occupation) -> str:
    """The numbers at the top: the best value, the trials, what pruning saved, the time."""
    counts = {status: data.statuses.count(status.value) for status in Status}
    told = [f"{count} {status}" for status, count in counts.items() if count]
    total = data.settings.get("n_trials") or len(data.trials)
    done = len(data.trials) - counts[Status.RUNNING] - counts[Status.SCHEDULED]
    tiles = [
        _build_best_tile(data),
        build_tile("trials", f"{done} of {total}", ", ".join(told)),
        _build_savings_tile(savings, len(occupation.labels)),
        build_tile(
            "time",
            format_span(occupation.end_s),
            f"{len(occupation.labels)} slots, busy {occupation.busy:.0%} of the time",
        ),
    ]
    broken = counts[Status.FAILED] + counts[Status.LOST]
    if broken:
        share = f"{broken / len(data.trials):.0%} of the trials; see below for the reasons"
        tiles.append(build_tile("failed or lost", str(broken), share, bad=True))
    return "".join(tiles)


def _build_best_tile(data: SweepData) -> str:
    order = data.order_by_best()
    if data.mode is None or not len(order):
        why = "nothing was logged yet" if data.metric is None else "no finite value yet"
        why = "nobody said what is best" if len(order) else why
        return build_tile(f"best {data.metric or 'value'}", "–", why)
    at = int(order[0])
    note = f"trial {data.trials[at].trial_id}, iteration {data.best_iteration[at]}"
    return build_tile(
        f"best {data.metric} ({data.mode})", format_number(float(data.best[at])), note
    )


def _build_savings_tile(savings: Savings, slots: int) -> str:
    if savings.full <= savings.run:
        return build_tile("pruning saved", "nothing", f"{savings.run:,} iterations were run")
    share = 1 - savings.run / savings.full
    note = (
        f"{savings.run:,} iterations run of {savings.full:,} without pruning; about "
        f"{format_span(savings.saved_s / max(1, slots))} of time"
    )
    return build_tile("pruning saved", f"{share:.0%}", note)


def build_section(title: str, text: str, content: str) -> str:
    """A card with a heading."""
    intro = f"<p>{text}</p>" if text else ""
    return f'<section class="card"><h2>{escape(title)}</h2>{intro}{content}</section>'


def build_figure(name: str) -> str:
    """The place of a figure."""
    return f'<div class="figure" data-figure="{name}" id="figure-{name}"></div>'


def build_winner(data: SweepData, yaml: str) -> str:
    """The best configuration, ready to paste; nothing where there is none."""
    order = data.order_by_best()
    if data.mode is None or not len(order):
        return ""
    trial = data.trials[int(order[0])]
    value = format_number(float(data.best[int(order[0])]))
    where = f" on {trial.host}" if trial.host else ""
    text = (
        f"Trial <code>{escape(trial.trial_id)}</code> ({trial.status}{escape(where)}) reached "
        f"{escape(str(data.metric))} = <b>{value}</b> at iteration "
        f"{data.best_iteration[int(order[0])]}."
    )
    runners = "".join(_build_runner(data, at) for at in order[:5].tolist())
    head = f"<tr><th>trial</th><th>{escape(str(data.metric))}</th><th>status</th></tr>"
    return build_section(
        "The best configuration",
        text,
        f'<div class="columns"><pre class="short" id="winner">{escape(yaml)}</pre>'
        f"<div><table>{head}{runners}</table></div></div>",
    )


def _build_runner(data: SweepData, at: int) -> str:
    trial = data.trials[at]
    value = format_number(float(data.best[at]))
    return f"<tr><td><code>{trial.trial_id}</code></td><td>{value}</td><td>{trial.status}</td></tr>"


def build_importance_text(importance: Importance) -> str:
    """What the bars are, and how far to trust them."""
    if not importance.names:
        return ""
    text = (
        "How much worse a random forest tells a trial's rank when the values of a parameter are "
        "shuffled (permutation importance). For trials that it has not seen, the forest explains "
        f"{max(0.0, importance.score):.0%} of the variance of the ranks."
    )
    return f"{text} <b>Take it with care: {importance.reason}.</b>" if importance.reason else text


def build_failures(groups: Sequence[FailureGroup], folder: str) -> str:
    """What failed, grouped by the reason; nothing where all went well."""
    if not groups:
        return ""
    parts = []
    for group in groups[:_MAX_GROUPS]:
        ids = ", ".join(group.trial_ids[:8]) + (", …" if len(group.trial_ids) > 8 else "")
        log = f"{folder}/{group.trial_ids[-1]}/stderr.log"
        trace = f"<pre>{escape(group.traceback.strip())}</pre>" if group.traceback else ""
        parts.append(
            f"<details><summary><b>{len(group.trial_ids)} {group.status}</b>: "
            f"{escape(group.reason)}</summary><p>Trials {escape(ids)}. Of the latest: "
            f"<code>{escape(log)}</code></p>{trace}</details>"
        )
    if len(groups) > _MAX_GROUPS:
        parts.append(f"<p>… and {len(groups) - _MAX_GROUPS} other reasons.</p>")
    return build_section("What failed", "", "".join(parts))


def build_trials() -> str:
    """The frame of the table of trials; its script fills it."""
    options = "".join(f"<option>{status.value}</option>" for status in Status)
    return build_section(
        "Trials",
        "",
        '<div class="controls"><input id="filter" placeholder="filter: words in any column" '
        'aria-label="filter"><select id="status" aria-label="status"><option value="">any status'
        f'</option>{options}</select><span id="count"></span>'
        '<button id="more" hidden>show more</button></div>'
        '<div class="scroll"><table id="trials"><thead><tr></tr></thead><tbody></tbody></table>'
        "</div>",
    )


def build_settings(data: SweepData, versions: Mapping[str, str]) -> str:
    """The space, the settings and the versions."""
    space = data.settings.get("space")
    spaces = [(parameter.name, parameter.text) for parameter in data.parameters]
    constants = [] if not isinstance(space, Mapping) else _list_constants(space)
    settings = [
        (key, format_value(value))
        for key, value in data.settings.items()
        if key not in ("space", "version", "started_at", "done_before") and value is not None
    ]
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(find_start(data)))
    tables = [
        ("search space", spaces),
        ("constants", constants),
        ("settings", [("begun", begun), *settings]),
        ("versions", list(versions.items())),
    ]
    content = "".join(
        f"<div><h3>{title}</h3>{_build_pairs(pairs)}</div>" for title, pairs in tables if pairs
    )
    return build_section("How it was set up", "", f'<div class="columns">{content}</div>')


def _list_constants(space: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in space.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if "$space" not in value:
                found += _list_constants(value, f"{name}.")
        else:
            found.append((name, format_space(value)))
    return found


def _build_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td><code>{escape(value)}</code></td></tr>"
        for name, value in pairs
    )
    return f"<table>{lines}</table>"


def pack_figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Write repeated hover texts of a figure once: `[text, how often, text, …]`.

    A curve has its trial's id at each point, which would be half of the page. The page's script
    unpacks them.
    """
    return {"layout": figure["layout"], "data": [_pack_trace(trace) for trace in figure["data"]]}


def _pack_trace(trace: Mapping[str, Any]) -> dict[str, Any]:
    texts = trace.get("text")
    if not isinstance(texts, list) or trace.get("mode") == "markers":
        return dict(trace)
    packed = [part for text, run in groupby(texts) for part in (text, sum(1 for _ in run))]
    return {**{key: value for key, value in trace.items() if key != "text"}, "packed": packed}


def dump_json(data: Any) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
