"""A checkpoint belongs to a model and its items: data may grow, and what does not fit is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from running import Run, small

from recbole_edt import cli, import_frames
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.errors import CheckpointError, ConfigError, DataError
from recbole_edt.evaluation.history import HistoryTerm
from recbole_edt.io.files import read_table
from recbole_edt.recommend.command import explained
from recbole_edt.recommend.recommender import Recommender
from recbole_edt.trainer import checkpoint, growth

# model, its keys, and its parameters by item; "0" and "1" have rows of one domain alone
MODELS = {
    "LLMEDT": ("LLMEDT", {}, ["item_embedding.table.weight"]),
    "LLMEDT of text": ("LLMEDT", {"item_embedding": "text"}, []),
    "LLM4CDSR": ("LLM4CDSR", {"text_start": "principal"}, ["local_embedding.weight"]),
    "LLMESR": ("LLMESR", {}, ["collaborative.weight"]),
    "LLMCDSR": ("LLMCDSR", {}, ["features.weight", "item_embedding.table.weight"]),
    "C2DSR": (
        "C2DSR", {},
        [f"{g}.table.weight" for g in ("mixed_graph", "domain_graphs.0", "domain_graphs.1")],
    ),
    "TriCDR": (
        "TriCDR", {"item_tables": "separate"}, ["mixed_items.weight", "domain_items.weight"],
    ),
    "SyNCRec": ("SyNCRec", {}, ["item_embedding.table.weight"]),
    "SASRec": ("SASRec", {}, ["item_embedding.weight"]),
    "BERT4Rec": ("BERT4Rec", {}, ["item_embedding.weight", "output_bias"]),
    "GRU4Rec": ("GRU4Rec", {}, ["item_embedding.weight"]),
}  # fmt: skip
HAVE_TEXT = ("LLMEDT", "LLM4CDSR", "LLMESR", "LLMCDSR")


@pytest.fixture(scope="module", params=MODELS)
def served(request, growing, train, tmp_path_factory):
    """Model, its tables, its checkpoint, and what serves the grown data."""
    model, keys, tables = MODELS[request.param]
    path = train(model, tmp_path_factory.mktemp("run"), growing.early, **keys)
    return model, tables, path, Recommender.load(path, data_path=growing.grown, use_gpu=False)


def rows_of(name: str, data: CrossDomainDataset) -> list[str]:
    """Items of the rows of a table, after its row of padding: by id, or by id in one domain."""
    tokens = data.field2id_token[data.iid_field].tolist()
    kept = [d for d in (0, 1) if f"graphs.{d}." in name] or [0, 1]
    return [t for t, d in zip(tokens, data.item_domain, strict=True) if d in kept]


def test_scores_are_those_of_the_same_weights_made_on_the_whole_data(served, growing) -> None:
    model, tables, _, ours = served
    config, has_text = ours.config, model in HAVE_TEXT
    folder = growing.grown if has_text else growing.without_new_items
    config["data_path"] = str(folder / "tiny")
    plain = CrossDomainDataset(config)  # numbers items in the order of its files
    whole = config.model_class(config, plain.build()[0])
    assert plain.item_num == ours.data.item_num
    state, theirs = ours.model.state_dict(), whole.state_dict()
    for name, value in state.items():
        if name not in tables:
            theirs[name] = value
            continue
        place = {item: row for row, item in enumerate(rows_of(name, ours.data), start=1)}
        first = 1 if len(theirs[name]) > len(rows_of(name, plain)) else 0
        for row, item in enumerate(rows_of(name, plain), start=first):
            if item in place:
                theirs[name][row] = value[place[item] - 1 + first]
        if model == "BERT4Rec" and value.ndim == 2:
            theirs[name][-1] = value[-1]  # the mask
    if hasattr(whole, "begin_finetuning"):
        whole.begin_finetuning()
    whole.load_state_dict(theirs)
    whole.eval()
    users = [*growing.new_users, *(f"u{user}" for user in range(30))]
    items = [name for name in growing.text if has_text or name not in growing.new_items]
    numbers = plain.token2id(plain.uid_field, users)
    rows, _ = plain.evaluation_rows()
    fields = plain.history_fields(rows, numbers, rows.offsets[numbers + 1])
    interaction = {name: torch.from_numpy(values) for name, values in fields.items()}
    with torch.no_grad():
        expected = whole.full_sort_predict(interaction).view(len(users), -1)
        whole.history_weights = ours.model.history_weights
        plain.known = ours.data.known
        if term := HistoryTerm.of(whole, plain):
            expected += term.among(interaction[whole.ITEM_SEQ])
    expected = expected[:, plain.token2id(plain.iid_field, items)].numpy()
    found = ours.score(users, items)
    assert found.index.tolist() == users and found.columns.tolist() == items
    assert np.abs(found.to_numpy() - expected).max() < 1e-4
    assert expected.std() > 1e-3


def test_new_items_leave_the_scores_of_the_others_as_they_are(growing, train, tmp_path) -> None:
    path = train("LLMEDT", tmp_path, growing.early, history_weight=32.0)
    history = Recommender.load(path, use_gpu=False).history("u1")
    items = [item for item in growing.text if item not in growing.new_items]
    before, after = (
        Recommender.load(path, data_path=data, use_gpu=False).score(history=history, items=items)
        for data in (growing.early, growing.grown)
    )
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_a_history_of_nobody_known_is_served_as_that_of_the_user_who_has_it(served) -> None:
    _, _, _, ours = served
    user = "a-new-one"
    items = ours.rows(ours.asked(user))["item_id"].tolist()
    columns = ["domain", "rank", "item_id", "title"]
    by_user, by_history = ours.recommend(user, k=5), ours.recommend(history=items, k=5)
    assert by_user[columns].equals(by_history[columns])
    assert np.allclose(by_user["score"], by_history["score"], atol=1e-5)
    assert set(by_user["user_id"]) == {user} and by_history["user_id"].isna().all()


def test_new_items_are_ranked_by_their_text_or_left_out_and_named(served, growing) -> None:
    model, _, _, ours = served
    ranked = set(ours.recommend(k=99)["item_id"])
    if model in HAVE_TEXT:
        assert {*growing.new_items} < ranked
        assert not ours.data.notes
        return
    assert not {*growing.new_items} & ranked
    (note,) = ours.data.notes
    assert note.startswith("new items of which the model has no text are left out: 3, such as '")
    with pytest.raises(DataError, match=r"item 'art-new' is new, and .* knows the items of its"):
        ours.recommend(history=["art-new"])


def test_same_data_have_the_same_results(served, growing) -> None:
    _, _, path, _ = served
    same = Recommender.load(path, use_gpu=False)  # where the run found them
    content = checkpoint.load(path)
    for name, value in same.model.state_dict().items():
        assert torch.equal(value, content["state_dict"][name]), name
    assert same.data.dataset_path == str(growing.early / "tiny")


# --- what does not fit ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_text(growing, train, tmp_path_factory):
    return train("LLMEDT", tmp_path_factory.mktemp("run"), growing.early)


TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]


@pytest.mark.parametrize(
    ("domain_of", "turn", "message"),
    [
        (lambda item, domain: domain.replace("art", "food"), np.eye(6),
         "trained on the domains art and bike; tiny has bike and food"),
        (lambda item, domain: None if item in ("art1", "bike1") else domain, np.eye(6),
         "44 items, of which tiny lacks 2, such as '(art|bike)1', '(art|bike)1': keep"),
        (lambda item, domain: "bike" if item == "art1" else domain, np.eye(6),
         "44 items, of which tiny lacks 1, such as 'art1': keep their lines and domain"),
        (lambda item, domain: domain, TURN,
         r"other embeddings of the items \(44 of 44 differ\): encode new items"),
    ],
    ids=["other domains", "fewer items", "a moved item", "another encoder"],
)  # fmt: skip
def test_what_does_not_fit_is_told_by_its_reason(
    of_text, growing, tmp_path, domain_of, turn, message
) -> None:
    items = [(item, domain_of(item, domain)) for item, domain, *_ in growing.shop.items]
    there = {item: domain for item, domain in items if domain}
    rows = [row for row in growing.shop.rows if row[1] in there]
    text = {item: growing.text[item] @ turn for item in there}
    other = growing.write(tmp_path / "other", rows, [*there.items()], text)
    with pytest.raises(CheckpointError, match=message):
        Recommender.load(of_text, data_path=other, use_gpu=False)


def test_ids_that_import_put_domains_before_are_told(of_text, growing, tmp_path) -> None:
    ids = {item: f"{domain}:{item}" for item, domain, *_ in growing.shop.items}
    rows = [(user, ids[item], *rest) for user, item, *rest in growing.shop.rows]
    items = [(ids[item], domain) for item, domain, *_ in growing.shop.items]
    text = {ids[item]: growing.text[item] for item in ids}
    other = growing.write(tmp_path / "other", rows, items, text)
    with pytest.raises(CheckpointError, match=r" \('(\w+:\w+1)' is there: import puts domains be"):
        Recommender.load(of_text, data_path=other, use_gpu=False)


def test_data_without_vectors_of_the_items(of_text, growing, write_dataset, tmp_path) -> None:
    raw = write_dataset(tmp_path / "raw", rows=growing.shop.rows, items=growing.shop.items)
    with pytest.raises(CheckpointError, match=r"tiny.item_emb.npy is missing: name the folder"):
        Recommender.load(of_text, data_path=raw, use_gpu=False)


def test_profiles_in_training_alone_or_in_serving_alone(
    train, make_shop, write_embedded, tmp_path
) -> None:
    shop = make_shop(seed=7, n_users=30, n_items=(20, 24), lengths=(4, 9))
    folders = [write_embedded(tmp_path / f"{p}", shop, profiles=p) for p in (False, True)]
    for place, told in enumerate(("without profiles .*some", "with profiles .*none")):
        path = train("LLMEDT", tmp_path / f"run{place}", folders[place])
        with pytest.raises(CheckpointError, match=f"trained {told}.* name the folder that"):
            Recommender.load(path, data_path=folders[1 - place], use_gpu=False)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"until": "tomorrow"}, "until must be one of all, test, valid, not 'tomorrow'"),
        ({"hidden_size": 32}, "hidden_size is 16 in the checkpoint, and cannot be 32"),
    ],
)
def test_what_loading_cannot_change(of_text, keys, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Recommender.load(of_text, use_gpu=False, **keys)


def test_a_few_other_texts_are_named(of_text, growing, tmp_path) -> None:
    text = {**growing.text, "art3": -growing.text["art3"]}
    data = growing.write(tmp_path / "d", growing.shop.rows, growing.shop.items, text)
    notes = Recommender.load(of_text, data_path=data, use_gpu=False).data.notes
    assert notes == ["items with another text than in training: 1, such as 'art3'"]


def test_imported_data_grow_day_by_day_in_the_space_of_the_first(train, tmp_path) -> None:
    rng = np.random.default_rng(5)
    words = np.array("red blue green wool silk tent boot shirt ball bag lamp rope".split())
    titles = {f"{d}{n}": " ".join(rng.choice(words, 4)) for d in ("art", "bike") for n in range(40)}
    items = pd.DataFrame({"item_id": [*titles], "title": [*titles.values()]})
    items["domain"] = items["item_id"].str.strip("0123456789")
    rows = pd.DataFrame({"user_id": rng.integers(40, size=600), "timestamp": np.arange(600)})
    rows["item_id"] = rng.choice(items["item_id"], 600)
    later = ["art7", "bike11", "art9"]  # sold from day 2 on, and the last from day 3; all others
    folders = {"day1": ([], ""), "day2": (later[:2], "day1"), "day3": (later, "day2")}

    def load(day, sold, earlier):
        known = rows[~rows["item_id"].isin({*later} - {*sold})].merge(items.drop(columns="title"))
        chosen = {"lsa_items": f"{earlier}/tiny/tiny.item"} if earlier else {}
        import_frames(known, items, dataset="tiny", output_path=day, **chosen)
        paths = [f"--data_path={day}", f"--output_path={day}_augmented", "--profiler=none"]
        assert cli.execute("augment", ["--dataset=tiny", *paths]) == 0

    def vectors(day):
        lines = read_table(Path(day, "tiny/tiny.item"))["item_id"]
        return dict(zip(lines, np.load(f"{day}/tiny/tiny.item_emb.npy"), strict=True))

    for day, (sold, earlier) in folders.items():
        load(day, sold, earlier)
    one, three = vectors("day1_augmented"), vectors("day3_augmented")
    assert {*three} - {*one} == {*later}
    assert all((three[item] == one[item]).all() for item in one)
    first = train("LLMEDT", tmp_path / "1", "day1_augmented")
    second = train("LLMEDT", tmp_path / "2", "day2_augmented", start_from=str(first))
    ours = Recommender.load(second, data_path="day3_augmented", use_gpu=False)
    assert {*later} <= {*ours.recommend(k=99)["item_id"]}
    assert not any("another text" in note for note in ours.data.notes)
    load("alone", later, "")
    with pytest.raises(CheckpointError, match=r"other embeddings .*--lsa_items=OLD.item"):
        Recommender.load(second, data_path="alone_augmented", use_gpu=False)
    texts = Path("day3/tiny/tiny.lsa.txt")
    texts.write_text(texts.read_text().replace("wool", "silk"))
    with pytest.raises(DataError, match=r"tiny.lsa.txt is damaged or was changed"):
        load("day4", later, "day3")
    with pytest.raises(ConfigError, match=r"lsa_items none/tiny/tiny.item: there is no such file"):
        load("day4", later, "none")


def test_items_that_nobody_bought_are_no_part_of_training_and_are_ranked_by_their_text(
    growing, train, tmp_path
) -> None:
    items = [*growing.shop.items, ("art-new", "art"), ("bike-new", "bike")]
    text = {**growing.text, "art-new": growing.text["art3"], "bike-new": growing.text["bike5"]}

    def write(name, rows, unsold):
        folder = growing.write(tmp_path / name, rows, items, text)
        path = folder / "tiny/tiny.item"
        head, *lines = path.read_text().splitlines()
        flags = [int(line.split("\t")[0] in unsold) for line in lines]
        marked = [f"{line}\t{flag}" for line, flag in zip(lines, flags, strict=True)]
        path.write_text("\n".join([f"{head}\tunsold:token", *marked]))
        return folder

    folder = write("all", growing.shop.rows, {"art-new", "bike-new"})
    without, path = (
        train("LLMEDT", tmp_path / f"run{place}", data, item_embedding="text")
        for place, data in enumerate((growing.early, folder))
    )
    one, other = (checkpoint.load(p)["state_dict"] for p in (without, path))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    ours = Recommender.load(path, use_gpu=False)
    assert {"art-new", "bike-new"} < {*ours.recommend(k=99)["item_id"]}
    scores = ours.score([f"u{user}" for user in range(30)], [item for item, *_ in items])
    assert np.allclose(scores[["art-new", "bike-new"]], scores[["art3", "bike5"]], atol=1e-5)
    left = [row for row in growing.shop.rows if row[1] != "art1"]  # its rows are too old
    later = write("later", left, {"art1", "bike-new"})
    assert "art1" in {*Recommender.load(path, data_path=later).recommend(k=99)["item_id"]}


def test_generated_items_may_be_gone_but_data_must_be_augmented(
    growing, train, augmented_shop, tmp_path
) -> None:
    shop = augmented_shop(growing.shop, 2)
    rng = np.random.default_rng(2)
    text = {item: growing.text.get(item, rng.normal(size=6)) for item, *_ in shop.items}

    def write(name, kept, columns):
        items = [item[:columns] for item in shop.items if kept(item[0])]
        rows = [row[: columns + 2] for row in shop.rows if kept(row[1])]
        return growing.write(tmp_path / name, rows, items, text)

    whole = write("whole", lambda item: True, 3)
    path = train("LLMEDT", tmp_path / "run", whole, augmented_histories=True)
    some = write("some", lambda item: item not in ("aart0", "abike2"), 3)
    with_all, with_some = (
        Recommender.load(path, data_path=d, use_gpu=False) for d in (whole, some)
    )
    raw = [item for item, *_, generated in shop.items if generated == "0"]
    lost = {user for user, item, *_ in shop.rows if item in ("aart0", "abike2")}
    users = [f"u{user}" for user in range(30) if f"u{user}" not in lost]
    first, second = (one.score(users, raw).to_numpy() for one in (with_all, with_some))
    assert len(users) > 5 and np.abs(first - second).max() < 1e-4
    assert not {"aart0", "abike2"} & {*with_some.recommend(k=99)["item_id"]}
    plain = write("plain", lambda item: item in raw, 2)
    with pytest.raises(CheckpointError, match="tiny is not augmented"):
        Recommender.load(path, data_path=plain, use_gpu=False)


# --- models with a vector of each user ------------------------------------------------------------


@pytest.mark.parametrize("model", ["FPMC", "BPR", "NeuMF"])
def test_a_model_of_users_serves_those_whom_it_knows(growing, train, tmp_path, model) -> None:
    path = train(model, tmp_path, growing.early)
    early, ours = (Recommender.load(path, data_path=d, use_gpu=False)
                   for d in (growing.early, growing.grown))  # fmt: skip
    user = "u1"  # no new rows
    items = [item for item, *_ in growing.shop.items]
    assert np.allclose(early.score(user, items), ours.score(user, items), atol=1e-6)
    assert set(ours.recommend()["user_id"]) == {f"u{user}" for user in range(30)}
    with pytest.raises(DataError, match=r"user 'v1' is new, and .* knows the users of its"):
        ours.recommend("v1")
    with pytest.raises(ConfigError, match="knows users by their ids: it cannot be asked for a his"):
        ours.recommend(history=["art1"])
    if model != "FPMC":  # it reads the last item
        with pytest.raises(ConfigError, match="reads no histories: no row carries a score"):
            ours.explain(user, items[0])
        assert not any(explained(ours, user, k=3, history=None).found["carriers"])
    fewer = [row for row in growing.shop.rows if row[0] != "u3"]
    without = growing.write(tmp_path / "fewer", fewer, growing.shop.items)
    with pytest.raises(CheckpointError, match="vectors of 30 users, of whom tiny lacks 1, such as"):
        Recommender.load(path, data_path=without, use_gpu=False)


@pytest.mark.parametrize("model", ["Pop", "ItemKNN", "LightGCN", "EASE"])
def test_models_that_count_or_have_a_graph_are_served_from_grown_data(
    growing, train, tmp_path, model
) -> None:
    path = train(model, tmp_path, growing.early)
    early, ours = (Recommender.load(path, data_path=d, use_gpu=False)
                   for d in (growing.early, growing.grown))  # fmt: skip
    items = [item for item, *_ in growing.shop.items]
    scores = ours.score("u1", items).to_numpy()
    assert scores.std() > 0
    if model == "Pop":  # counted in training
        assert np.allclose(scores, early.score("u1", items))
    known = {f"u{user}" for user in range(30)}
    assert set(ours.recommend()["user_id"]) - known == (
        set() if model == "LightGCN" else {*growing.new_users}
    )


# --- training on ----------------------------------------------------------------------------------

STILL = {"learning_rate": 1e-12, "weight_average": 0.0}


@pytest.mark.parametrize("model", ["LLMEDT", "LLMESR", "C2DSR", "SASRec", "FPMC"])
def test_training_goes_on_from_an_earlier_model_on_grown_data(
    growing, train, tmp_path, model
) -> None:
    term = {"history_weight": 0}  # it is chosen anew on grown data
    early = train(model, tmp_path / "early", growing.early, **term)
    keys = term | ({"finetune_learning_rate": 1e-12} if model == "LLMEDT" else {})
    later = train(model, tmp_path / "later", growing.grown, start_from=str(early), **STILL, **keys)
    first, second = (Recommender.load(path, use_gpu=False) for path in (early, later))
    assert second.data.item_num == first.data.item_num + 3
    assert checkpoint.load(later)["stages"].keys() == checkpoint.load(early)["stages"].keys()
    old, new = (dict(one.model.named_parameters()) for one in (first, second))
    assert old.keys() == new.keys()
    for name, value in old.items():  # what was known stands first, and has not moved
        part = new[name][tuple(slice(size) for size in value.shape)]
        assert torch.allclose(part, value, atol=1e-6), name
    if model != "C2DSR":  # whose vectors see the rows of everybody
        items = [item for item, *_ in growing.shop.items]
        assert np.allclose(first.score("u29", items), second.score("u29", items), atol=1e-4)
    assert not second.data.left_out and set(growing.new_items) < {
        *second.recommend(k=99)["item_id"]
    }
    moved = train(model, tmp_path / "on", growing.grown, start_from=str(early), learning_rate=0.01)
    assert not torch.allclose(
        next(Recommender.load(moved, use_gpu=False).model.parameters()),
        next(second.model.parameters()),
    )


@pytest.mark.parametrize(
    ("model", "keys", "error", "message"),
    [
        ("LLMEDT", {"start_from": "none.pth"}, CheckpointError, "there is no checkpoint none.pth"),
        ("SASRec", {}, CheckpointError, "is of LLMEDT, and SASRec cannot start from it"),
        ("LLMEDT", {"n_layers": 1}, CheckpointError, "does not fit this model: .*backbone"),
        (
            "LLMEDT",
            {"hidden_size": 32},
            CheckpointError,
            "mismatch.*; it has .*hidden_size 16, ",
        ),
        ("LLMEDTFinetune", {}, ConfigError, "starts from --pretrained_path"),
    ],
)
def test_what_cannot_be_started_from(
    of_text, growing, train, tmp_path, model, keys, error, message
) -> None:
    with pytest.raises(error, match=message):
        train(model, tmp_path / "run", growing.grown, **{"start_from": str(of_text), **keys})
    assert not (tmp_path / "run").exists()  # told before anything is written


def test_held_out_rows_that_the_earlier_model_was_trained_on_are_found(
    growing, train, tmp_path
) -> None:
    """As many rows as before do not hide them; only users of two rows may have some, and are named.

    A user's training rows are all but the last two, or both of two.
    """
    rows = [*growing.shop.rows, ("two", "art1", 0, 0), ("two", "bike1", 0, 1)]

    def write(name, rows):
        return growing.write(tmp_path / name, rows, growing.shop.items)

    early = train("LLMEDT", tmp_path / "run", write("early", rows))
    last = max(growing.shop.rows, key=lambda row: row[3])  # of a user of nine rows
    rows.append(("two", "art2", 0, 2))
    other = [*(row for row in rows if row != last), *((f"v{i}", "art1", 0, 0) for i in range(9))]
    start = {"start_from": str(early)}
    with pytest.raises(CheckpointError, match=f"holds out now, of 1 users, such as '{last[0]}': t"):
        train("LLMEDT", tmp_path / "other", write("fewer", other), **start)
    keys = {"eval_args.mode": "full", "MAX_ITEM_LIST_LENGTH": 6, **start}
    run = Run("LLMEDT", small("LLMEDT", data_path=str(write("grown", rows)), **keys))
    growth.adopt(run.model, early, run.data)
    assert (
        "who had two training rows then and have one now: 1, such as of 'two'" in run.data.notes[-1]
    )


def test_the_nearest_by_text_stand_in_for_a_new_item() -> None:
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 5.0], [9.0, 9.0]])
    found = growth._means(vectors, torch.tensor([[1, 2]]))
    # mean (1.5, 4.5) of two vectors of length 5
    assert torch.allclose(found, torch.tensor([[1.5, 4.5]]) * 5 / 22.5**0.5)
