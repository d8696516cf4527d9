"""The figures and the report: whether plotly takes them, and what the page says."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import slurm_sweeps as ss
from browser import Browser
from slurm_sweeps.trial import Status
from slurm_sweeps.views.pictures import COLORS, SYMBOLS, slots
from slurm_sweeps.views.report import read_plotly_js
from slurm_sweeps.views.table import STYLES
from sweep_scripts import choose
from views_samples import write_foreign, write_sample

pytest.importorskip("plotly")

MIXED = [Status.COMPLETED, Status.PRUNED, Status.FAILED, Status.PRUNED, Status.LOST]
TWENTY = {f"group{i // 10}.parameter_{i}": ss.Uniform(0, 1) for i in range(20)}

CASES: dict[str, dict[str, Any]] = {
    "none": {"statuses": []},
    "one": {"statuses": [Status.COMPLETED]},
    "all failed": {"statuses": [Status.FAILED] * 5},
    "all NaN": {"statuses": [Status.COMPLETED] * 5, "nan": True},
    "mixed": {"statuses": MIXED * 8},
    "every status": {"statuses": list(Status)},
    "running": {"statuses": [*MIXED, Status.RUNNING], "state": "running", "heard_at": 4e9},
    "twenty parameters": {"statuses": MIXED * 8, "space": TWENTY},
    "no metric": {"statuses": MIXED, "asha": False},
    "no space": {"statuses": MIXED, "space": {"x": 1}},
}

PLOTS = [
    "plot_learning_curves",
    "plot_best_over_time",
    "plot_parameters",
    "plot_parallel_coordinates",
    "plot_importance",
    "plot_slots",
]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ss.Result]:
    """Writes the sweep of a case, once for all tests."""

    @functools.cache
    def write_once(case: str) -> ss.Result:
        folder = tmp_path_factory.mktemp("sweep")
        write_sample(folder, "sample", **CASES[case])
        return ss.Result("sample", folder)

    return write_once


@pytest.fixture(scope="module")
def report(write: Callable[[str], ss.Result]) -> Callable[[str], Path]:
    """Writes the report of a case, once for all tests."""

    @functools.cache
    def report_once(case: str) -> Path:
        result = write(case)
        return result.report(result.local_dir / "report.html")

    return report_once


@pytest.mark.parametrize("case", CASES)
def test_plotly_takes_all_figures(write: Callable[[str], ss.Result], case: str) -> None:
    result = write(case)
    for name in PLOTS:
        figure = getattr(result, name)()
        assert type(figure).__name__ == "Figure", name
        json.loads(figure.to_json())  # and it can be written


# The one whose figures take longest is not usual: they are looked at above.
@pytest.mark.parametrize("case", choose(CASES, CASES.keys() - {"twenty parameters"}))
def test_a_report_of_anything(report: Callable[[str], Path], case: str) -> None:
    path = report(case)
    page = path.read_text(encoding="utf-8")
    assert "<h1>sample</h1>" in page
    assert page.count("</script>") == 4  # nothing that users wrote ends a script
    assert path.stat().st_size < 7e6
    own = page.replace(read_plotly_js(), "")
    assert not re.search(r"""(src|href)=["'](?!data:)""", own)  # nothing beside it is needed
    assert ("http-equiv" in own) == (case == "running")


def test_what_the_page_says(report: Callable[[str], Path]) -> None:
    page = report("mixed").read_text(encoding="utf-8")
    assert '<div class="value">0.1667</div>' in page
    assert "136 iterations run of 200 without pruning" in page
    assert "<b>8 failed</b>: ValueError: the &lt;b&gt;rate&lt;/b&gt; is too large" in page
    assert "<b>8 lost</b>: no reason was told" in page
    assert "LogUniform(1e-5, 1)" in page


def test_every_status_has_its_colour_and_shape() -> None:
    assert {status.value for status in Status} == set(COLORS) == set(SYMBOLS)
    assert set(Status) == set(STYLES)


@pytest.mark.parametrize(("most", "kind"), [(40, "bar"), (39, "scatter")])
def test_many_attempts_are_drawn_as_lines(
    write: Callable[[str], ss.Result], monkeypatch: pytest.MonkeyPatch, most: int, kind: str
) -> None:
    monkeypatch.setattr(slots, "MAX_BARS", most)
    assert {trace.type for trace in write("mixed").plot_slots().data} == {kind}


def test_a_thousand_trials_of_fifty_iterations(tmp_path: Path) -> None:
    write_sample(tmp_path, statuses=[Status.COMPLETED] * 1000, iterations=50, slots=16)
    path = ss.Result("sample", tmp_path).report(tmp_path / "report.html")
    assert path.stat().st_size < 7e6


