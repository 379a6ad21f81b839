"""Recommendations agree with the evaluation, name what carried them, and can be exported."""

from __future__ import annotations

import copy
import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import running

import recbole_edt
from recbole_edt.errors import CheckpointError, ConfigError, DataError, DependencyError
from recbole_edt.experiment.paper import case
from recbole_edt.io.files import read_table
from recbole_edt.recommend.command import RecommendSettings, explained, recommend, write
from recbole_edt.recommend.recommender import Recommender
from recbole_edt.settings import parse_arguments, validate

MODELS = {
    "LLMEDT": {},
    "LLMEDTPretrain": {"augmented_histories": True, "history_weight": 4.0, "ensemble_size": 2},
    "SASRec": {},
}


@pytest.fixture(scope="module")
def data_path(tmp_path_factory, make_shop, augmented_shop, write_embedded) -> Path:
    shop = augmented_shop(make_shop(seed=5, n_users=40, n_items=(20, 24), lengths=(1, 9)), 5)
    return write_embedded(tmp_path_factory.mktemp("data"), shop)


@pytest.fixture(scope="module", params=MODELS)
def trained(request, tmp_path_factory, data_path):
    """Model, checkpoint and ranks of a run."""
    folder = tmp_path_factory.mktemp("run")
    settings = running.small(request.param, epochs=2, **{
        "data_path": str(data_path), "checkpoint_dir": str(folder), "eval_args.mode": "full",
        "ranks_file": str(folder / "ranks.npz"), **MODELS[request.param],
    })  # fmt: skip
    results = recbole_edt.run_recbole_edt(request.param, "tiny", None, settings)
    return request.param, Path(results["checkpoint"]), dict(np.load(folder / "ranks.npz"))


def load(trained, data_path, until="test", **changes) -> Recommender:
    return Recommender.load(trained[1], "tiny", data_path, until, use_gpu=False, **changes)


def command(trained, data_path, **keys) -> None:
    given = {"checkpoint": trained[1], "data_path": data_path, "use_gpu": False, **keys}
    recommend([f"--{key}={value}" for key, value in given.items() if value is not None])


@pytest.fixture(scope="module")
def ours(trained, data_path) -> Recommender:
    return load(trained, data_path, "all")


@pytest.mark.parametrize("phase", ["test", "valid"])
def test_ranking_the_users_reproduces_the_evaluation_exactly(trained, data_path, phase) -> None:
    _, _, ranks = trained
    recommender = load(trained, data_path, phase, eval_batch_size=7)
    data = recommender.data
    targets = data.split.test_rows if phase == "test" else data.split.valid_rows
    items = data.sequences.items[targets]
    best = recommender.recommend(k=3)
    compared = 0
    for place, target in enumerate(items):
        domain, rank = data.item_domain[target], ranks[f"{phase}_full"][place]
        (of_user,) = recommender.scores(recommender.histories.take([place]), [domain])
        of_target = of_user[0, recommender.pools[domain] == target].item()
        if np.isneginf(of_target):  # in the history, too: evaluated, never recommended
            continue
        compared += 1
        assert (of_user >= of_target).sum() == rank
        user = data.id2token("user_id", data.split.users[place])
        mine = best[(best["user_id"] == user) & (best["domain"] == data.domains[domain])]
        assert (rank <= 3) == (data.id2token("item_id", target) in set(mine["item_id"]))
    assert compared > 0.7 * len(items)


def test_what_a_user_has_and_what_was_generated_is_never_recommended(ours) -> None:
    data, found = ours.data, ours.recommend(k=99)
    generated = set(data.id2token("item_id", np.flatnonzero(data.item_generated)))
    domain_of = dict(zip(data.field2id_token["item_id"], data.item_domain, strict=True))
    assert set(found["user_id"]) == set(data.id2token("user_id", ours.histories.users))
    for (user, domain), of_user in found.groupby(["user_id", "domain"]):
        number = data.field2token_id["user_id"][user]
        mine = slice(*data.sequences.offsets[number : number + 2])
        raw = data.sequences.items[mine][~data.sequences.augmented[mine]]
        shown = of_user["item_id"].tolist()
        assert not set(shown) & (set(data.id2token("item_id", raw)) | generated)
        assert {data.domains[domain_of[item]] for item in shown} == {domain}
        assert of_user["score"].is_monotonic_decreasing
        assert of_user["rank"].tolist() == [*range(1, len(shown) + 1)]
        assert len(shown) == len(ours.pools[data.domains.index(domain)]) - len(
            {item for item in raw if data.domains[data.item_domain[item]] == domain}
        )


