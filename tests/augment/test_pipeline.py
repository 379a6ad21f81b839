"""From raw atomic files to augmented ones: who is augmented, with what, where, and what is seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_edt.augment.clusters import cluster_items, representatives
from recbole_edt.augment.command import augment
from recbole_edt.augment.generate import (
    Catalogue,
    Generated,
    LLMGenerator,
    RetrievalGenerator,
    Task,
)
from recbole_edt.augment.histories import Histories, read_histories
from recbole_edt.augment.insert import (
    Balance,
    Matches,
    amounts,
    balancing_tasks,
    filter_items,
    insert,
)
from recbole_edt.augment.pipeline import (
    Pipeline,
    augment_settings,
    leave_out_failed,
    mean_vectors,
)
from recbole_edt.augment.profile import UserGroups
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io.files import read_table
from tools.simulate import simulate, write_atomic

NAME = "mini"


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A simulated shop of 200 users."""
    folder = tmp_path_factory.mktemp("raw")
    write_atomic(simulate(200), folder / NAME, NAME)
    return folder


def run(raw: Path, output: Path, **settings) -> dict:
    return Pipeline(NAME, raw, output, augment_settings(settings)).run()


def inter(folder: Path) -> pd.DataFrame:
    frame = read_table(folder / NAME / f"{NAME}.inter")
    frame["position"] = frame["position"].astype(float)
    return frame


# Histories


def test_only_rows_before_the_last_two_are_seen(raw: Path) -> None:
    histories = read_histories(raw / NAME, NAME)
    tokens = histories.items["item_id"].to_numpy()
    for place, user in enumerate(histories.users):
        mine = histories.inter[histories.inter["user_id"] == user]["item_id"].tolist()
        seen = mine[:-2] if len(mine) >= 3 else mine
        span = slice(histories.offsets[place], histories.offsets[place + 1])
        assert tokens[histories.rows[span]].tolist() == seen


def test_held_out_rows_change_no_augmented_byte(raw: Path, tmp_path: Path) -> None:
    """The planted leak: other validation and test items, and nothing made of the rest may move."""
    run(raw, tmp_path / "one", neighbours=2)
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
    run(tmp_path / "raw", tmp_path / "two", neighbours=2)
    for what in ("item", "user", "item_emb.npy", "user_emb.npy"):
        one, two = (tmp_path / n / NAME / f"{NAME}.{what}" for n in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), what
    one, two = (inter(tmp_path / name) for name in ("one", "two"))
    inserted = one["augmented"] == "1"
    assert inserted.sum() > 50
    pd.testing.assert_frame_equal(one[inserted], two[inserted])


# Clusters and representatives


def test_one_representative_for_each_cluster_a_user_touched() -> None:
    # Domain A has two clusters on the axes: items 0, 1, 2 near x and 3 near y; B is item 4.
    vectors = np.array([[1, 0], [1, 0.1], [1, -0.1], [0, 1], [1, 1]], dtype=float)
    domain = np.array([0, 0, 0, 0, 1])
    clusters = cluster_items(vectors, domain, 2)
    assert len(set(clusters.label[:3])) == 1
    assert clusters.label[3] != clusters.label[0]
    assert sorted(clusters.medoids[0]) == [0, 3]
    histories = history([[1, 0, 3, 4], [2]], domain)
    chosen = representatives(histories, clusters)
    assert histories.rows[chosen.of(0, 0)].tolist() == [0, 3]  # 0 is nearer the centroid than 1
    assert histories.rows[chosen.of(0, 1)].tolist() == [4]
    assert histories.rows[chosen.of(1, 0)].tolist() == [2]
    assert len(chosen.of(1, 1)) == 0


def history(sequences: list[list[int]], domain: np.ndarray) -> Histories:
    """Histories of training rows alone, with items named 0, 1, 2, ..."""
    items = pd.DataFrame(
        {
            "item_id": [str(n) for n in range(len(domain))],
            "domain": np.array(["art", "bike"])[domain],
            "title": [f"thing {n}" for n in range(len(domain))],
        }
    )
    counts = [len(sequence) for sequence in sequences]
    rows = np.concatenate([np.array(sequence, dtype=np.int64) for sequence in sequences])
    return Histories(
        items, ["art", "bike"], domain, np.array([f"u{n}" for n in range(len(sequences))]),
        np.concatenate([[0], np.cumsum(counts)]), rows, pd.DataFrame(),
        np.zeros(len(rows), dtype=bool),
    )  # fmt: skip


