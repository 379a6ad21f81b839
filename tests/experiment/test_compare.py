"""Comparisons: every row on the same candidates, nothing done twice, nothing lost."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_edt.errors import ConfigError, DataError, TrainingError
from recbole_edt.experiment.compare import Comparison, compare
from recbole_edt.experiment.entries import choose
from recbole_edt.experiment.runs import Run, RunStore, flatten, keys_for
from recbole_edt.experiment.variants import Variants, strip_augmentation
from recbole_edt.io.files import read_table
from recbole_edt.io.lock import run_lock
from recbole_edt.settings import validate

TINY = {
    "epochs": 1, "finetune_epochs": 1, "hidden_size": 16, "inner_size": 16, "n_negatives": 8,
    "eval_args.mode": "uni5", "topk": "[3]", "valid_metric": "NDCG@3", "use_gpu": False,
    "train_batch_size": 64, "metrics": ["Hit", "NDCG", "GiniIndex"],
    "report_modes": ["full"], "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def data_path(tmp_path_factory, make_shop, write_dataset) -> Path:
    shop = make_shop(seed=3, n_users=40, n_items=(12, 14), lengths=(4, 8))
    vectors = np.random.default_rng(0).normal(size=(26, 6)).astype(np.float32)
    return write_dataset(tmp_path_factory.mktemp("data"), shop, item_emb=vectors)


def arguments(data_path: Path, **changes) -> list[str]:
    settings = {"dataset": "tiny", "data_path": data_path, "seeds": "1,2", "jobs": 2,
                **TINY, **changes}  # fmt: skip
    return [f"--{key}={value}" for key, value in settings.items()]


def comparison(data_path: Path, **changes) -> Comparison:
    given = {"dataset": "tiny", "data_path": str(data_path), "models": "SASRec,LLMEDT"}
    return validate(Comparison, given | changes)


def augmented_rows(one: Comparison) -> list[str]:
    return [row for row, of in one.entries.items() if one.is_augmented(of.model, one.keys[row])]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_path, forked_runs) -> Path:
    """Folder of a comparison of two models over two seeds."""
    output = tmp_path_factory.mktemp("out")
    compare(arguments(data_path, models="SASRec,LLMEDT", output_path=output))
    return output / "tiny"


def test_table_holds_the_means_of_the_runs(finished) -> None:
    frame = pd.read_csv(finished / "compare.csv")
    mine = frame[(frame["table"] == "tiny, test, uni5") & (frame["row"] == "LLMEDT")]
    mine = mine.set_index("column")
    found = [json.loads(path.read_text()) for path in (finished / "runs").glob("LLMEDT-*.json")]
    assert sorted(one["seed"] for one in found) == [1, 2]
    for column, part, metric in (("art H@3", "art", "hit@3"), ("bike N@3", "bike", "ndcg@3")):
        figures = [one["test"]["domains"][part][metric] for one in found]
        assert mine.loc[column, "mean"] == pytest.approx(np.mean(figures), rel=1e-5)
        assert mine.loc[column, "n"] == 2
    titles = ["tiny, test, uni5", "tiny, test, full", "tiny, costs"]
    leads = [f"{title}: lead of LLMEDT" for title in titles[:2]]
    assert frame["table"].unique().tolist() == [*titles[:2], *leads, titles[2]]
    text = (finished / "compare.md").read_text()
    for addition in ("the history term", "weights of training targets by their age"):
        told = f"With {addition}: only LLMEDT."
        assert text.count(told) == 2  # a table each
    assert text.count("The best epoch is chosen by NDCG@3 (uni5) on validation.") == 1
    assert "\"--metrics=['Hit', 'NDCG', 'GiniIndex']\"" in text
    lists = frame[frame["column"] == "art GiniIndex@3"]  # of all candidates alone; less is better
    assert set(lists["table"]) == {"tiny, test, full"} and len(lists) == 2
    best = lists.sort_values("mean").iloc[0]
    assert f"**{best['mean']:.4f}**" in text
    costs = frame[(frame["table"] == titles[2]) & (frame["row"] == "LLMEDT")].set_index("column")
    total = found[0]["parameters"]["total"] / 1e6
    assert costs.loc["parameters (M)", "mean"] == pytest.approx(total, rel=1e-5)


def test_raw_data_are_augmented_for_the_rows_that_use_it(finished, data_path) -> None:
    folders = list((finished / "data").glob("augmented-*"))
    assert len(folders) == 1
    assert (folders[0] / "tiny" / "augmentation.json").is_file()
    both = comparison(data_path, output_path=str(finished.parent))
    runs = both.runs()
    assert {run.data_path for run in runs["LLMEDT"]} == {folders[0]}
    assert {run.data_path for run in runs["SASRec"]} == {data_path}
    alone = comparison(data_path, models="SASRec,SASRec*")
    assert {run.data_path for run in flatten(alone.runs())} == {data_path}


def test_changed_data_are_augmented_anew(data_path, tmp_path) -> None:
    shutil.copytree(data_path / "tiny", tmp_path / "tiny")
    variants = [Variants("tiny", tmp_path, tmp_path / "made") for _ in range(2)]
    first = variants[0].make({"profiler": "none"})
    inter = tmp_path / "tiny" / "tiny.inter"
    inter.write_text("\n".join(inter.read_text().split("\n")[:-2]) + "\n")
    assert variants[1].make({"profiler": "none"}) != first
    again = Variants("tiny", first, tmp_path / "of_augmented")
    assert len(read_table(again.raw() / "tiny" / "tiny.inter")) == 1 + len(read_table(inter))


def test_what_is_done_is_not_done_again(finished, data_path, monkeypatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs").glob("*.json")}
    monkeypatch.setattr("recbole_edt.experiment.runs.subprocess.Popen", None)
    compare(arguments(data_path, models="LLMEDT,SASRec", output_path=finished.parent, seeds="2"))
    assert {path: path.stat().st_mtime_ns for path in (finished / "runs").glob("*.json")} == before
    assert set(pd.read_csv(finished / "compare.csv")["n"]) == {1}
    # of each run only its best checkpoint stays
    names = [path.name for path in (finished / "runs" / "checkpoints").rglob("*.pth")]
    assert len(names) == 4
    assert not [name for name in names if ".last" in name or ".stage1" in name]


def test_a_run_that_fails_is_named_and_the_others_go_on(
    data_path, tmp_path, capsys, forked_runs
) -> None:
    # one row per batch: RecBole's BERT4Rec masks nothing in some batch, and its loss is 0 / 0
    with pytest.raises(TrainingError, match=r"run BERT4Rec-.* failed: the training loss is no"):
        compare(arguments(data_path, models="BERT4Rec,SASRec*", output_path=tmp_path, seeds="1",
                          train_batch_size=1, epochs=1))  # fmt: skip
    text = (tmp_path / "tiny" / "compare.md").read_text()
    assert "BERT4Rec, seed 1, failed: the training loss is no longer a finite number" in text
    assert re.search(r"\| SASRec\* +\| +0\.\d", text)
    assert re.search(r"\| BERT4Rec +\| +– \|", text)


def test_where_every_run_fails_an_earlier_page_stays(data_path, tmp_path, forked_runs) -> None:
    (tmp_path / "tiny").mkdir()
    page = tmp_path / "tiny" / "compare.md"
    page.write_text("an earlier comparison")
    given = {"models": "SASRec*", "output_path": tmp_path, "eval_args.mode": "uni50"}
    with pytest.raises(TrainingError, match=r"uni50 needs 50 items .*1 further runs failed"):
        compare(arguments(data_path, **given))
    assert page.read_text() == "an earlier comparison"


def test_keys_of_a_file_lie_below_those_of_the_command_line(data_path, tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("dropout: 0.1\nepochs: 7\neval_args: {mode: uni3, order: TO}\n")
    given = {"config_files": str(file), "epochs": 2, "eval_args.mode": "uni5"}
    one = comparison(data_path, output_path=str(tmp_path), models="Pop,LLMEDT", **given)
    one.check()
    keys = {"epochs": 2, "eval_args.mode": "uni5", "eval_args.order": "TO"}
    runs = one.runs(data_path)
    assert runs["LLMEDT"][0].keys == {**keys, "dropout": 0.1}
    assert runs["Pop"][0].keys == {**keys, "time_limit": 600}  # it knows no dropout


def test_killed_and_started_again_it_ends_the_same(finished, data_path, tmp_path, commands) -> None:
    given = arguments(data_path, models="LLMEDT", output_path=tmp_path, jobs=1)
    running = commands.begin(tmp_path, ["compare", *given])
    runs = tmp_path / "tiny" / "runs"
    assert running.until(lambda: any(runs.glob("*.json")))
    running.signal(signal.SIGINT)
    assert running.wait().code == 130
    assert len(list(runs.glob("*.json"))) == 1
    compare(given)
    for path in (finished / "runs").glob("LLMEDT*.json"):
        one, other = (json.loads(p.read_text()) for p in (path, runs / path.name))
        assert one["protocols"] == other["protocols"]


def test_a_second_comparison_in_the_same_folder_waits(finished, data_path) -> None:
    with run_lock(finished), pytest.raises(DataError, match="another run is using"):
        compare(arguments(data_path, models="SASRec,LLMEDT", output_path=finished.parent))


def test_a_run_is_named_by_its_settings_and_its_data(data_path, tmp_path) -> None:
    shutil.copytree(data_path / "tiny", tmp_path / "tiny")
    inter = tmp_path / "tiny" / "tiny.inter"
    inter.write_text("\n".join(inter.read_text().split("\n")[:-2]) + "\n")
    store = RunStore(tmp_path / "runs")
    run, on_other = (Run("SASRec", "tiny", path, 1) for path in (data_path, tmp_path))
    assert store.name(run) == RunStore(tmp_path / "x").name(run)
    changed = Run("SASRec", "tiny", data_path, 1, {"epochs": 7})
    assert len({store.name(one) for one in (run, on_other, changed)}) == 3
    assert len({store.checkpoints(one) for one in (run, on_other, changed)}) == 3
    with pytest.raises(DataError, match="there is no data set"):
        store.name(Run("SASRec", "tiny", tmp_path / "nowhere", 1))


@pytest.mark.parametrize("left", [0, 2, 200], ids=["empty", "no-archive", "cut-off"])
def test_damaged_ranks_are_named(finished, data_path, left) -> None:
    both = comparison(
        data_path, output_path=str(finished.parent), seeds="1", **{**TINY, "topk": [3]}
    )
    run = both.runs()["LLMEDT"][0]
    ranks = both.store.ranks(run)
    assert len(ranks["test_uni5"]) == len(ranks["users"]) > 5
    path = both.store.path(run, ".npz")
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    with pytest.raises(DataError, match="damaged: delete the run beside it"):
        both.store.ranks(run)
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": "LLMEDT,SASRek"}, "unknown model 'SASRek', did you mean 'SASRec'"),
        ({"models": ","}, "names no model"),
        *(({"seeds": seeds}, "seeds must be different whole numbers of at least 0")
          for seeds in ("1,x", "1,1", "-1", "1.5", "")),
        ({"epoch": 3}, "unknown key 'epoch', did you mean 'epochs'"),
        *(({key: 1}, f"{key} is set for every run by this command") for key in ("seed", "model")),
        ({"config_files": "none.yaml"}, "configuration file none.yaml cannot be read"),
        ({"hidden_size": "many"}, "hidden_size must be"),
        ({"dataset": "nothing"}, "there is no data set|cannot be read|missing"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_before_anything_trains(data_path, tmp_path, change, message):
    settings = {"models": "SASRec,LLMEDT", "output_path": tmp_path, **change}
    with pytest.raises((ConfigError, DataError), match=message):
        compare(arguments(data_path, **settings))
    assert not list(tmp_path.rglob("*.json"))


def test_a_preset_goes_to_the_rows_that_have_it() -> None:
    given, rows = {"preset": "paper", "epochs": 2}, ["SASRec", "C2DSR", "LLMEDTPretrain"]
    found = [keys_for(given, row, "tiny", rows) for row in rows]
    assert found == [{"epochs": 2}, given, given]
    assert keys_for(given, "SASRec", "tiny", ["SASRec", "GRU4Rec"]) == given  # the run refuses it


def test_all_rows_of_table_1_are_there() -> None:
    chosen = choose("all")
    paper = ["GRU4Rec", "BERT4Rec", "SASRec", "C2DSR", "TriCDR", "SyNCRec", "LLMESR", "LLMCDSR",
             "LLM4CDSR", "LLMEDT"]  # fmt: skip
    assert [name for name in chosen if not name.endswith("*")] == paper
    assert chosen["GRU4Rec*"].keys["item_embedding"] == "id"
    assert augmented_rows(Comparison(dataset="tiny")) == paper[6:]
    assert list(choose("SASRec*, GRU4Rec")) == ["SASRec*", "GRU4Rec"]


def test_rows_read_augmented_data_where_their_settings_say_so(data_path) -> None:
    def rows(**changes) -> list[str]:
        models = "SASRec,C2DSR,LLMEDT,LLM4CDSR"
        return augmented_rows(comparison(data_path, models=models, **changes))

    assert rows() == ["LLMEDT", "LLM4CDSR"]
    assert rows(augmentation=True) == ["SASRec", "C2DSR", "LLMEDT", "LLM4CDSR"]
    assert rows(augmentation=False) == ["LLMEDT", "LLM4CDSR"]  # their vectors of text
    assert rows(augmentation=False, item_embedding="id") == ["LLM4CDSR"]


def test_rows_that_are_named_after_a_backbone_keep_it(data_path) -> None:
    given = {"backbone": "gru4rec", "learning_rate": 0.1}
    keys = comparison(data_path, models="SASRec*,LLMEDT", **given).keys
    assert keys["LLMEDT"] == given
    assert (keys["SASRec*"]["backbone"], keys["SASRec*"]["learning_rate"]) == ("sasrec", 0.1)


def test_recboles_own_models_alone_have_a_budget(data_path) -> None:
    runs = comparison(data_path, budget=5, n_negatives=8).runs(data_path)
    assert runs["SASRec"][0].keys == {"time_limit": 5}
    assert runs["LLMEDT"][0].keys == {"n_negatives": 8}
    assert [run.seed for run in runs["LLMEDT"]] == [42, 44, 46]


def test_the_history_term_goes_to_every_model_with_item_vectors(data_path) -> None:
    models = "SASRec,GRU4Rec,BPR,C2DSR,LLMEDT"
    runs = comparison(data_path, models=models, budget=0, history_weight="auto").runs(data_path)
    having = {row for row, (run, *_) in runs.items() if run.keys}
    assert having == {"SASRec", "C2DSR", "LLMEDT"}


def test_raw_rows_of_bundled_data_are_found_again(tmp_path) -> None:
    """Stripping what augmentation added gives what the simulator wrote without it."""
    root, name = Path(__file__).resolve().parents[2], "cloth_sport"
    strip_augmentation(root / "dataset_atomic" / name, tmp_path / name)
    command = [sys.executable, "-m", "tools.simulate", "--raw", "--output", str(tmp_path / "raw")]
    subprocess.run(command, check=True, cwd=root, stdout=subprocess.DEVNULL)
    for file in (f"{name}.inter", f"{name}.item"):
        (simulated,) = (tmp_path / "raw").rglob(file)
        one, other = (read_table(path).fillna("") for path in (tmp_path / name / file, simulated))
        common = other.columns.intersection(one.columns)
        assert len(common) >= 4
        assert one[common].equals(other[common])