def test_scores_that_are_no_numbers_rank_last(ours, monkeypatch, caplog) -> None:
    before, scores = ours.recommend("u3", k=99), ours.scores
    lost = before["item_id"][:2].tolist()

    def partly(*args, **kwargs):
        found = scores(*args, **kwargs)
        for pool, of_domain in zip(ours.pools, found, strict=True):
            names = ours.data.id2token("item_id", pool)
            of_domain[:, np.isin(names, lost)] = float("nan")
        return found

    monkeypatch.setattr(ours, "scores", partly)
    caplog.set_level("WARNING")
    after = ours.recommend("u3", k=99)
    assert set(after["item_id"]) == set(before["item_id"]) and len(after) == len(before)
    for _, of_domain in after.groupby("domain"):
        assert of_domain["rank"].tolist() == [*range(1, len(of_domain) + 1)]
        at = of_domain["item_id"].isin(lost)
        assert at.is_monotonic_increasing and of_domain["score"].isna().equals(at)
    assert "are not numbers (NaN): they rank last" in caplog.text


def test_what_a_user_has_may_be_recommended_again(ours, trained, data_path) -> None:
    every = ours.recommend("u3", k=99, repeat=True)
    fresh = ours.recommend("u3", k=99)
    assert len(every) == sum(map(len, ours.pools)) and len(every) > len(fresh)
    assert set(every["item_id"]) - set(fresh["item_id"]) <= set(
        ours.rows(ours.asked("u3"))["item_id"]
    )
    kept = every[every["item_id"].isin(fresh["item_id"])]
    assert kept["item_id"].tolist() == fresh["item_id"].tolist()
    command(trained, data_path, user="u3", topk=99, repeat=True, output="again.csv")
    assert pd.read_csv("again.csv")["item_id"].tolist() == every["item_id"].tolist()


@pytest.mark.parametrize(("user", "history"), [("u3", None), (None, ["art1", "bike2", "art3"])])
def test_excluded_items_leave_no_gap(ours, trained, data_path, user, history, capsys) -> None:
    every = ours.recommend(user, k=10**12, history=history)  # as many as there are
    assert len(every) == len(ours.recommend(user, k=99, history=history))
    exclude = every.loc[every["rank"].isin([1, 3]), "item_id"].tolist()
    kept = every[~every["item_id"].isin(exclude)].groupby("domain").head(4)
    found = ours.recommend(user, k=4, history=history, exclude=exclude)
    assert found["rank"].tolist() == [1, 2, 3, 4] * 2
    assert found["item_id"].tolist() == kept["item_id"].tolist()
    Path("sold_out.txt").write_text("\n".join(["never-sold", *exclude, ""]))
    asked = {"user": user, "history": history and ",".join(history), "exclude": "@sold_out.txt"}
    command(trained, data_path, **asked, topk=4, output="left.json", explain=True)
    assert "sold_out.txt: 1 of 5 ids are of no item here: never-sold\n" in capsys.readouterr().err
    told = pd.read_json("left.json", lines=True)
    assert told["item_id"].tolist() == found["item_id"].tolist()
    assert ours.recommend(user, history=history, exclude=every["item_id"]).empty


def test_a_known_user_with_fresh_purchases(ours) -> None:
    before = ours.history("u3")
    fresh = ours.recommend("u3", 1)["item_id"].tolist()
    history = [*before, *fresh]
    found = ours.recommend(history=history, k=99)
    assert not set(history) & set(found["item_id"])
    scores = ours.score(history=history, items=found["item_id"])
    assert np.allclose(scores.iloc[0], found["score"], atol=1e-4)


