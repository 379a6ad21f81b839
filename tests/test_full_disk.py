"""A disk that fills up: one clear line, exit code 2, and what was there before is still whole."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import arguments_of

from recbole_edt.trainer import checkpoint

AUGMENT = ["augment", "--dataset=tiny", "--encoder=file", "--clusters=3"]
FULL = "No space left on device"


@pytest.fixture
def run(data_path) -> list[str]:
    """Arguments of a short run."""
    return arguments_of(
        model="LLMEDT", epochs=2, finetune_epochs=1, train_batch_size=32, threads=1,
        result_file="r.json", data_path=data_path,
    )  # fmt: skip


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 2 MiB that holds nothing else."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` to make a small disk with")
    if done.returncode:
        pytest.skip(f"making a small disk is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Write a file that leaves this many bytes of a disk."""
    state = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - leave)))
    return ballast


def one_line(done, *words) -> None:
    assert done.code == 2
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert all(word in done.err for word in words), done.err


def figures(folder: Path) -> dict:
    return json.loads((folder / "r.json").read_text())["protocols"]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_training_stops_with_the_last_good_checkpoint_and_goes_on_after_it(
    commands, run, disk, tmp_path
):
    assert commands.run(tmp_path, run).code == 0
    size = max(file.stat().st_size for file in (tmp_path / "saved").iterdir())
    counted = set()
    # room for no, one, two ... checkpoints: each time it ends at another write
    for room in range(9):
        for old in [*(disk / "saved").glob("*"), *disk.glob("r.json")]:
            old.unlink()
        ballast = fill(disk, int((room + 0.5) * size))
        done = commands.run(disk, run)
        assert not list(disk.rglob("*.tmp"))
        whole = list((disk / "saved").glob("*.pth"))
        for file in whole:
            checkpoint.load(file)
        counted.add(len(whole))
        ballast.unlink()
        if done.code == 0:
            break
        one_line(done, FULL)
        assert not (disk / "r.json").exists()
        again = commands.run(disk, [*run, "--resume"])
        assert again.code == 0, again.err
        assert figures(disk) == figures(tmp_path)
    assert done.code == 0 and len(counted) >= 3


def test_augment_leaves_the_older_data_and_goes_on(commands, data_path, disk, tmp_path):
    run = [*AUGMENT, f"--data_path={data_path}", f"--output_path={disk}"]
    assert commands.run(tmp_path, run).code == 0
    before = contents(disk / "tiny")
    size = sum(map(len, before.values()))
    for share in (0, 0.4, 0.8):
        ballast = fill(disk, int(share * size))
        one_line(commands.run(tmp_path, [*run, "--seed=3"]), FULL)
        assert contents(disk / "tiny") == before
        assert not list(disk.rglob("*.partial")) and not list(disk.rglob("*.tmp"))
        ballast.unlink()
    assert commands.run(tmp_path, [*run, "--seed=3"]).code == 0


def test_vectors_are_exported_whole_or_not_at_all(commands, run, disk, tmp_path):
    run = [arg for arg in run if not arg.startswith("--hidden_size=")] + ["--hidden_size=512"]
    assert commands.run(tmp_path, run).code == 0
    made = json.loads((tmp_path / "r.json").read_text())["checkpoint"]
    export = ["recommend", f"--checkpoint={made}", f"--export={disk}/vectors"]
    for pages in (2, *range(16, 50)):  # from 16 on for all but some of the vectors of the users
        ballast = fill(disk, pages * os.sysconf("SC_PAGE_SIZE"))
        done = commands.run(tmp_path, export)
        ballast.unlink()
        assert not list(disk.rglob("*.tmp"))
        if done.code == 0:
            break
        one_line(done, FULL)
        assert not list(disk.rglob("*.npy"))
    assert len(list(disk.rglob("*.npy"))) == 4 and pages > 16


# --- files that must not grow further: the same where no small disk can be made -------------------


@pytest.mark.parametrize("limit", [2_000, 30_000])
def test_a_file_that_may_not_grow_is_one_line(commands, run, tmp_path, limit):
    one_line(commands.run(tmp_path, run, limit=limit), "File too large")
    assert not list(tmp_path.rglob("*.pth")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("limit", [400, 1_000])  # the message is in a file, too
def test_augmented_files_that_may_not_grow_are_one_line(commands, data_path, tmp_path, limit):
    run = [*AUGMENT, f"--data_path={data_path}", "--output_path=out"]
    one_line(commands.run(tmp_path, run, limit=limit), "File too large", "tiny")
    assert [file.name for file in (tmp_path / "out").rglob("*") if file.is_file()] == [".lock"]