def test_names_that_are_html(tmp_path: Path) -> None:
    write_sample(tmp_path, "<script>x", [Status.COMPLETED])
    path = ss.Result("<script>x", tmp_path).report(tmp_path / "report.html")
    assert "<h1>&lt;script&gt;x</h1>" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("missing", "names"), [("plotly", ["report", "plot_slots"]), ("jinja2", ["report"])]
)
def test_without_the_extra_it_says_what_to_install(
    write: Callable[[str], ss.Result],
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    names: list[str],
) -> None:
    result = write("one")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    for make in [getattr(result, name) for name in names]:
        with pytest.raises(ss.UsageError, match=r"pip install 'slurm-sweeps\[report\]'"):
            make()


def test_a_report_into_what_is_no_file(tmp_path: Path, write: Callable[[str], ss.Result]) -> None:
    """As /dev/null, which root could well replace by a file; and a link is not replaced either."""
    result = write("one")
    pipe, page, link = (tmp_path / name for name in ("pipe", "page.html", "link.html"))
    os.mkfifo(pipe)
    link.symlink_to(page)
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(pipe.read_text)
        result.report(pipe)
        assert read.result(60).startswith("<!doctype html>")
    result.report(link)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert page.is_file()


def test_a_report_that_can_not_be_written(
    tmp_path: Path, write: Callable[[str], ss.Result]
) -> None:
    result = write("one")
    with pytest.raises(ss.StorageError, match=r"the report .*/no/report.html can't be written"):
        result.report(tmp_path / "no" / "report.html")
    with pytest.raises(ss.UsageError, match="mode must be 'min' or 'max', not 'low'"):
        result.report(tmp_path / "r.html", mode="low")
    assert not list(tmp_path.iterdir())


DRAWN = "[...document.querySelectorAll('.figure')].every(p => p.dataset.drawn && p._fullLayout)"


def open_report(browser: Browser, path: Path) -> None:
    browser.set_dark(False)
    browser.resize(1200, 600)
    browser.open(path)


def draw_all(browser: Browser) -> None:
    """Have the page draw the figures that are out of sight too, as it does to be printed."""
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    browser.wait_for(DRAWN)


def test_the_page_of_an_empty_sweep(report: Callable[[str], Path], browser: Browser) -> None:
    open_report(browser, report("none"))
    draw_all(browser)
    assert browser.read_console() == []


def test_the_page_of_a_sweep(
    write: Callable[[str], ss.Result], report: Callable[[str], Path], browser: Browser
) -> None:
    result = write("mixed")
    open_report(browser, report("mixed"))
    browser.wait_for("document.getElementById('figure-curves').dataset.drawn")
    assert not browser.run("document.getElementById('figure-slots').dataset.drawn")  # far below
    draw_all(browser)
    assert browser.run("document.documentElement.scrollWidth <= 1200")

    first = "document.querySelector('#trials tbody tr td').textContent"
    assert browser.run(first) == result.best_trial().trial_id
    browser.run(
        "[...document.querySelectorAll('#trials th')]"
        ".filter(head => head.textContent === 'trial')[0].click()"
    )
    assert browser.run(first) == min(trial.trial_id for trial in result.trials)
    browser.run(
        "(() => { const chosen = document.getElementById('status'); chosen.value = 'lost';"
        " chosen.dispatchEvent(new Event('input')); })()"
    )
    assert browser.run("document.getElementById('count').textContent") == "8 of 8"
    assert browser.read_console() == []


def test_a_foreign_database_runs_nothing_in_the_report(tmp_path: Path, browser: Browser) -> None:
    write_foreign(tmp_path)
    path = ss.Result("foreign", tmp_path).report(tmp_path / "report.html")
    open_report(browser, path)
    draw_all(browser)
    own = path.read_text(encoding="utf-8").replace(read_plotly_js(), "")
    assert own.count("</script>") == 4
    assert "<img" not in own
    assert browser.run("document.title") == "foreign · slurm-sweeps"
    assert browser.run("document.images.length") == 0
    assert browser.run("document.querySelectorAll('#trials tbody tr').length") == 2
    title = "document.getElementById('figure-curves').querySelector('.ytitle').textContent"
    assert "<img src=x onerror" in browser.run(title)  # as it is written, not as a tag
    assert browser.read_console() == []


def test_light_and_dark(report: Callable[[str], Path], browser: Browser) -> None:
    open_report(browser, report("all NaN"))
    browser.wait_for("document.getElementById('figure-curves').dataset.drawn")
    background = "getComputedStyle(document.body).backgroundColor"
    ink = "document.getElementById('figure-curves')._fullLayout.font.color"
    assert (browser.run(background), browser.run(ink)) == ("rgb(246, 247, 249)", "#1c2330")
    browser.set_dark(True)
    browser.wait_for(f"{ink} === '#e4e8ee'")  # drawn anew while it is open
    assert browser.run(background) == "rgb(18, 21, 26)"
    assert browser.read_console() == []
