"""Checkpoints: plain, written whole or not at all, refused when damaged or foreign."""

from __future__ import annotations

import pickle
import pickletools
import random
import zipfile
from pathlib import Path

import pytest
import torch

from recbole_edt.errors import CheckpointError
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


# --- what is in them ------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(saved):
    assert same(checkpoint.load(saved), {"format": checkpoint.FORMAT, **CONTENT})


def test_checkpoints_of_a_run_hold_nothing_but_tensors_and_plain_values(run):
    run(epochs=1, finetune_epochs=1).fit()
    files = list(Path("saved").iterdir())
    assert len(files) == 3
    for file in files:
        content = torch.load(file, weights_only=True)
        assert content["format"] == checkpoint.FORMAT
        with zipfile.ZipFile(file) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            code = archive.read(name)
        named = {
            argument
            for opcode, argument, _ in pickletools.genops(code)
            if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST")
        }
        assert named <= {
            "collections OrderedDict",
            "torch._utils _rebuild_tensor_v2",
            "torch FloatStorage",
        }


def test_settings_name_what_decides_a_result_and_no_places(run):
    settings = checkpoint.settings(run().config)
    assert settings["hidden_size"] == 16
    assert settings["MODEL_TYPE"] == "ModelType.SEQUENTIAL"
    assert not {"data_path", "checkpoint_dir", "device", "resume", "result_file"} & settings.keys()


# --- written whole or not at all ------------------------------------------------------------------


# --- damaged, foreign, unfitting ------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "content", [{"format": "other/1"}, {"state_dict": {}}, [1, 2], torch.ones(2)]
)
def test_foreign_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="is no checkpoint of this version of recbole_edt"):
        checkpoint.load(tmp_path / "foreign.pth")


def test_foreign_files(tmp_path):
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"format": checkpoint.FORMAT}))
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("a.txt", "text")
    for name in ("pickle", "zip"):
        with pytest.raises(CheckpointError, match="damaged or is no checkpoint"):
            checkpoint.load(tmp_path / f"{name}.pth")
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(CheckpointError, match="there is no checkpoint"):
            checkpoint.load(path)


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
