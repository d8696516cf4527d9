"""The documentation: its code runs, what it names is there, and what is public is in it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import slurm_sweeps as ss
from browser import Browser
from doc_pages import BLOCKS, PAGES, README, ROOT, Block
from slurm_sweeps.cli import main
from sweep_scripts import Scripts

#: Blocks of these are run, or say why not. README's are run by tests of their own.
CODE = {"python", "yaml", "bash", "sql"}


def name(block: Block) -> str:
    return block.place


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.page != README], ids=name)
def test_a_block_of_code_is_run_or_says_why_not(block: Block) -> None:
    if block.language in CODE:
        assert re.match(r"run\b|not run: \w", block.note), (
            f"{block.place}: say above it <!-- run --> or <!-- not run: why -->"
        )
    else:
        assert not block.note


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=name)
def test_a_block_of_python_is_python(block: Block) -> None:
    ast.parse(block.code)


@pytest.mark.processes
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.is_run], ids=name)
def test_a_block_runs(block: Block, scripts: Scripts) -> None:
    assert block.language == "python", "only these are run"
    scripts.run(block.hasten())


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=name)
def test_a_block_of_bash_is_bash(block: Block) -> None:
    for verb, *words in re.findall(r"^slurm-sweeps (\w+)((?: [^#\n]*)?)", block.code, re.MULTILINE):
        check_verb(verb, " ".join(words), block.place)


@pytest.mark.processes
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=name)
def test_bash_takes_a_block_of_bash(block: Block) -> None:
    read = subprocess.run(["bash", "-n"], input=block.code, text=True, capture_output=True)
    assert not read.stderr, f"{block.place}: {read.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_in_a_text_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for verb, words in re.findall(r"`slurm-sweeps ([a-z]+)((?: [^`\n]*)?)`", text):
        check_verb(verb, words, str(page))


def check_verb(verb: str, words: str, place: str) -> None:
    """Check that the command line has a verb and its options."""
    command = main.get_command(click.Context(main), verb)
    assert command is not None, f"{place}: slurm-sweeps {verb}"
    if command.context_settings.get("ignore_unknown_options"):  # it reads them itself
        return
    options = {opt for param in command.params for opt in param.opts} | {"--help"}
    for option in re.findall(r"(?<= )--[a-z-]+", words):
        assert option in options, f"{place}: slurm-sweeps {verb} {option}"


def test_all_that_is_public_is_in_the_reference() -> None:
    pages = [ROOT / "docs" / "reference" / page for page in ("api.md", "errors.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"^::: slurm_sweeps\.(\w+)$", text, re.MULTILINE))
    assert named | {"samplers", "track"} == set(ss.__all__) - {"__version__"}


# --- troubleshooting ------------------------------------------------------------------------------


def read_strings() -> str:
    """Read all strings of the package, with … for what is put into them."""
    texts = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                values = node.values
                texts.append(
                    "".join(v.value if isinstance(v, ast.Constant) else "…" for v in values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_the_messages_that_are_explained_are_those_that_are_printed() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\*\*`([^`]+)`", page, re.MULTILINE)
    assert len(entries) > 15
    strings = read_strings()
    for entry in entries:
        for piece in filter(None, re.split(r"'?…'?|\d+|'\w+'", entry)):
            assert piece.strip() in strings, f"{entry!r}: nothing prints {piece!r}"


# --- the site -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as `make docs` builds them: a warning, a dead link or anchor too, is an error."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    build = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "griffe:" not in said, said  # a docstring that can't be read
    return folder / "site"


@pytest.mark.processes
def test_the_site_shows_itself_from_the_disk_and_fetches_nothing(
    site: Path, browser: Browser
) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == len(PAGES)  # README is none, 404 is one more
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|link)[^>]* (?:src|href)=\"?(https?:[^\" >]+)", text)
        assert not fetched, page
    browser.resize(400, 800)
    for dark, some in ((False, pages), (True, [site / "index.html", site / "cli.html"])):
        browser.set_dark(dark)
        for page in some:
            if page.name != "404.html":  # its links are those of a server
                browser.open(page)
                assert browser.run("document.documentElement.scrollWidth") <= 400, page
    assert browser.read_console() == []


#: Whether the search, which is in a shadow tree, shows what is sought.
FOUND = (
    "[...document.querySelectorAll('*')]"
    ".some(each => each.shadowRoot?.textContent.includes('survives attempts'))"
)


@pytest.mark.processes
def test_the_search_of_the_site_works_from_the_disk(site: Path, browser: Browser) -> None:
    browser.resize(1280, 900)
    browser.open(site / "index.html")
    browser.run("document.querySelector('label[for=__search], .md-search__button').click()")
    browser.type("checkpoint_dir")
    browser.wait_for(FOUND)
    assert browser.read_console() == []