# Generation


def test_retrieval_offers_the_nearest_items_that_the_user_lacks() -> None:
    domain = np.array([0, 1, 1, 1])
    vectors = np.array([[1, 0], [1, 0], [0.8, 0.6], [0, 1]], dtype=float)
    histories = history([[0, 1]], domain)
    chosen = representatives(histories, cluster_items(vectors, domain, 1))
    made = RetrievalGenerator(histories, vectors, chosen, num=2).generate([Task(0, 1)])
    assert made.items[0].tolist() == [2, 3]  # 1 is nearest, but his already
    assert not made.new_items


def test_retrieval_stays_near_what_the_user_has_in_the_target_domain() -> None:
    # The user has 0 (domain A, on the x axis) and 1 (domain B, on the y axis); of B's items 2 is
    # nearest to 0, and 4, then 3 to 1.  Another user has 0 alone.
    domain = np.array([0, 1, 1, 1, 1])
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8], [0.28, 0.96]])
    histories = history([[0, 1], [0]], domain)
    chosen = representatives(histories, cluster_items(vectors, domain, 1))
    made = RetrievalGenerator(histories, vectors, chosen, num=2).generate([Task(0, 1), Task(1, 1)])
    assert made.items[0].tolist() == [4, 3]  # cosines with 1: 0.96, 0.8
    assert made.items[1].tolist() == [2, 3]  # cosines with 0: 1, 0.6


def test_retrieval_looks_past_what_the_user_has() -> None:
    """A user who has an item's nearest neighbours is offered the next ones: a slow reference."""
    draw = np.random.default_rng(0)
    domain = np.arange(40) % 2
    vectors = draw.normal(size=(40, 8))
    sequences = [draw.permutation(40)[:size].tolist() for size in (3, 10, 25)]
    histories = history(sequences, domain)
    chosen = representatives(histories, cluster_items(vectors, domain, 3))
    tasks = [Task(user, target) for user in range(3) for target in (0, 1)]
    made = RetrievalGenerator(histories, vectors, chosen, num=4).generate(tasks)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for task, items in zip(tasks, made.items, strict=True):
        owned = sequences[task.user]
        own = [item for item in owned if domain[item] == task.target]
        new = [item for item in range(40) if domain[item] == task.target and item not in owned]
        new.sort(key=lambda item: -max(units[item] @ units[other] for other in own))
        assert items.tolist() == new[:4]


def test_a_described_item_becomes_the_catalogue_item_of_its_name() -> None:
    items = pd.DataFrame({"domain": ["art"], "title": ["Red Brush, 2 in."], "brand": ["Ka-Lo"]})
    catalogue = Catalogue(items, ["art", "bike"])
    same = {"title": "red  brush 2 IN", "brand": "KA LO", "price": 3, "categories": [],
            "description": ""}  # fmt: skip
    assert catalogue.line(same, 0) == 0
    assert catalogue.line({**same, "brand": None}, 0) == 0
    assert catalogue.line({**same, "brand": "Other"}, 0) == 1
    assert catalogue.line(same, 1) == 2  # the other domain
    assert catalogue.line({**same, "brand": "other "}, 0) == 1  # shared between users
    assert catalogue.new_items[0]["price"] == "3.00"


@pytest.mark.parametrize(
    ("title", "brand", "same"),
    [
        ("Ka-Lo Red Brush", "Ka-Lo", True),  # the brand is in the title, too
        ("Ka-Lo Red Brush", None, True),
        ("Red Brush", "Ka-Lo", True),
        ("Red Brush", "Other", False),
        ("Ka-Lo Red Brush", "Other", False),
        ("Kalossi Red Brush", "Ka", False),  # the brand must be a whole word
    ],
)
@pytest.mark.parametrize("known", [("Red Brush", "Ka-Lo"), ("Ka-Lo Red Brush", "Ka-Lo")])
def test_a_brand_counts_once_wherever_it_is_said(known, title, brand, same) -> None:
    items = pd.DataFrame({"domain": ["art"], "title": [known[0]], "brand": [known[1]]})
    described = {"title": title, "brand": brand, "categories": [], "description": ""}
    assert (Catalogue(items, ["art", "bike"]).line(described, 0) == 0) == same


