"""From raw atomic files to augmented ones: the whole way, and what is seen on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from histories import history

from recbole_edt.augment.clusters import ItemSpace
from recbole_edt.augment.command import augment
from recbole_edt.augment.insert import Insertions
from recbole_edt.augment.output import Augmented, _closeness
from recbole_edt.augment.pipeline import Pipeline
from recbole_edt.augment.settings import AugmentSettings
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.experiment.variants import strip_augmentation
from recbole_edt.io.files import INTER_COLUMNS, read_table, write_table
from recbole_edt.settings import validate

NAME = "shop"


def run(raw: Path, output: Path, **settings) -> dict:
    settings = {"min_ratio": 0.0, **settings}  # all users of both domains: more to look at
    return Pipeline(NAME, raw, output, validate(AugmentSettings, settings)).run()


def inter(folder: Path) -> pd.DataFrame:
    frame = read_table(folder / NAME / f"{NAME}.inter")
    frame["position"] = frame["position"].astype(float)
    return frame


# Histories


def test_held_out_rows_change_no_augmented_byte(raw: Path, tmp_path: Path) -> None:
    """The planted leak: other validation and test items, and nothing made of the rest may move."""
    run(raw, tmp_path / "one", num=2)
    changed = tmp_path / "raw" / NAME
    changed.mkdir(parents=True)
    frame = read_table(raw / NAME / f"{NAME}.inter")
    ahead = frame.groupby("user_id").cumcount(ascending=False)
    many = frame.groupby("user_id")["item_id"].transform("size") >= 3
    held_out = (ahead < 2) & many
    shuffled = frame.loc[held_out, "item_id"].sample(frac=1, random_state=1).to_numpy()
    assert (shuffled != frame.loc[held_out, "item_id"]).any()
    frame.loc[held_out, "item_id"] = shuffled
    frame.columns = ["user_id:token", "item_id:token", "timestamp:float", "position:float"]
    frame.to_csv(changed / f"{NAME}.inter", sep="\t", index=False)
    (changed / f"{NAME}.item").write_bytes((raw / NAME / f"{NAME}.item").read_bytes())
    run(tmp_path / "raw", tmp_path / "two", num=2)
    for what in ("item", "user", "item_emb.npy", "user_emb.npy"):
        one, two = (tmp_path / n / NAME / f"{NAME}.{what}" for n in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), what
    one, two = (inter(tmp_path / name) for name in ("one", "two"))
    inserted = one["augmented"] == "1"
    assert inserted.sum() > 50
    pd.testing.assert_frame_equal(one[inserted], two[inserted])


# Text


def shop_with(folder: Path, raw: Path, change) -> Path:
    """Write the shop with other items: ``change`` makes the frame, its columns typed."""
    target = folder / NAME
    target.mkdir(parents=True)
    (target / f"{NAME}.inter").write_bytes((raw / NAME / f"{NAME}.inter").read_bytes())
    items = change(read_table(raw / NAME / f"{NAME}.item"))
    items.to_csv(target / f"{NAME}.item", sep="\t", index=False)
    return folder


def test_a_name_and_a_genre_tell_items_apart_and_keep_their_types(
    raw: Path, tmp_path: Path
) -> None:
    def change(items: pd.DataFrame) -> pd.DataFrame:
        frame = items[["item_id", "domain", "brand", "title"]].assign(pages="12")
        names = ["item_id:token", "domain:token", "genre:token", "name:token_seq", "pages:float"]
        return frame.set_axis(names, axis=1)

    run(shop_with(tmp_path / "raw", raw, change), tmp_path / "out")
    vectors = np.load(tmp_path / "out" / NAME / f"{NAME}.item_emb.npy")
    assert len(np.unique(vectors, axis=0)) > 0.9 * len(vectors)
    header = (tmp_path / "out" / NAME / f"{NAME}.item").read_text().partition("\n")[0]
    assert set(header.split("\t")) == {
        "item_id:token", "domain:token", "pages:float", "genre:token", "title:token_seq",
        "generated:token",
    }  # fmt: skip


def test_items_that_text_does_not_tell_apart_are_refused_and_untold_ones_named(
    raw: Path, tmp_path: Path, capsys
) -> None:
    def bare(items: pd.DataFrame) -> pd.DataFrame:
        kept = items[["item_id", "domain"]].set_axis(["item_id:token", "domain:token"], axis=1)
        return kept.assign(**{"title:token_seq": items["title"].where(items.index % 5 > 0, "")})

    source = shop_with(tmp_path / "raw", raw, bare)
    run(source, tmp_path / "out")
    assert "items have no text in title: their vectors are alike" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"2 of .* different.*--item_embedding=id"):
        run(
            shop_with(tmp_path / "bare", raw, lambda items: bare(items).iloc[:, :2]), tmp_path / "2"
        )
    assert not (tmp_path / "2" / NAME).exists()


def test_a_domain_whose_items_and_users_are_alike_is_named(raw, tmp_path, load, caplog, capsys):
    def one_title(items: pd.DataFrame) -> pd.DataFrame:
        title = items["title"].where(items["domain"] == "cloth", "a thing")
        kept = items[["item_id", "domain"]].set_axis(["item_id:token", "domain:token"], axis=1)
        return kept.assign(**{"title:token_seq": title})

    run(shop_with(tmp_path / "raw", raw, one_title), tmp_path / "out", profiler="none")
    said = "the text of {} does not tell its items apart: 1 of "
    told = capsys.readouterr().out
    assert said.format("sport") in told and "text of cloth" not in told
    caplog.set_level("WARNING")
    data = load(tmp_path / "out", "LLMEDT", dataset=NAME)
    users = [f"u{n}" for n in range(9)]
    write_table(pd.DataFrame({"user_id": users, "profile": "x"}),
                {"user_id": "token", "profile": "token_seq"},
                tmp_path / "out" / NAME / f"{NAME}.user")  # fmt: skip
    same = np.ones((9, data.item_table().shape[1]), dtype=np.float16)
    np.save(tmp_path / "out" / NAME / f"{NAME}.user_emb.npy", same)
    again = load(tmp_path / "out", "LLMEDT", dataset=NAME)
    for _ in range(2):
        again.item_table(), again.user_table()
    assert caplog.text.count(said.format("sport")) == 2 and "text of cloth" not in caplog.text
    assert caplog.text.count(f"{NAME}.user_emb.npy does not tell users apart: 1 of 9") == 1


def test_vectors_that_cannot_be_stored_are_refused(raw: Path, tmp_path: Path) -> None:
    raw = shutil.copytree(raw, tmp_path / "raw")
    n = len(read_table(raw / NAME / f"{NAME}.item"))
    vectors = np.random.default_rng(1).normal(0, 1e5, (n, 8)).astype(np.float32)
    np.save(raw / NAME / f"{NAME}.item_emb.npy", vectors)
    settings = AugmentSettings(encoder="file", profiler="none")
    with pytest.raises(DataError, match="encoder file: the vectors hold values beyond 65,504"):
        Pipeline(NAME, raw, tmp_path / "out", settings).run()


# The whole way


def test_augmented_files_keep_the_raw_rows_and_train(raw: Path, tmp_path: Path, load) -> None:
    report = run(raw, tmp_path, num=2)
    before, after = inter(raw), inter(tmp_path)
    kept = after[after["augmented"] == "0"]
    for column in ("user_id", "item_id", "position"):
        assert kept[column].tolist() == before[column].tolist()
    data = load(tmp_path, "LLMEDT", dataset=NAME, augmentation=True)
    assert data.sequences.augmented.sum() == (after["augmented"] == "1").sum() > 50
    assert data.user_table().shape[0] == data.user_num
    assert report["statistics"]["before"]["augmented_rows"] == 0
    assert 0.5 < report["similarity"]["100%"] <= report["similarity"]["30%"] <= 1.0
    assert json.loads((tmp_path / NAME / "augmentation.json").read_text()) == report
    assert report["new_items"] == {}  # retrieval proposes items of the catalogue


def test_further_columns_are_kept_and_filter_augmented_rows(raw: Path, tmp_path, load) -> None:
    """An inserted row has what they say of its anchor; users keep them beside their profile."""
    own, path = tmp_path / "own" / NAME, tmp_path / "own" / NAME / f"{NAME}.inter"
    shutil.copytree(raw / NAME, own)
    rows = read_table(path)
    rows["rating"], rows["key"] = np.resize(["5", "4", "", "1"], len(rows)), "a b"
    users = sorted(rows["user_id"].unique())
    kept = {"user_id": "token", "age": "float"}
    write_table(rows, INTER_COLUMNS | {"rating": "float", "key": "token_seq"}, path)
    ages = pd.DataFrame({"user_id": [*users[1:], "nobody"], "age": "30"})
    write_table(ages, kept, own / f"{NAME}.user")

    run(tmp_path / "own", tmp_path / "out", num=2)
    after = inter(tmp_path / "out")
    is_raw = after["augmented"] == "0"
    assert after["rating"][is_raw].tolist() == rows["rating"].tolist()
    anchors = after["rating"].where(is_raw).ffill()
    assert after["rating"].equals(anchors) and set(after["key"]) == {"a b"}
    read = read_table(tmp_path / "out" / NAME / f"{NAME}.user")
    assert read["user_id"].tolist() == users and read["profile"].ne("").all()
    assert read["age"].tolist() == ["", *["30"] * (len(users) - 1)]
    header = (tmp_path / "out" / NAME / f"{NAME}.inter").read_text().split("\n")[0]
    assert header.split("\t")[4:] == ["rating:float", "key:token_seq", "augmented:token"]

    data = load(tmp_path / "out", "LLMEDT", dataset=NAME, val_interval={"rating": "[4,5]"})
    good = after["rating"].isin(["4", "5"])
    assert (~data.sequences.augmented).sum() == (good & is_raw).sum()
    assert 10 < data.sequences.augmented.sum() <= (good & ~is_raw).sum()

    strip_augmentation(tmp_path / "out" / NAME, tmp_path / "stripped" / NAME)
    for suffix, frame in (("inter", rows), ("user", read.drop(columns="profile"))):
        assert read_table(tmp_path / "stripped" / NAME / f"{NAME}.{suffix}").equals(frame)
    run(tmp_path / "own", tmp_path / "plain", profiler="none")
    assert read_table(tmp_path / "plain" / NAME / f"{NAME}.user").equals(ages)


def test_how_close_new_items_are_to_the_catalogue_hand_computed() -> None:
    """Art at 0, 10 and 30 degrees: nearest cosines cos 10, cos 10, cos 20. The new one is at 90."""
    angles = np.radians([0, 10, 30, 50, 90])
    vectors = np.column_stack([np.cos(angles), np.sin(angles)])
    space = ItemSpace.of(history([[0, 3]], np.array([0, 0, 0, 1])), vectors[:4], 1)
    space = replace(space, vectors=vectors)
    nothing = np.zeros(0, dtype=np.int64)
    made = Augmented(space, [{"domain": "art"}], Insertions(nothing, nothing))
    least = np.cos(np.radians(20)) + 0.2 * (np.cos(np.radians(10)) - np.cos(np.radians(20)))
    assert _closeness(made) == {"art": {"n": 1, "nearest": 0.5, "catalogue": round(least, 4)}}


def test_an_inserted_row_stands_right_behind_its_anchor(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path)
    frame = inter(tmp_path)
    assert not frame.duplicated(["user_id", "position"]).any()
    items = read_table(raw / NAME / f"{NAME}.item").set_index("item_id")["domain"]
    inserted = frame.index[frame["augmented"] == "1"]
    for place in inserted:
        raw_before = place - 1
        while frame["augmented"][raw_before] == "1":
            raw_before -= 1
        assert frame["user_id"][raw_before] == frame["user_id"][place]
        assert items[frame["item_id"][raw_before]] != items[frame["item_id"][place]]
        assert 0 < frame["position"][place] - frame["position"][raw_before] < 1


def test_random_insertion_stays_within_the_training_rows_and_needs_no_profile(raw, tmp_path):
    run(raw, tmp_path, insert="random", profiler="none")
    assert not (tmp_path / NAME / f"{NAME}.user").is_file()
    for _, rows in inter(tmp_path).groupby("user_id"):
        if (rows["augmented"] == "0").sum() >= 3:
            assert (rows["augmented"].to_numpy()[-2:] == "0").all()


# Wrong input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encodr": "lsa"}, "did you mean 'encoder'"),
        ({"insert": "middle"}, "anchor, end, random"),
        ({"tau_quantile": None}, "either tau or tau_quantile"),
        ({"tau": 0.9, "tau_quantile": 0.2}, "either tau or tau_quantile"),
        ({"encoder": "word2vec"}, "one of .*lsa.*, not 'word2vec'"),
        ({"encoder": "file", "generator": "openai"}, "no vectors for the items an LLM writes"),
        ({"encoder": "file", "profiler": "openai"}, "no vectors for the profiles an LLM writes"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(AugmentSettings, settings)


def test_tau_takes_the_place_of_its_quantile_and_none_is_a_name() -> None:
    settings = validate(AugmentSettings, {"tau": 0.9, "filter": None, "generator": None})
    assert (settings.tau, settings.tau_quantile) == (0.9, None)
    assert settings.filter == settings.generator == "none"


def test_data_are_never_overwritten_nor_augmented_again(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would be lost"):
        run(raw, raw)
    with pytest.raises(DataError, match="there is no dataset"):
        run(tmp_path / "nowhere", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    run(raw, tmp_path / "one", profiler="none")
    with pytest.raises(ConfigError, match="augmented already"):
        run(tmp_path / "one", tmp_path / "two")
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "precious").write_text("mine")
    with pytest.raises(ConfigError, match="move it away"):
        run(raw, tmp_path)
    assert (tmp_path / NAME / "precious").read_text() == "mine"


def test_command_takes_both_forms_of_arguments(raw: Path, tmp_path: Path, capsys) -> None:
    augment(["--dataset", NAME, f"--data_path={raw}", "--output_path", str(tmp_path), "--k", "3"])
    assert "-- after augmentation with existing items by similarity" in capsys.readouterr().out


def test_the_embedded_defaults_load_neither_torch_nor_recbole(raw: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from recbole_edt.augment.command import augment; augment(sys.argv[1:]); "
        "print(sorted({'torch', 'recbole'} & set(sys.modules)))"
    )
    arguments = [f"--dataset={NAME}", f"--data_path={raw}", f"--output_path={tmp_path}"]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.endswith("[]\n")