def longest(recommender) -> str:
    """User with the longest history among those without inserted rows."""
    histories = recommender.histories
    rows = [recommender.rows(histories.take([place])) for place in range(len(histories.users))]
    place = int(np.argmax([0 if part["inserted"].any() else len(part) for part in rows]))
    assert len(rows[place]) > 3
    return str(recommender.data.id2token("user_id", histories.users[place]))


def test_rows_carry_by_what_the_score_loses_without_them(trained, data_path) -> None:
    recommender = load(trained, data_path, "test")
    user = longest(recommender)
    item = recommender.recommend(user, 1, "art")["item_id"][0]
    explained = recommender.explain(user, item)
    items = explained["item_id"].tolist()
    whole = recommender.score(user, item).loc[user, item]
    for number, carries in enumerate(explained["carries"]):
        asked = recommender.asked(history=items[:number] + items[number + 1 :])
        (of_domain,) = recommender.scores(asked, [0])
        kept = recommender.pools[0] == recommender.numbers_of(item)
        assert whole - of_domain[0, kept].item() == pytest.approx(carries, abs=1e-4)
    single = recommender.explain(history=items[0], item=item)
    alone = recommender.recommend(history=items[0], k=99)
    assert single["carries"].tolist() == pytest.approx(alone["score"][alone["item_id"] == item])


def test_all_users_in_bounded_memory_get_the_same_in_every_format(trained, data_path, ours) -> None:
    expected = ours.recommend(k=4, domain="bike")
    assert len(expected) == 4 * len(ours.histories.users)
    readers = {"csv": pd.read_csv, "json": partial(pd.read_json, lines=True)}
    if find_spec("pyarrow"):
        readers["parquet"] = pd.read_parquet
    for format, read in readers.items():
        command(trained, data_path, user="all", topk=4, domain="bike", output=f"all.{format}",
                eval_batch_size=5)  # fmt: skip
        found = read(f"all.{format}")
        assert found.columns.tolist() == expected.columns.tolist()
        text = ["user_id", "domain", "rank", "item_id", "title"]
        assert (found[text].astype(str) == expected[text].astype(str)).all(axis=None)
        assert np.allclose(found["score"], expected["score"], atol=1e-4)


def test_users_without_recommendations_leave_the_files_as_they_are(ours, tmp_path) -> None:
    def frames(*users):
        every = ours.data.field2token_id["item_id"].keys() - {"[PAD]"}
        for user in users:
            yield ours.recommend(user, 2, exclude=[] if user == "u3" else sorted(every))

    path, alone = str(tmp_path / "some.csv"), str(tmp_path / "none.csv")
    assert write(frames("u1", "u3", "u2", "u3"), path, "csv") == 8
    assert pd.read_csv(path)["user_id"].tolist() == ["u3"] * 8
    assert write(frames("u1", "u2"), alone, "csv") == 0
    assert Path(alone).read_text().splitlines() == Path(path).read_text().splitlines()[:1]


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow(trained, data_path) -> None:
    with pytest.raises(DependencyError, match="needs pyarrow: run `pip install pyarrow`"):
        command(trained, data_path, user="all", output="all.parquet")


def test_exported_vectors_give_the_scores(trained, data_path, ours, monkeypatch) -> None:
    command(trained, data_path, export="vectors")
    monkeypatch.setenv("HOME", str(trained[1].parent))
    other = Recommender.load(f"~/{trained[1].name}", data_path=data_path)
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert Path("vectors/users.txt").samefile(other.export("~/vectors")[2])
    folder = Path("vectors")
    users = (folder / "users.txt").read_text().splitlines()
    assert users == ours.data.id2token("user_id", ours.histories.users).tolist()
    for name in ours.domains:
        ids = (folder / f"items_{name}.txt").read_text().splitlines()
        items, of_users = (np.load(folder / f"{kind}_{name}.npy") for kind in ("items", "users"))
        plain = copy.copy(ours)
        plain._term = None  # the history term is no product of vectors
        assert np.allclose(of_users @ items.T, plain.score(users, ids), atol=1e-4)
        assert len(ids) == (20 if name == "art" else 24)


