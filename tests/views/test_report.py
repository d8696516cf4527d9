"""The figures and the report: whether plotly takes them, and what the page says."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

import slurm_sweeps as ss
from browser import Browser, reason_no_browser
from cluster_tools.requirement import require
from slurm_sweeps.trial import Status
from slurm_sweeps.views.pictures import COLORS, SYMBOLS
from slurm_sweeps.views.pictures.slots import MAX_BARS
from slurm_sweeps.views.report import read_plotly_js
from slurm_sweeps.views.table import STYLES
from views_samples import write_foreign, write_sample

pytest.importorskip("plotly")

MIXED = [Status.COMPLETED, Status.PRUNED, Status.FAILED, Status.PRUNED, Status.LOST]
FORTY = {f"group{i // 10}.parameter_{i}": ss.Uniform(0, 1) for i in range(40)}

CASES: dict[str, dict[str, Any]] = {
    "none": {"statuses": []},
    "one": {"statuses": [Status.COMPLETED]},
    "all failed": {"statuses": [Status.FAILED] * 5},
    "all NaN": {"statuses": [Status.COMPLETED] * 5, "nan": True},
    "mixed": {"statuses": MIXED * 8},
    "every status": {"statuses": list(Status)},
    "running": {"statuses": [*MIXED, Status.RUNNING], "state": "running"},
    "forty parameters": {"statuses": MIXED * 8, "space": FORTY},
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


def write(folder: Path, case: str) -> ss.Result:
    write_sample(folder, "sample", **CASES[case])
    return ss.Result("sample", folder)


@pytest.mark.parametrize("case", CASES)
def test_plotly_takes_all_figures(tmp_path: Path, case: str) -> None:
    result = write(tmp_path, case)
    for name in PLOTS:
        figure = getattr(result, name)()
        assert type(figure).__name__ == "Figure", name
        json.loads(figure.to_json())  # and it can be written


@pytest.mark.parametrize("case", CASES)
def test_a_report_of_anything(tmp_path: Path, case: str) -> None:
    path = write(tmp_path, case).report(tmp_path / "report.html")
    page = path.read_text(encoding="utf-8")
    assert "<h1>sample</h1>" in page
    assert page.count("</script>") == 4  # nothing that users wrote ends a script
    assert path.stat().st_size < 7e6
    own = page.replace(read_plotly_js(), "")
    assert not re.search(r"""(src|href)=["'](?!data:)""", own)  # nothing beside it is needed
    assert ("http-equiv" in own) == (case == "running")


def test_what_the_page_says(tmp_path: Path) -> None:
    page = write(tmp_path, "mixed").report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<div class="value">0.1667</div>' in page
    assert "136 iterations run of 200 without pruning" in page
    assert "<b>8 failed</b>: ValueError: the &lt;b&gt;rate&lt;/b&gt; is too large" in page
    assert "<b>8 lost</b>: no reason was told" in page
    assert "LogUniform(1e-5, 1)" in page


def test_every_status_has_its_colour_and_shape() -> None:
    assert {status.value for status in Status} == set(COLORS) == set(SYMBOLS)
    assert set(Status) == set(STYLES)


def test_many_attempts_are_drawn_as_lines(tmp_path: Path) -> None:
    write_sample(tmp_path, statuses=[Status.PRUNED] * (MAX_BARS + 1), slots=200)
    figure = ss.Result("sample", tmp_path).plot_slots()
    assert [trace.type for trace in figure.data] == ["scatter"]


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, names: list[str]
) -> None:
    result = write(tmp_path, "one")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    for make in [getattr(result, name) for name in names]:
        with pytest.raises(ss.UsageError, match=r"pip install 'slurm-sweeps\[report\]'"):
            make()


def test_a_report_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(ss.StorageError, match=r"the report .*/no/report.html can't be written"):
        write(tmp_path, "one").report(tmp_path / "no" / "report.html")
    with pytest.raises(ss.UsageError, match="mode must be 'min' or 'max', not 'low'"):
        ss.Result("sample", tmp_path).report(tmp_path / "r.html", mode="low")
    assert not list(tmp_path.glob("*.html")) + list(tmp_path.glob(".*html*"))


@pytest.fixture(scope="module")
def browser() -> Any:
    """A real browser; in continuous integration (`CI=true`) its absence is a failure."""
    import os

    require(reason_no_browser(), os.environ, "browser")
    with Browser() as running:
        yield running


DRAWN = "[...document.querySelectorAll('.figure')].every(p => p.dataset.drawn && p._fullLayout)"


@pytest.mark.parametrize("case", ["none", "all NaN"])
def test_the_page_in_a_browser(tmp_path: Path, browser: Browser, case: str) -> None:
    open_report(browser, write(tmp_path, case).report(tmp_path / "report.html"))
    assert browser.read_console() == []


def test_a_foreign_database_runs_nothing_in_the_report(tmp_path: Path, browser: Browser) -> None:
    write_foreign(tmp_path)
    path = ss.Result("foreign", tmp_path).report(tmp_path / "report.html")
    open_report(browser, path)
    own = path.read_text(encoding="utf-8").replace(read_plotly_js(), "")
    assert own.count("</script>") == 4
    assert "<img" not in own
    assert browser.run("document.title") == "foreign · slurm-sweeps"
    assert browser.run("document.images.length") == 0
    assert browser.run("document.querySelectorAll('#trials tbody tr').length") == 2
    title = "document.getElementById('figure-curves').querySelector('.ytitle').textContent"
    assert "<img src=x onerror" in browser.run(title)  # as it is written, not as a tag
    assert browser.read_console() == []


def open_report(browser: Browser, path: Path) -> None:
    browser.set_dark(False)
    browser.resize(1200, 12_000)  # all figures in sight, so that all are drawn
    browser.open(path)
    browser.wait_for(DRAWN)


def test_light_and_dark(tmp_path: Path, browser: Browser) -> None:
    open_report(browser, write(tmp_path, "mixed").report(tmp_path / "report.html"))
    background = "getComputedStyle(document.body).backgroundColor"
    ink = "document.getElementById('figure-curves')._fullLayout.font.color"
    assert (browser.run(background), browser.run(ink)) == ("rgb(246, 247, 249)", "#1c2330")
    browser.set_dark(True)
    browser.wait_for(f"{ink} === '#e4e8ee'")  # drawn anew while it is open
    assert browser.run(background) == "rgb(18, 21, 26)"
    assert browser.run("document.documentElement.scrollWidth <= 1200")
    assert browser.read_console() == []


def test_the_table_sorts_and_filters(tmp_path: Path, browser: Browser) -> None:
    result = write(tmp_path, "mixed")
    browser.resize(1200, 600)
    browser.open(result.report(tmp_path / "report.html"))
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
