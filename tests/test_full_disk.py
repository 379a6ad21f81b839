"""A disk that fills up: one clear line, exit code 2, and what was there before is still whole."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_edt.errors import CheckpointError
from recbole_edt.io.files import atomic_write, write_array
from recbole_edt.trainer import checkpoint

SMALL = [
    "--dataset=tiny", "--hidden_size=16", "--eval_args.mode=uni5", "--topk=3", "--use_gpu=False",
    "--valid_metric=NDCG@3", "--train_batch_size=32", "--threads=1", "--result_file=r.json",
    "--state=ERROR", "--model=LLMEDT", "--epochs=3", "--finetune_epochs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_shop, write_dataset) -> Path:
    shop = make_shop(seed=3, n_users=40, n_items=(12, 14), lengths=(4, 8))
    vectors = np.random.default_rng(0).normal(size=(26, 6))
    return write_dataset(tmp_path_factory.mktemp("data"), shop, item_emb=vectors)


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


def free(disk: Path) -> int:
    """Bytes that a disk still takes."""
    state = os.statvfs(disk)
    return state.f_bavail * state.f_frsize


def fill(disk: Path, leave: int) -> Path:
    """Write a file that leaves so many bytes of a disk."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, free(disk) - leave)))
    return ballast


def one_line(done, *words) -> None:
    assert done.code == 2
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert all(word in done.err for word in words), done.err


def figures(folder: Path) -> dict:
    return json.loads((folder / "r.json").read_text())["protocols"]


def test_training_stops_with_the_last_good_checkpoint_and_goes_on_after_it(
    commands, data, disk, tmp_path
):
    run = [*SMALL, f"--data_path={data}"]
    calm = tmp_path / "calm"
    calm.mkdir()
    assert commands.run(calm, run).code == 0
    size = max(file.stat().st_size for file in (calm / "saved").iterdir())
    counted = set()
    # room for no, one, two ... checkpoints: each time it ends at another write
    for room in range(6):
        for old in [*(disk / "saved").glob("*"), *disk.glob("r.json")]:
            old.unlink()
        ballast = fill(disk, int((room + 0.5) * size))
        done = commands.run(disk, run)
        assert not list(disk.rglob("*.tmp"))
        kept = list((disk / "saved").glob("*.pth"))
        for file in kept:  # whole, all of them
            checkpoint.load(file)
        counted.add(len(kept))
        ballast.unlink()
        if done.code == 0:
            break
        one_line(done, "No space left on device")
        assert not (disk / "r.json").exists()
        again = commands.run(disk, [*run, "--resume"])
        assert again.code == 0, again.err
        assert figures(disk) == figures(calm)
    assert done.code == 0 and len(counted) >= 3


def test_results_that_find_no_room_leave_a_run_to_resume(commands, data, disk, tmp_path):
    calm = tmp_path / "calm"
    calm.mkdir()
    run = [*SMALL, f"--data_path={data}"]
    assert commands.run(calm, run).code == 0
    before = json.dumps({"kept": 1})
    (disk / "r.json").write_text(before)
    ballast = fill(disk, 0)
    run = [argument for argument in run if "result_file" not in argument]
    run.append(f"--result_file={disk / 'r.json'}")
    work = tmp_path / "work"
    work.mkdir()
    done = commands.run(work, run)
    one_line(done, "No space left on device", "r.json")
    assert (disk / "r.json").read_text() == before
    assert {file.name for file in disk.iterdir()} == {"ballast", "r.json"}
    ballast.unlink()
    assert commands.run(work, [*run, "--resume"]).code == 0
    assert figures(disk) == figures(calm)


def test_a_log_that_finds_no_room_is_one_line_too(commands, data, disk):
    fill(disk, 0)
    one_line(commands.run(disk, [*SMALL, f"--data_path={data}"]), "No space left on device")
    assert not list(disk.rglob("*.pth"))


def test_augment_leaves_the_older_data_and_goes_on(commands, data, disk, tmp_path):
    run = ["augment", "--dataset=tiny", f"--data_path={data}", f"--output_path={disk}",
           "--encoder=file", "--clusters=3"]  # fmt: skip
    assert commands.run(tmp_path, run).code == 0
    before = {file.name: file.read_bytes() for file in (disk / "tiny").iterdir()}
    size = sum(map(len, before.values()))
    for share in (0, 0.4, 0.8):
        ballast = fill(disk, int(share * size))
        one_line(commands.run(tmp_path, [*run, "--seed=3"]), "No space left on device")
        after = {file.name: file.read_bytes() for file in (disk / "tiny").iterdir()}
        assert after == before
        assert not list(disk.rglob("writing-*")) and not list(disk.rglob("*.tmp"))
        ballast.unlink()
    assert commands.run(tmp_path, [*run, "--seed=3"]).code == 0


# --- files that must not grow further: the same without a disk of one's own -----------------------


@pytest.mark.parametrize("limit", [2_000, 30_000])
def test_a_file_that_may_not_grow_is_one_line(commands, data, tmp_path, limit):
    done = commands.run(tmp_path, [*SMALL, f"--data_path={data}"], limit=limit)
    one_line(done, "File too large")
    assert not list(tmp_path.rglob("*.pth")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("limit", [100, 1_000])
def test_augmented_files_that_may_not_grow_are_one_line(commands, data, tmp_path, limit):
    run = ["augment", "--dataset=tiny", f"--data_path={data}", "--output_path=out",
           "--encoder=file", "--clusters=3"]  # fmt: skip
    one_line(commands.run(tmp_path, run, limit=limit), "File too large", "tiny")
    assert not (tmp_path / "out" / "tiny").exists()
    assert [file.name for file in (tmp_path / "out").rglob("*") if file.is_file()] == [".lock"]


def test_a_checkpoint_on_a_full_disk_names_its_file(disk):
    path = disk / "run.pth"
    checkpoint.save(path, {"state_dict": {"w": torch.zeros(1000)}})
    before = path.read_bytes()
    fill(disk, 0)
    with pytest.raises(OSError, match=r"No space left on device: '.*run\.pth'"):
        checkpoint.save(path, {"state_dict": {"w": torch.ones(100_000)}})
    assert path.read_bytes() == before
    with pytest.raises(CheckpointError):
        checkpoint.load(disk / "other.pth")


def test_an_array_on_a_full_disk_says_so(disk):
    fill(disk, 0)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.npy'"):
        with atomic_write(disk / "a.npy") as temporary:
            write_array(temporary, np.ones((1000, 100)))
    assert [file.name for file in disk.iterdir()] == ["ballast"]
