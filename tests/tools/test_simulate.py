"""The simulated shop: same bytes for a seed, raw files alone, bad arguments."""

import subprocess
import sys
from pathlib import Path

import pytest

from recbole_edt.errors import ConfigError
from tools.simulate import main, simulate

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "dataset_atomic" / "cloth_sport"


def test_command_regenerates_the_bundled_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.simulate", "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=ROOT)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted({path.name for path in BUNDLED.iterdir()} - {"README.md"})
    assert len(made) == 7
    for name in made:
        assert (tmp_path / name).read_bytes() == (BUNDLED / name).read_bytes(), name


def test_raw_files_can_be_had_alone(tmp_path: Path) -> None:
    stale = tmp_path / "mine.item_emb.npy"
    stale.write_bytes(b"of other items")
    arguments = ["--output", str(tmp_path), "--users", "200", "--name", "mine", "--raw"]
    assert main(arguments) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["SIMULATED", "mine.inter", "mine.item"]


def test_bad_arguments_exit_with_two_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path / "new"), "--users", "10"]) == 2
    assert "at least 200 users" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="negative"):
        simulate(200, -1)