def test_one_user_on_the_screen(trained, data_path, capsys) -> None:
    command(trained, data_path, user="u3,u4", topk=2)
    command(trained, data_path, history='["art1","bike2"]', topk=2)
    out = capsys.readouterr().out
    assert out.startswith("user u3: the last ") and "\n\nuser u4: the last " in out
    assert "\nhistory: the last 2 rows\n  [ 1] art          art1 " in out
    assert out.count("recommended from art") == out.count("recommended from bike") == 3
    assert out.count("<-") == 12
    note = data_path / "tiny" / "SIMULATED"
    note.write_text("These data are simulated.\n")
    command(trained, data_path, user="u3", topk=2)
    note.unlink()
    assert capsys.readouterr().out.startswith("These data are simulated.\n\nuser u3: ")


def test_a_page_shows_histories_and_what_carried_each_item(trained, data_path, ours, tmp_path):
    inter = read_table(data_path / "tiny" / "tiny.inter").astype({"position": float})
    user = inter.loc[inter["augmented"] == "1", "user_id"].iloc[0]
    page = tmp_path / "page.html"
    command(trained, data_path, user=f"{user},u4", topk=2, html=page)
    text = page.read_text()
    assert text.count("<section>") == 2 and f"<h2>User {user}</h2>" in text
    mine = text.partition("<section>")[2].partition("</section>")[0]
    history, *lists = mine.split("<h3>")[1:]
    rows = inter[inter["user_id"] == user].sort_values("position")
    raw = np.flatnonzero(rows["augmented"] != "1")
    rows = rows.iloc[: raw[-1] + 1]  # what is inserted stands before the last raw row
    if trained[0] == "SASRec":  # trained on raw rows
        rows = rows[rows["augmented"] != "1"]
    titles = re.findall(r"<b>(.*?)</b>", history)
    assert titles == rows["item_id"].tolist()
    marks = [" inserted" in dot for dot in re.findall(r'<i class="(dot.*?)"', history)]
    assert marks == (rows["augmented"] == "1").tolist()
    alone = "not used for these recommendations" in history
    assert alone == (trained[0] == "LLMEDT")  # whose stage 1 was asked to see them
    best = ours.recommend(user, 2)
    assert re.findall(r"<b>(.*?)</b>", "".join(lists)) == best["title"].tolist()
    assert "".join(lists).count("because of ") == len(best)


def test_reasons_are_rows_that_make_a_difference(ours, monkeypatch) -> None:
    found = ours.recommend("u3", 10)
    spread = found["score"][0] - found["score"][9]
    falls = np.zeros((len(ours.rows(ours.asked("u3"))), ours.data.item_num))
    falls[0], falls[-1] = 0.11 * spread, 0.09 * spread
    monkeypatch.setattr(ours, "falls", lambda asked: falls)
    for k in (1, 3):
        told = explained(ours, "u3", k=k, domain="art", history=None)
        assert told.found["carriers"].tolist() == [[(1, pytest.approx(0.11 * spread))]] * k
        assert told.with_reasons()["because"].tolist() == [told.seen["item_id"][1]] * k
    falls *= 0.9
    told = explained(ours, "u3", k=1, domain="art", history=None)
    assert told.with_reasons()["because"].tolist() == [""]


def test_a_single_row_is_said_to_be_the_only_one(trained, data_path, capsys) -> None:
    command(trained, data_path, history="art1", topk=1, html="one.html")
    assert "because of no. 1, art1, the only one" in Path("one.html").read_text()
    command(trained, data_path, history="art1", topk=1)
    assert capsys.readouterr().out.count("<- [1], the only row") == 2


def test_a_state_within_a_training_is_named_as_one(trained, data_path, ours) -> None:
    last = trained[1].with_suffix(".last.pth")
    (note,) = load((None, last), data_path).data.notes
    assert note == f"{last} is a state within a training, and not its result: {trained[1].name} is"
    assert not ours.data.notes