def test_users_whose_call_fails_are_named_and_left_alone(llm_server, llm_client) -> None:
    domain = np.array([0, 0, 1, 1])
    vectors = np.eye(4)
    histories = history([[0], [1]], domain)
    clusters = cluster_items(vectors, domain, 2)
    chosen = representatives(histories, clusters)
    llm_server.unreadable = "user u1 "
    with llm_client(llm_server, retries=1, asks=1) as client:
        made = LLMGenerator(histories, clusters, chosen, client, num=3).generate(
            [Task(0, 1), Task(1, 1)]
        )
    assert list(made.failures) == ["u1"]
    assert len(made.items[0]) == 3
    assert len(made.items[1]) == 0


def test_a_user_who_failed_in_one_direction_gets_nothing_in_the_other() -> None:
    histories = history([[0], [1]], np.array([0, 0, 1, 1]))
    tasks = [Task(0, 0), Task(0, 1), Task(1, 1)]
    generated = Generated([np.array([1]), np.array([], int), np.array([2, 3])], [], {"u0": "why"})
    leave_out_failed(generated, tasks, histories)
    assert [items.tolist() for items in generated.items] == [[], [], [2, 3]]


# Filter and insertion


def test_only_imbalanced_users_are_balanced_towards_what_they_lack() -> None:
    counts = np.array([[9, 1], [0, 4], [3, 3], [0, 0], [10, 0]])
    assert balancing_tasks(counts, Balance(0.9, 1.0, "minor", 0)) == [Task(1, 0), Task(4, 1)]
    everybody = [Task(0, 1), Task(1, 0), Task(4, 1)]
    assert balancing_tasks(counts, Balance(0.0, 1.0, "minor", 0)) == everybody
    assert balancing_tasks(counts, Balance(0.0, 1.0, "minor", 1)) == [Task(0, 1)]


def test_both_directions_need_a_row_to_start_from() -> None:
    counts = np.array([[9, 1], [0, 4], [3, 3], [0, 0]])
    shared = [Task(0, 0), Task(0, 1), Task(2, 0), Task(2, 1)]
    assert balancing_tasks(counts, Balance(0.0, 1.0, "both", 1)) == shared
    assert balancing_tasks(counts, Balance(0.0, 1.0, "both", 0)) == [
        Task(0, 0), Task(0, 1), Task(1, 0), Task(2, 0), Task(2, 1)
    ]  # fmt: skip
    assert balancing_tasks(counts, Balance(0.8, 1.0, "both", 2)) == [Task(0, 0)]  # r = 0.8, 1, 0


def test_everybody_gets_items_of_what_all_lack_and_of_what_he_lacks() -> None:
    counts = np.array([[9, 1], [1, 2], [3, 3], [0, 4]])  # 13 and 10: all lack domain 1
    expected = [Task(0, 1), Task(1, 0), Task(1, 1), Task(2, 1)]
    assert balancing_tasks(counts, Balance(0.0, 1.0, "scarce", 1)) == expected
    assert balancing_tasks(counts[:, ::-1], Balance(0.0, 1.0, "scarce", 1)) == [
        Task(user, 1 - target) for user, target in [(0, 1), (1, 1), (1, 0), (2, 1)]
    ]
    even = np.array([[2, 1], [1, 2], [3, 3]])  # nothing that all lack
    assert balancing_tasks(even, Balance(0.0, 1.0, "scarce", 1)) == [Task(0, 1), Task(1, 0)]


def test_the_amount_grows_with_imbalance_and_stops_at_balance() -> None:
    counts = np.array([[9, 1], [3, 0], [20, 0]])
    tasks = [Task(0, 1), Task(1, 1), Task(2, 1)]

    def inserted(inject_ratio: float) -> list[int]:
        return amounts(counts, tasks, [4, 10, 10], Balance(0.0, inject_ratio, "minor", 0)).tolist()

    # ceil(1 * 0.8 * 4) = 4, at most 8;  ceil(1 * 1 * 10) = 10, at most 3;  10 of 10, at most 20
    assert inserted(1.0) == [4, 3, 10]
    assert inserted(0.3) == [1, 3, 3]
    assert inserted(0.0) == [0, 0, 0]


