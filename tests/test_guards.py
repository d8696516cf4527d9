"""What must stay true of the whole: who imports whom, what is loaded, what is public, README."""

from __future__ import annotations

import ast
import graphlib
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import slurm_sweeps as ss
import unit_tests
from sweep_scripts import Scripts

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "slurm_sweeps"

#: What each part may import besides itself. It only points downwards: no part is named before it
#: has a line of its own.
MAY_IMPORT: dict[str, set[str]] = {"errors": set()}
MAY_IMPORT["trial"] = {"errors"}
MAY_IMPORT["checks"] = {"errors"}
MAY_IMPORT["rules"] = {"errors", "checks"}
MAY_IMPORT["search"] = {"errors", "trial", "checks"}
MAY_IMPORT["samplers"] = {"errors", "trial", "checks", "search"}
MAY_IMPORT["timing"] = set()
MAY_IMPORT["race"] = {"trial", "rules", "search", "samplers"}
MAY_IMPORT["sweep_types"] = {"errors", "checks", "rules", "trial"}
MAY_IMPORT["prospects"] = {"errors", "trial", "sweep_types"}
MAY_IMPORT["sweep"] = {*MAY_IMPORT["sweep_types"], "samplers", "timing", "sweep_types", "prospects"}
MAY_IMPORT["storage"] = {"errors", "trial"}
MAY_IMPORT["slurm"] = {"errors", "checks"}
MAY_IMPORT["replay"] = {*MAY_IMPORT["race"], *MAY_IMPORT["sweep_types"]} | {
    "race",
    "sweep",
    "sweep_types",
    "storage",
}
MAY_IMPORT["running"] = {*MAY_IMPORT["sweep_types"], "sweep", "sweep_types", "storage", "slurm"}
MAY_IMPORT["programs"] = {"errors", "checks", "storage", "running"}
MAY_IMPORT["integrations"] = {"errors", "storage", "running"}
MAY_IMPORT["views"] = {"errors", "trial", "checks", "rules", "storage", "replay", "running"}
MAY_IMPORT["track"] = {"errors", "trial", "storage", "running", "views"}
MAY_IMPORT["result"] = {"errors", "trial", "checks", "rules", "replay", "storage", "views"}
MAY_IMPORT["experiment"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT["__main__"] = {"cli", "programs"}
MAY_IMPORT["__init__"] = set(MAY_IMPORT)

SOURCES = sorted(PACKAGE.rglob("*.py"))
assert len(SOURCES) > 50, f"{PACKAGE} is not the package"


def read_imports(file: Path) -> Iterator[tuple[str, ...]]:
    """Yield each import of a module of ours, as its path below the package."""
    package = file.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            path = base + tuple((node.module or "").split(".") if node.module else ())
            yield from [path] if path else [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("slurm_sweeps"):
            yield ("absolute", node.module or "")
        elif isinstance(node, ast.Import):
            yield from (
                ("absolute", alias.name) for alias in node.names if "slurm_sweeps" in alias.name
            )


@pytest.mark.parametrize("file", SOURCES, ids=[str(file.relative_to(PACKAGE)) for file in SOURCES])
def test_imports_point_downwards(file: Path) -> None:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in MAY_IMPORT, f"{file}: say in MAY_IMPORT what this new part may use"
    allowed = MAY_IMPORT[part] | {part, "__version__"}
    wrong = [path for path in read_imports(file) if path[0] not in allowed]
    assert not wrong, f"{file} imports {wrong}; allowed are, relatively, {sorted(allowed)}"


def test_the_table_points_downwards() -> None:
    """There is no circle of parts: what one may import has its line above."""
    parts = list(MAY_IMPORT)
    assert set(parts) == {
        file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in SOURCES
    }
    for i, part in enumerate(parts):
        assert MAY_IMPORT[part] <= set(parts[:i]), part


def read_modules_loaded(path: Path, modules: dict[tuple[str, ...], Path]) -> set[tuple[str, ...]]:
    """Read which modules of ours one uses, in functions too, but not those for types alone."""
    package = path.relative_to(PACKAGE).parent.parts
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    loaded = set()
    for node in nodes:  # grows
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            base += tuple(node.module.split(".")) if node.module else ()
            loaded |= {
                base if (*base, a.name) not in modules else (*base, a.name) for a in node.names
            }
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)
    return loaded


def test_no_circle_of_modules() -> None:
    """Imports in functions count, as they hide circles; those for types alone do not."""
    modules = {}
    for file in SOURCES:
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        modules[parts[:-1] if parts[-1] == "__init__" else parts] = file
    loads = {name: read_modules_loaded(file, modules) for name, file in modules.items()}
    assert sum(map(len, loads.values())) > len(modules), "the imports are not found"
    assert set().union(*loads.values()) <= {*modules}
    graphlib.TopologicalSorter(loads).prepare()  # raises CycleError, which names them


#: What decides, and all that knows Slurm's text but the one module that asks Slurm.
PURE = [
    "errors.py",
    "trial.py",
    "checks.py",
    "rules",
    "search",
    "samplers",
    "prospects.py",
    "race.py",
    "sweep.py",
    "sweep_types.py",
    "timing.py",
    "slurm",
    "running/deadlines.py",
    "running/nodes.py",
]
BUT = {"slurm/client.py"}
IMPURE = {
    *(
        "os",
        "subprocess",
        "socket",
        "select",
        "selectors",
        "signal",
        "time",
        "logging",
        "threading",
    ),
    *(
        "concurrent",
        "multiprocessing",
        "sqlite3",
        "pathlib",
        "shutil",
        "tempfile",
        "random",
        "glob",
    ),
}


@pytest.mark.parametrize("place", PURE)
def test_what_decides_is_pure(place: str) -> None:
    path = PACKAGE / place
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    files = [file for file in files if str(file.relative_to(PACKAGE)) not in BUT]
    assert files, f"there is no {path} to look at"
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        allowed = {"subprocess", "pathlib"} if place == "trial.py" else set()  # types of fields
        assert not {*read_foreign_imports(tree)} & (IMPURE - allowed), file
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not {ast.unparse(call) for call in calls} & {"open", "input", "print"}, file
        ours = {"/".join(found) for found in read_imports(file)}
        assert not {f"{name}.py" for name in ours} & BUT, f"{file} asks Slurm"


def test_what_is_not_pure_is_there() -> None:
    for place in BUT:
        tree = ast.parse((PACKAGE / place).read_text(encoding="utf-8"))
        assert {*read_foreign_imports(tree)} & IMPURE, f"{place} could be pure"


def read_foreign_imports(tree: ast.Module) -> Iterator[str]:
    """Yield the packages that are not ours, by the first word of each import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]


#: What a process that only reports does without.
SLOW = ["argparse", "dataclasses", "inspect", "ctypes", "shutil", "logging"]
HEAVY = ["pandas", "rich", "click", "yaml", "numpy", "sqlite3", "multiprocessing", "asyncio", *SLOW]


@pytest.mark.parametrize(
    ("code", "may"),
    [
        ("import slurm_sweeps", set()),
        ("import slurm_sweeps.running.worker", {*SLOW}),
        # What every trial does first; its process is a fork of one that has loaded the worker.
        ("import slurm_sweeps; slurm_sweeps.log", set()),
        # What programs of any language call for each report: it is started anew each time.
        ("import slurm_sweeps.__main__, slurm_sweeps.programs.log_line", set()),
        # What each job loads that joins a sweep.
        (
            "import slurm_sweeps; slurm_sweeps.Experiment, slurm_sweeps.Uniform",
            {*HEAVY} - {"numpy"},
        ),
        # What hundreds of jobs may load at the same moment.
        (
            "from slurm_sweeps.cli import main; main.get_command(None, 'join')",
            {"click", "sqlite3", *SLOW} - {"argparse", "ctypes", "logging"},
        ),
        ("import slurm_sweeps; slurm_sweeps.Result", {"sqlite3", "numpy", "rich", *SLOW}),
    ],
)
@pytest.mark.processes
def test_what_is_loaded(code: str, may: set[str]) -> None:
    show = f"{code}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", show], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(ast.literal_eval(done.stdout))
    assert loaded <= may
    assert "pandas" not in loaded  # it alone takes half a second


def start_by_subprocess() -> None:
    try:
        subprocess.run([sys.executable, "-c", ""], check=True)
    except Exception as error:  # as code that goes on without does
        raise AssertionError("whatever is tested may swallow it") from error


def start_by_fork() -> None:
    if not os.fork():
        os._exit(0)


@pytest.mark.parametrize("start", [start_by_subprocess, start_by_fork, lambda: os.system("true")])
def test_a_unit_test_starts_no_process(start: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="is a unit test and starts a process"):
        start()


@pytest.mark.parametrize("place", unit_tests.PLACES)
def test_places_of_unit_tests_are_there(place: str) -> None:
    path = ROOT / "tests" / place
    assert path.is_file() or list(path.glob("test_*.py")), (
        f"tests/unit_tests.py: no tests in {path}"
    )


def test_all_is_what_there_is() -> None:
    assert sorted(ss.__all__) == ss.__all__
    assert {"Experiment", "Result", "ASHA", "log", "samplers"} <= set(ss.__all__)
    for name in ss.__all__:
        assert getattr(ss, name) is not None
    assert set(dir(ss)) == {*ss.__all__, "__version__"}


def test_the_type_checker_sees_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert [alias.asname for node in imports for alias in node.names] == [
        alias.name for node in imports for alias in node.names
    ]
    assert sorted(alias.name for node in imports for alias in node.names) == ss.__all__


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'slurm_sweeps' has no attribute 'Unifrom'"):
        _ = ss.Unifrom
    with pytest.raises(ImportError, match="cannot import name 'Unifrom'"):
        exec("from slurm_sweeps import Unifrom")


def test_the_house_stays_small() -> None:
    """Whoever opens the source for the first time is to find everything in a day.

    The limits are what it took when it was last put in order. Who needs more looks first for what
    can go, or can be said once; a limit that is raised says why here. Denser lines are no way out.

    In order, it took 18,400 lines in 89 files. What has come since: programs as trials (1,300),
    journals and what hands them in (800), trials' children, the script's top level and libraries'
    settings (1,000), a Slurm that is away, slow or suspended (700), what a sweep is after and what
    trials return (300), what users are told when they go wrong (500); then one sweep in many jobs,
    lent or submitted (2,600), tracking tools and callbacks (1,400), several objectives, constraints
    and configurations that are added (1,300), limits, memory and CPUs of a trial (900), snapshots,
    provenance, what is kept and what runs at the end (900), stored reports judged again (700),
    spaces that an objective defines as it runs (400). And then: seeds that race and are compared,
    forecasts by playing on (1,100), designs and indices for studies, guesses as priors, spaces that
    are extended, imports that trials share (4,000 in all). Since then, in eight files fewer: trials
    that end before their short job does, forecasts that know how little was seen, what is read of a
    large sweep, and what is said to those who meet this for the first time (700, less 100).
    """
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES)
    assert 50 < len(SOURCES) <= 155, f"{len(SOURCES)} files"
    assert 5_000 < lines <= 36_200, f"{lines} lines"


def test_every_module_says_what_it_is_for() -> None:
    for file in SOURCES:
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), file


def test_every_public_name_is_documented() -> None:
    for name in ss.__all__:
        assert (getattr(ss, name).__doc__ or "").strip(), name


def test_the_version_is_the_distributions() -> None:
    metadata = importlib.import_module("importlib.metadata")
    assert re.match(r"\d+\.\d+", metadata.version("slurm-sweeps"))
    assert (PACKAGE / "py.typed").exists()


# --- README ---------------------------------------------------------------------------------------


def read_code(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_script_of_the_readme_runs(scripts: Scripts) -> None:
    (source,) = read_code("python")
    assert "n_trials=200" in source
    hasty = source.replace("sleep(0.05)", "sleep(0)").replace("n_trials=200", "n_trials=30")
    done = scripts.run(hasty)
    found = r"\nTrial [0-9a-f]{12}: (completed|pruned) after 0:00:\d\d.*\n  x = 0\."
    assert re.search(found, done.stdout), done.stdout
    # As it says: run again with more trials, it goes on.
    scripts.run(hasty.replace("n_trials=30", "n_trials=32"))
    assert len(ss.Result("first", scripts.folder / "slurm-sweeps").trials) == 32


def test_the_sweep_of_a_program_of_the_readme_runs(scripts: Scripts) -> None:
    (source,) = read_code("yaml")
    assert "n_trials: 200" in source
    (scripts.folder / "sweep.yaml").write_text(source.replace("n_trials: 200", "n_trials: 4"))
    scripts.write(
        """
        import argparse
        parser = argparse.ArgumentParser()
        for name, kind in (("--lr", float), ("--width", int), ("--out", str)):
            parser.add_argument(name, type=kind, required=True)
        args = parser.parse_args()
        for epoch in range(1, 4):
            print(f"epoch {epoch}: loss={args.lr * args.width / epoch}")
        """,
        "train.py",
    )
    verb = [str(Path(sys.executable).with_name("slurm-sweeps")), "run", "sweep.yaml"]
    scripts.run(f"import subprocess; subprocess.run({verb}, check=True)")
    trials = ss.Result("script", scripts.folder / "slurm-sweeps").trials
    assert [trial.cfg.keys() for trial in trials] == [{"lr", "width"}] * 4


def test_the_readme_links_to_what_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_readme_names_make_targets_that_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make ([a-z-]+)", "\n".join(read_code("bash")), flags=re.MULTILINE)
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
