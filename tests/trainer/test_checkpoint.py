"""Checkpoints: plain, written whole or not at all, refused when damaged or foreign."""

from __future__ import annotations

import pickle
import random
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_edt.errors import CheckpointError
from recbole_edt.io.atomic import load_embeddings
from recbole_edt.trainer import checkpoint

CONTENT = {
    "stage": 1,
    "settings": {"topk": [10], "loss": "bpr", "domains": None, "dropout": 0.3},
    "state_dict": {"weight": torch.arange(12.0).reshape(3, 4)},
}


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "folder" / "run.pth"
    checkpoint.save(path, CONTENT)
    return path


def same(one, other) -> bool:
    return {**one, "state_dict": None} == {**other, "state_dict": None} and torch.equal(
        one["state_dict"]["weight"], other["state_dict"]["weight"]
    )


def test_checkpoints_of_a_run_hold_nothing_but_tensors_and_plain_values(run):
    run(epochs=1, finetune_epochs=1).fit()
    files = Path("saved").glob("*.pth")
    formats = [torch.load(file, weights_only=True)["format"] for file in files]
    assert formats == [checkpoint.FORMAT] * 3


def test_truncated_anywhere_it_is_refused(saved):
    whole = saved.read_bytes()
    for share in (0, 0.1, 0.5, 0.9, 0.999):
        saved.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match="damaged or is no checkpoint"):
            checkpoint.load(saved)


def test_flipped_bit_is_refused_or_changes_nothing(saved):
    whole = saved.read_bytes()
    expected = checkpoint.load(saved)
    rng = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        try:
            content = checkpoint.load(saved)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert same(content, expected)  # the bit is padding, or a date within the archive
    assert refused > 30


def test_foreign_files(tmp_path):
    files = [tmp_path / name for name in ("other.pth", "list.pth", "pickle.pth", "zip.pth")]
    torch.save({"format": "other/1"}, files[0])
    torch.save([1, 2], files[1])
    files[2].write_bytes(pickle.dumps({"format": checkpoint.FORMAT}))
    with zipfile.ZipFile(files[3], "w") as archive:
        archive.writestr("a.txt", "text")
    this_version, damaged = "of this version of recbole_edt", "damaged or is no checkpoint"
    for file, message in zip(files, [this_version] * 2 + [damaged] * 2, strict=True):
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(file)
    torch.save({"config": Path("as RecBole does: an object")}, files[0])
    with pytest.raises(CheckpointError, match="maybe of RecBole's own pipeline: train it with"):
        checkpoint.load(files[0])
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(tmp_path)


def test_files_that_may_not_be_read_are_not_called_damaged(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "file"
    path.write_bytes(b"anything")
    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    monkeypatch.setattr(np, "load", refuse)
    for read in (checkpoint.load, partial(load_embeddings, n_rows=1, what="item")):
        with pytest.raises(PermissionError):
            read(path)


class Touch:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    torch.save({"format": checkpoint.FORMAT, "x": Touch()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "evil.pth")
    assert not Path("executed").exists()


def test_checkpoint_of_another_dataset(run, write_dataset, make_shop, tmp_path):
    first = run("LLMEDTPretrain", epochs=1, item_embedding="id").fit().trainer
    other = write_dataset(tmp_path / "other", make_shop(seed=4, n_users=30))
    settings = {"data_path": str(other), "item_embedding": "id"}
    second = run("LLMEDTFinetune", pretrained_path=first.saved_model_file, **settings)
    with pytest.raises(CheckpointError, match="was trained on other data"):
        second.fit()
    Path(first.last_file).rename(run("LLMEDTPretrain", **settings).trainer.last_file)
    with pytest.raises(CheckpointError, match=r"other data: tiny \(21 users.*start_from"):
        run("LLMEDTPretrain", resume=True, **settings).fit()


def test_same_users_and_items_in_another_order_of_visits_are_another_dataset(
    make_shop, write_dataset, load, tmp_path
):
    shop = make_shop(n_users=20, lengths=(5, 8))
    turned = [(user, item, time, -position) for user, item, time, position in shop.rows]
    first = load(write_dataset(tmp_path / "a", shop))
    second = load(write_dataset(tmp_path / "b", shop, rows=turned))
    prints = [checkpoint.dataset_fingerprint(data) for data in (first, second)]
    assert {**prints[0], "hash": ""} == {**prints[1], "hash": ""}
    assert prints[0]["hash"] != prints[1]["hash"]


def test_finished_checkpoint_is_evaluated_by_a_fresh_trainer(run):
    first = run(epochs=1, finetune_epochs=1).fit()
    expected = first.result()[0]["test"]
    again = run(epochs=1, finetune_epochs=1)
    file = first.trainer.saved_model_file
    assert dict(again.trainer.evaluate(again.test, model_file=file)) == expected
    other = run("SASRec")
    with pytest.raises(CheckpointError, match="does not fit this model"):
        other.trainer.evaluate(other.test, model_file=file)
