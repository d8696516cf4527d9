from pathlib import Path

import pytest

from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.storage.layout import Layout, check_name


@pytest.mark.parametrize(
    "name", ["my sweep-2 (β)", "MySweep", "-x", "a.b", "...", "ünï", "a\\b", "x" * 255, ".hidden"]
)
def test_names_that_work(name: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path, check_name(name))

    layout.folder.mkdir()

    assert layout.folder.parent == tmp_path


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        (".", "means another folder"),
        ("..", "means another folder"),
        ("a/b", "holds a slash"),
        ("/", "holds a slash"),
        ("a\0b", "holds a control character"),
        ("a\nb", "holds a control character"),
        ("a\x7f", "holds a control character"),
        (" a", "begins or ends with a blank"),
        ("a\u00a0", "begins or ends with a blank"),
        ("x" * 256, "is 256 bytes long, 255 are the most"),
        ("β" * 128, "is 256 bytes long, 255 are the most"),
        ("\ud800", "can't be written as a file name here"),
        ("slurm-sweeps.db", "is kept for the database 'slurm-sweeps.db'"),
        ("slurm-sweeps.db-journal", "is kept for the database 'slurm-sweeps.db'"),
    ],
)
def test_names_that_do_not(name: str, fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        Layout("x", name)

    assert fault in str(caught.value)
    assert repr(name) in str(caught.value)
    assert "choose one like" in str(caught.value)


def test_a_name_must_be_a_string() -> None:
    with pytest.raises(UsageTypeError, match="must be a string, not 7"):
        check_name(7)  # type: ignore[arg-type] # that is the point


def test_paths() -> None:
    layout = Layout("here", "my sweep")
    trial = layout.trial("0123456789ab")

    assert layout.database == Path("here/slurm-sweeps.db")
    assert layout.folder == Path("here/my sweep")
    assert layout.train == Path("here/my sweep/train.pkl")
    assert layout.slot_log(3) == Path("here/my sweep/slots/slot-3.log")
    assert trial.folder == Path("here/my sweep/0123456789ab")
    assert trial.cfg == trial.folder / "cfg.yml"
    assert trial.stdout() == trial.folder / "stdout.log"
    assert trial.stderr(2) == trial.folder / "stderr.2.log"
    assert trial.checkpoints == trial.folder / "checkpoints"
