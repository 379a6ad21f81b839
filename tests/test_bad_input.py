"""Bad input, with the real command.

Each is one clear line on standard error, exit code 2, and nothing written or lost. Killed in the
middle of a write: ``trainer/test_kill.py``; a full disk: ``test_full_disk.py``; malformed LLM
output: ``augment/test_faults.py`` and ``augment/llm``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from running import arguments_of

SMALL = arguments_of(threads=1, result_file="r.json")
LLMEDT = ["--model=LLMEDT"]
ROW = ("u0", "art1", 5, 0)
VECTORS = np.random.default_rng(0).normal(size=(26, 6))


@pytest.fixture
def write(small_shop, write_dataset, tmp_path):
    """Write the shop's dataset, or a spoilt one, and return its folder."""

    def make(place="data", **parts) -> Path:
        return (
            write_dataset(tmp_path / place, small_shop, **{"item_emb": VECTORS, **parts}) / "tiny"
        )

    return make


@pytest.fixture
def refused(commands, tmp_path):
    """Run a command that must be refused in a folder that must stay as it is. Give the line."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "r.json").write_text("older results")

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def check(data: Path | None, *arguments) -> str:
        before = content()
        place = [] if data is None else [f"--data_path={data.parent}"]
        given = [*arguments, *place]
        if given[0] != "augment":
            own = {argument.split("=")[0] for argument in given}
            given += [argument for argument in SMALL if argument.split("=")[0] not in own]
        done = commands.run(work, given)
        assert (done.code, done.out) == (2, ""), done.err
        assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
        assert content() == before
        return done.err

    return check


@pytest.mark.parametrize("suffix", ["inter", "item", "item_emb.npy"])
def test_missing_or_empty_files(write, refused, suffix):
    path = write() / f"tiny.{suffix}"
    path.write_bytes(b"")
    line = refused(path.parent, *LLMEDT)
    assert f"tiny.{suffix} is empty" in line or "is damaged" in line
    path.unlink()
    line = refused(path.parent, *LLMEDT)
    assert f"tiny.{suffix} is missing" in line
    next_step = "recbole-edt import" if suffix != "item_emb.npy" else "--item_embedding=id"
    assert next_step in line


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"rows": [("u0", "art1")]}, "tiny --dataset=NAME` makes a data set"),
        ({"items": [("art1", "art"), ("x", "bike"), ("y", "car")], "rows": [ROW]}, "3 domains"),
        ({"rows": [ROW, ROW, ROW]}, "repeat a (user_id, position)"),
        ({"rows": [ROW, ("u0", "shoe", 5, 1)]}, "does not list (such as 'shoe')"),
        ({"item_emb": np.repeat(VECTORS[:2], 13, 0)}, "2 of 26 embeddings are different"),
        ({"item_emb": VECTORS[:, :1]}, "vectors of one number cannot be halved"),
        ({"users": ["u0"], "user_emb": np.ones((2, 6))}, "but there are 1 users"),
    ],
)
def test_files_that_break_the_contract(write, refused, parts, words):
    """What else can be wrong with them: io/test_atomic.py."""
    assert words in refused(write(**parts), *LLMEDT)


def test_processes_are_started_by_torchrun(write, refused):
    assert "torchrun --nproc_per_node=2" in refused(write(), *LLMEDT, "--nproc=2")


def test_too_few_items_for_the_sampled_protocol(write, refused):
    assert "uni20 needs 20 items" in refused(write(), *LLMEDT, "--eval_args.mode=uni20")


def test_checkpoints_that_are_missing_foreign_or_damaged(
    commands, write, refused, small_shop, tmp_path
):
    data = write()
    assert "needs --pretrained_path" in refused(data, "--model=LLMEDTFinetune")
    run = ["--model=LLMEDTPretrain"]
    done = commands.run(tmp_path / "work", [*run, *SMALL, f"--data_path={data.parent}"])
    assert done.code == 0, done.err
    saved = tmp_path / "work" / "saved"
    (last,) = saved.glob("*.last.pth")
    (best,) = set(saved.glob("*.pth")) - {last}
    other = write("other", rows=small_shop.rows[:-3])
    tune = ["--model=LLMEDTFinetune", f"--pretrained_path={best}"]
    assert "was trained on rows that tiny holds out now" in refused(other, *tune)
    assert "last.pth belongs to other data" in refused(other, *run, "--resume")
    whole = last.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :]
    for damaged in (whole[:middle], bytes([whole[0] ^ 1]) + whole[1:], changed, b""):
        last.write_bytes(damaged)
        assert "damaged" in refused(data, *run, "--resume")
        best.write_bytes(damaged)
        assert "damaged" in refused(data, *tune)


def test_files_that_are_not_as_augment_wrote_them(commands, write, refused, tmp_path):
    data = write()
    out = tmp_path / "augmented"
    augment = ["augment", "--dataset=tiny", f"--output_path={out}", "--encoder=file",
               "--clusters=3", f"--data_path={data.parent}"]  # fmt: skip
    assert commands.run(tmp_path / "work", augment).code == 0
    written = sorted(file for file in (out / "tiny").glob("tiny.*"))
    assert len(written) == 5
    for file in written:
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        line = refused(out / "tiny", *LLMEDT, "--align_weight=0.1")
        assert f"{file.name} is damaged or was changed" in line
        file.write_bytes(whole)
    report = out / "tiny" / "augmentation.json"
    content = json.loads(report.read_text())
    report.write_text(report.read_text()[:-9])
    assert "augmentation.json is damaged" in refused(out / "tiny", *LLMEDT)
    del content["sha256"]  # changed on purpose, or written before there were checksums
    report.write_text(json.dumps(content))
    np.save(written[2], np.random.default_rng(1).normal(size=np.load(written[2]).shape))
    run = [*LLMEDT, *SMALL, f"--data_path={out}"]
    assert commands.run(tmp_path / "work", run).code == 0


def test_no_api_key(commands, write, tmp_path):
    profile = tmp_path / "llm.yaml"
    endpoint = "{base_url: 'http://127.0.0.1:9', model: m, key_env: EDT_NO_SUCH_KEY}"
    profile.write_text(f"chat: {endpoint}\nembedding: {endpoint}\n")
    run = ["augment", "--dataset=tiny", f"--data_path={write().parent}", "--output_path=out",
           f"--llm={profile}", "--generator=openai", "--encoder=openai"]  # fmt: skip
    done = commands.run(tmp_path, run)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "EDT_NO_SUCH_KEY holds no key" in done.err
    assert not (tmp_path / "out" / "tiny").exists()  # the empty cache beside it stays