def test_in_other_directions_the_amount_is_a_share_of_what_was_kept() -> None:
    counts, tasks = np.array([[3, 3]]), [Task(0, 0), Task(0, 1)]
    assert amounts(counts, tasks, [4, 3], Balance(0.0, 1.0, "both", 1)).tolist() == [4, 3]
    assert amounts(counts, tasks, [4, 3], Balance(0.0, 0.3, "both", 1)).tolist() == [2, 1]
    assert amounts(counts, tasks, [4, 3], Balance(0.0, 0.3, "scarce", 1)).tolist() == [2, 1]


def test_one_quantile_holds_for_all_users() -> None:
    first = Matches(np.zeros(2, int), np.array([0.1, 0.9]), np.array([0.8, 0.7]))
    second = Matches(np.zeros(2, int), np.array([0.5, 0.6]), np.array([0.1, 0.2]))
    kept = filter_items([first, second], k=10, tau=None, quantile=0.5)
    assert [places.tolist() for places in kept] == [[1, 0], []]  # the source's most similar first


@pytest.mark.parametrize(("where", "anchors"), [("anchor", [0, 2]), ("end", [3, 3])])
def test_items_follow_their_anchor(where: str, anchors: list[int]) -> None:
    histories = history([[0, 0, 0, 0]], np.array([0, 1, 1]))
    one = Matches(np.array([2, 0]), np.array([0.9, 0.8]), np.array([1.0, 1.0]))
    made = insert(
        histories, [Task(0, 1)], [np.array([1, 2])], [one], [np.array([0, 1])], np.array([2]), where
    )
    assert made.anchors.tolist() == anchors
    assert made.items.tolist() == ([2, 1] if where == "anchor" else [1, 2])


def test_random_insertion_stays_within_the_training_rows(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path, insert="random")
    frame = inter(tmp_path)
    for _, rows in frame.groupby("user_id"):
        tail = rows["augmented"].to_numpy()[-2:]
        if (rows["augmented"] == "0").sum() >= 3:
            assert (tail == "0").all()


# The whole way


def test_augmented_files_keep_the_raw_rows_and_train(raw: Path, tmp_path: Path, load) -> None:
    report = run(raw, tmp_path, neighbours=2)
    before, after = inter(raw), inter(tmp_path)
    kept = after[after["augmented"] == "0"]
    for column in ("user_id", "item_id", "position"):
        assert kept[column].tolist() == before[column].tolist()
    data = load(tmp_path, "LLMEDT", dataset=NAME, augmentation=True)
    assert data.sequences.augmented.sum() == (after["augmented"] == "1").sum() > 50
    assert data.user_embeddings().shape[0] == data.user_num
    assert report["statistics"]["before"]["augmented_rows"] == 0
    assert 0.5 < report["similarity"]["100%"] <= report["similarity"]["30%"] <= 1.0
    assert json.loads((tmp_path / NAME / "augmentation.json").read_text()) == report


def test_by_default_only_users_of_both_domains_get_items(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path)
    histories = read_histories(raw / NAME, NAME)
    shared = set(histories.users[(histories.domain_counts() > 0).all(axis=1)])
    frame = inter(tmp_path)
    users = frame.loc[frame["augmented"] == "1", "user_id"]
    assert len(set(users)) > 20
    assert set(users) <= shared
    assert users.value_counts().max() <= 2  # one neighbour in each direction


def test_users_of_one_domain_are_balanced_on_demand(raw: Path, tmp_path: Path) -> None:
    settings = {"directions": "minor", "min_history": 0, "min_ratio": 0.9, "neighbours": 10}
    report = run(raw, tmp_path, **settings)
    imbalanced = [report["statistics"][w]["imbalance"]["90%-100%"] for w in ("before", "after")]
    assert imbalanced[1] < imbalanced[0] - 0.1


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


def test_the_same_run_gives_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(raw, tmp_path / name)
    files = sorted((tmp_path / "one" / NAME).iterdir())
    assert len(files) == 7
    for file in files:
        assert file.read_bytes() == (tmp_path / "two" / NAME / file.name).read_bytes()


