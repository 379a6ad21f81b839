"""Searches: every combination, or what the sampler chooses; on validation alone; resumable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_edt.errors import ConfigError, TrainingError
from recbole_edt.experiment import search as search_module
from recbole_edt.experiment.compare import Comparison
from recbole_edt.experiment.runs import RunStore
from recbole_edt.experiment.search import Search, search
from recbole_edt.settings import validate


def score(chosen) -> float:
    """A smooth figure with its top at dropout 0.3 and size 32."""
    return 1.0 - (chosen["dropout"] - 0.3) ** 2 - abs(chosen.get("hidden_size", 32) - 32) / 100


@pytest.fixture
def measured(monkeypatch) -> list[dict]:
    """Settings in the order in which they were trained; training is only pretended."""
    seen: list[dict] = []

    def measure(self, chosen):
        seen.extend(chosen)
        return [score(settings) for settings in chosen]

    monkeypatch.setattr(Search, "measure", measure)
    return seen


def make(space, **changes) -> Search:
    given = {"model": "LLMEDT", "dataset": "tiny", "space": space, **changes}
    return validate(Search, given)


def bayes(space, **changes) -> list:
    return list(make(space, method="bayes", **changes).tried())


def test_a_grid_tries_every_combination(measured) -> None:
    found = list(make({"dropout": [0.1, 0.3], "hidden_size": [16, 32, 64]}).tried())
    assert measured == [chosen for chosen, _ in found]
    assert sorted((c["dropout"], c["hidden_size"]) for c in measured) == [
        (0.1, 16), (0.1, 32), (0.1, 64), (0.3, 16), (0.3, 32), (0.3, 64)]  # fmt: skip
    assert max(found, key=lambda one: one[1])[0] == {"dropout": 0.3, "hidden_size": 32}


def test_bayes_comes_nearer_than_chance_and_repeats_itself(measured) -> None:
    space = {
        "dropout": {"low": 0.0, "high": 0.9},
        "hidden_size": [8, 16, 32, 64, 128],
        "backbone": ["sasrec", "gru4rec"],
        "n_layers": {"low": 1, "high": 4},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    }
    first = bayes(space, trials=38)
    assert len(first) == 38
    early, late = (sum(v for _, v in part) / 8 for part in (first[:8], first[-8:]))
    assert late > early
    assert bayes(space, trials=10)[:8] == first[:8]  # stopped: a beginning
    for chosen, _ in first:
        assert chosen["hidden_size"] in space["hidden_size"]
        assert chosen["backbone"] in ("sasrec", "gru4rec")
        assert type(chosen["n_layers"]) is int and 1 <= chosen["n_layers"] <= 4
        assert type(chosen["learning_rate"]) is float and 1e-4 <= chosen["learning_rate"] <= 1e-2


def test_the_smallest_is_best_where_a_metric_says_so(measured) -> None:
    keys = {"method": "bayes", "metric": "AveragePopularity@10", "eval_args.mode": "full"}
    space = {"dropout": {"low": 0.0, "high": 0.9}}
    tried = list(make(space, trials=38, metrics=["AveragePopularity"], **keys).tried())
    early, late = (sum(v for _, v in part) for part in (tried[:8], tried[-8:]))
    assert late < early


def test_a_failed_run_is_left_out_by_bayes(monkeypatch) -> None:
    monkeypatch.setattr(
        Search, "measure", lambda self, chosen: [None, *(score(c) for c in chosen[1:])]
    )
    found = bayes({"dropout": {"low": 0.0, "high": 0.9}}, trials=8)
    assert [value is None for _, value in found] == [True, False, False, False] * 2


def test_the_table_says_why_settings_failed(write_dataset, tmp_path, monkeypatch) -> None:
    one = make({"n_heads": [1, 2, 3]}, model="C2DSR", data_path=str(write_dataset(tmp_path)))
    chosen = [{"n_heads": n} for n in (1, 2, 3)]
    names = [one.store.name(one.run_of(settings)) for settings in chosen[:2]]
    found = {"valid": {"overall": {one.measured: 0.5}}}
    monkeypatch.setattr(
        RunStore, "results", lambda self, run: found if run.keys["n_heads"] == 1 else None
    )
    monkeypatch.setattr(search_module, "execute", lambda *_: {names[1]: "out of memory"})
    values = one.measure(chosen)
    assert values == [0.5, None, None]
    assert one.table([*zip(chosen, values, strict=True)]).notes[:2] == [
        "n_heads 2: failed: out of memory",
        "n_heads 3: failed: hidden_size must be a multiple of n_heads",
    ]
    with pytest.raises(TrainingError, match=r"run n_heads 3 failed: .*\(1 further"):
        one.measure(chosen[1:])


def test_settings_that_look_alike_have_results_of_their_own(
    write_dataset, tmp_path, monkeypatch
) -> None:
    one = make({"align_weight": [0.100001, 0.100002]}, data_path=str(write_dataset(tmp_path)))
    monkeypatch.setattr(
        RunStore,
        "results",
        lambda self, run: {"valid": {"overall": {one.measured: run.keys["align_weight"]}}},
    )
    monkeypatch.setattr(search_module, "execute", lambda *_: {})
    monkeypatch.setattr(Search, "data_for", lambda self, model, keys: tmp_path)
    values = one.measure([{"align_weight": value} for value in one.space["align_weight"]])
    assert values == one.space["align_weight"]


def test_space_from_a_file(tmp_path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("dropout: [0.1, 0.5]\nlearning_rate: {low: 0.001, high: 0.1, log: true}\n")
    space = {"dropout": [0.1, 0.5], "learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    assert make(str(path)).space == space


BAD_SPACES = (
    {}, "nowhere.yaml", __file__, [1], {"dropout": []}, {"dropout": 0.1}, {"dropout": {"low": 1}},
    {"dropout": {"low": 2, "high": 1}}, {"dropout": {"low": 0.0, "high": 1.0, "steps": 2}},
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "SASRek"}, "unknown model"),
        ({"space": {"dropuot": [1]}}, "unknown key 'dropuot', did you mean 'dropout'"),
        ({"space": {"dropout": [1.5]}}, "dropout must be"),
        ({"space": {"dropout": {"low": 0.1, "high": 0.2}}}, "a range takes --method=bayes"),
        ({"epoch": 1}, "unknown key 'epoch'"),
        ({"metric": "Recall@10"}, "metric must be one of hit@10, ndcg@10, mrr, not 'recall@10'"),
        *(({"space": space}, "space must be a mapping") for space in BAD_SPACES),
    ],
)
def test_bad_arguments(change, message, write_dataset, tmp_path) -> None:
    given = {"model": "LLMEDT", "dataset": "tiny", "data_path": write_dataset(tmp_path),
             "space": {"dropout": [0.1]}} | change  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        search([f"--{key}={value}" for key, value in given.items()])
    assert not list(tmp_path.rglob("*.json"))


def test_search_and_compare_share_the_runs_of_the_plugins_models(
    tmp_path, make_shop, write_embedded
) -> None:
    shop = make_shop(seed=3, n_users=30, n_items=(12, 14), lengths=(4, 8))
    data = write_embedded(tmp_path, shop)
    given = {"dataset": "tiny", "data_path": str(data), "output_path": str(tmp_path / "out")}
    for model in ("C2DSR", "LLMEDT"):
        search = validate(Search, {"model": model, "space": {"dropout": [0.1]}, **given})
        compared = validate(Comparison, {"models": model, "dropout": 0.1, **given})
        of_search = search.run_of({"dropout": 0.1})
        (of_compare,) = compared.runs()[model][:1]
        assert search.store.name(of_search) == search.store.name(of_compare)
        assert (of_search.data_path == data) == (model == "C2DSR")


def test_command_trains_writes_and_goes_on(
    tmp_path, make_shop, write_dataset, capsys, monkeypatch, forked_runs
) -> None:
    data = write_dataset(tmp_path, make_shop(seed=3, n_users=30, n_items=(12, 14), lengths=(4, 8)))
    arguments = [
        "--model=LLMEDTPretrain", "--dataset=tiny", f"--data_path={data}", "--epochs=1",
        "--space={'hidden_size': [8, 16]}", "--metric=ndcg@3", "--topk=[3]",
        "--eval_args.mode=uni5", "--valid_metric=NDCG@3", "--use_gpu=False",
        "--item_embedding=id", "--augmentation=False", "--n_negatives=4", "--output_path=out",
    ]  # fmt: skip
    search(arguments)
    out = capsys.readouterr().out
    runs = [json.loads(path.read_text()) for path in Path("out/tiny/runs").glob("*.json")]
    best = max(runs, key=lambda one: one["valid"]["overall"]["ndcg@3"])
    assert f"best: --hidden_size={best['params']['hidden_size']}" in out
    assert len(runs) == 2
    assert Path("out/tiny/search/LLMEDTPretrain.csv").is_file()
    monkeypatch.setattr("recbole_edt.experiment.runs.subprocess.Popen", None)
    search(arguments)
    assert capsys.readouterr().out == out