def test_nothing_is_shown_or_loaded_in_vain(trained, data_path, capsys, monkeypatch) -> None:
    with pytest.raises(DataError, match=r"no user 'x'.* \(2 further unknown: 'y', 'z'\)"):
        command(trained, data_path, user="u3,x,y,z")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(Recommender, "load", None)
    with pytest.raises(ConfigError, match=r"unknown domain 'food' \(there are: art, bike\)"):
        command(trained, data_path, user="u3", domain="food")


def test_ids_are_taken_as_they_are_written() -> None:
    given = parse_arguments(["--user=1e5,007", "--topk=5"], as_text=["user"])
    settings = validate(RecommendSettings, {"checkpoint": "c", **given})
    assert (settings.user, settings.topk) == (["1e5", "007"], 5)


def test_an_arrow_of_experiment_case_begins_at_the_reason(trained, data_path) -> None:
    recommender, named = load(trained, data_path), []
    for user in ("u3", "u7", "u11", "u15"):
        asked = {"k": case._BEST, "domain": "art", "history": None}
        told = explained(recommender, user, **asked)
        target = SimpleNamespace(domain="art", item_id=told.found["item_id"].iloc[0])
        steps = case.recommended_to(user, target, trained[1], recommender.domains)
        titles = dict(zip(told.rows["item_id"], told.rows["title"], strict=True)) | {"": ""}
        reasons = [titles[item] for item in told.with_reasons()["because"]]
        assert [step.reason for step in steps] == reasons
        named += reasons
    assert any(named)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"user": "U39"}, DataError, "there is no user 'U39', did you mean 'u39'"),
        ({"user": None, "history": "art1,bik3"}, DataError, "no item 'bik3', did you mean 'bike3'"),
        ({"history": "art1"}, ConfigError, "say either --user or --history"),
        ({"user": "all", "html": "y"}, ConfigError, "--html shows users of .* not all users"),
        ({"exclude": "art1,ar2"}, DataError, "there is no item 'ar2', did you mean 'art2'"),
        ({"exclude": "@none.txt"}, ConfigError, "exclude must be ids such as i1,i2 or @FILE"),
        ({"explain": True}, ConfigError, "--explain need --output=FILE"),
        ({"user": "all"}, ConfigError, "need --output"),
        ({"output": "o.XLSX"}, ConfigError, "output: .xlsx is not written: .csv, .json or .parq"),
        ({"output": "all.csv.gz"}, ConfigError, "output: .gz is not written"),
        ({"user": None}, ConfigError, "say --user"),
        ({"user": "u1,,u2"}, ConfigError, "user must be text that is not empty"),
        (
            {"user": "J\udcfcrgen"},
            ConfigError,
            r"user must be text in UTF-8 \(set the terminal and",
        ),
        ({"user": "[u1"}, ConfigError, "user must be ids such as u1,u2"),
        ({"user": "all", "output": "."}, ConfigError, "output . is a folder"),
        ({"export": __file__}, ConfigError, "export .* cannot be written"),
        ({"checkpoint": "missing.pth"}, CheckpointError, "there is no checkpoint"),
    ],
)
def test_bad_arguments(trained, data_path, change, error, message) -> None:
    with pytest.raises(error, match=message):
        command(trained, data_path, **{"user": "u3", **change})


def test_bad_questions_in_python(ours) -> None:
    for ask, message in (
        (lambda: ours.recommend("u3", k=0), "k must be at least 1, not '0'"),
        (lambda: ours.recommend("u3", history=["art1"]), "either users or a history"),
        (lambda: ours.explain(None, "art1"), "explain takes one user, or a history, and an item"),
        (lambda: ours.score("u3"), "score takes the ids of items"),
        (lambda: ours.export(__file__), "cannot be written: .* takes no new file"),
    ):
        with pytest.raises(ConfigError, match=message):
            ask()
    with pytest.raises(DataError, match="the history is empty"):
        ours.recommend(history=[])
    with pytest.raises(DataError, match="there is no user '5'"):
        ours.recommend(5)
    assert ours.score([], "art1").shape == (0, 1)
    assert ours.recommend([]).empty and len(ours.recommend("u3", k=np.int64(1))) == 2