@pytest.mark.parametrize("missing", ["generator", "profiler"])
def test_a_stage_can_be_left_out(raw: Path, tmp_path: Path, missing: str) -> None:
    run(raw, tmp_path, **{missing: "none"})
    inserted = (inter(tmp_path)["augmented"] == "1").sum()
    assert (inserted == 0) == (missing == "generator")
    assert (tmp_path / NAME / f"{NAME}.user").is_file() == (missing == "generator")


def test_an_llm_writes_items_and_profiles(
    raw: Path, tmp_path: Path, llm_server, llm_settings, monkeypatch
) -> None:
    settings = llm_settings(llm_server)
    monkeypatch.setattr("recbole_edt.augment.pipeline.LLMSettings.load", lambda *_: settings)
    keys = {"generator": "openai", "profiler": "openai", "encoder": "openai", "tau_quantile": 0.0}
    report = run(raw, tmp_path / "one", **keys)
    asked = len(llm_server.log)
    items = read_table(tmp_path / "one" / NAME / f"{NAME}.item")
    assert (items["generated"] == "1").sum() > 10
    assert set(report["cost"]) >= {"generate", "encode", "summarise", "reform", "analyse"}
    again = Pipeline(NAME, raw, tmp_path / "one", augment_settings(keys)).run()
    assert len(llm_server.log) == asked  # everything came from the cache
    assert again["statistics"] == report["statistics"]


# Wrong input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encodr": "lsa"}, "did you mean 'encoder'"),
        ({"insert": "middle"}, "anchor, end, random"),
        ({"k": 0}, "k must be"),
        ({"min_history": -1}, "at least 0"),
        ({"directions": "A2B"}, "both, minor, scarce"),
        ({"inject_ratio": 30}, "from 0 to 1"),
        ({"tau_quantile": None}, "either tau or tau_quantile"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        augment_settings(settings)


def test_raw_data_are_never_overwritten(raw: Path) -> None:
    with pytest.raises(ConfigError, match="would be lost"):
        run(raw, raw)


def test_augmented_data_are_not_augmented_again(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "one")
    with pytest.raises(ConfigError, match="augmented already"):
        run(tmp_path / "one", tmp_path / "two")


def test_a_folder_of_other_origin_is_not_replaced(raw: Path, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "precious").write_text("mine")
    with pytest.raises(ConfigError, match="move it away"):
        run(raw, tmp_path)
    assert (tmp_path / NAME / "precious").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name != ".augment"] == [NAME]


@pytest.mark.parametrize("stage", ["generator", "profiler"])
def test_a_file_encoder_cannot_encode_what_an_llm_writes(
    raw: Path, tmp_path: Path, stage: str
) -> None:
    with pytest.raises(ConfigError, match="no vectors"):
        run(raw, tmp_path, encoder="file", llm="local", **{stage: "openai"})


def test_missing_embeddings_are_named(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item_emb"):
        run(raw, tmp_path, encoder="file")


def test_command_takes_both_forms_of_arguments(raw: Path, tmp_path: Path, capsys) -> None:
    augment(["--dataset", NAME, f"--data_path={raw}", "--output_path", str(tmp_path), "--k", "3"])
    assert "after augmentation" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--output_path is missing"):
        augment([f"--dataset={NAME}"])


# Profiles of an encoder that encodes nothing


def test_vectors_that_stand_in_for_profiles_hand_computed() -> None:
    """Three items of one domain in two clusters, (3, 0), (1, 0) and (0, 2); one of the other."""
    vectors = np.array([[3, 0], [1, 0], [0, 2], [0, 5]], dtype=np.float32)
    groups = ([np.array([0, 1]), np.array([2])], [np.array([3])])
    users = [UserGroups("u", groups), UserGroups("nobody", ([], []))]
    # clusters (2, 0) and (0, 2), domains (1, 1) and (0, 5): mean of their unit vectors
    sra = np.array([np.sqrt(0.5), np.sqrt(0.5) + 1])
    naive = np.array([4, 7])  # the sum of all items
    for profile, expected in (("sra", sra), ("naive", naive)):
        found = mean_vectors(users, vectors, profile)
        assert np.allclose(found[0], expected / np.linalg.norm(expected))
        assert not found[1].any()
