"""What docs/extending.md shows: a baseline, a backbone, a provider and so on, from outside."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from running import SMALL

from recbole_edt import registry
from recbole_edt.cli import execute
from recbole_edt.errors import ConfigError
from recbole_edt.quick_start import run_recbole_edt

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Import the example of a name from the page, as a module outside the package."""
    tables = [
        ("recbole_edt.registry", "_registered"),
        ("recbole_edt.model.backbones", "BACKBONES"),
        ("recbole_edt.augment.generators", "GENERATORS"),
        ("recbole.evaluator.register", "metrics_dict"),
        ("recbole.evaluator.register", "metric_information"),
        ("recbole.evaluator.register", "metric_types"),
        ("recbole_edt.experiment.base", "EXPERIMENTS"),
    ]
    entries = {(m, t): dict(getattr(import_module(m), t)) for m, t in tables}
    monkeypatch.syspath_prepend(tmp_path)

    def load(name: str):
        (code,) = re.findall(rf"```python\n# {name}\.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
        (tmp_path / f"{name}.py").write_text(code)
        return import_module(name)

    yield load
    for (module, table), before in entries.items():
        now = getattr(import_module(module), table)
        now.clear()
        now.update(before)
    for name in [n for n in sys.modules if n.startswith("my_")]:
        del sys.modules[name]


def run(model, data_path, **changes):
    keys = {**SMALL, "hidden_size": 16, "data_path": data_path, **changes}
    return run_recbole_edt(model, "tiny", None, keys)


def arguments(data_path, *more):
    keys = {**SMALL, "dataset": "tiny", "data_path": data_path}
    return [*(f"--{key}={value}" for key, value in keys.items()), *more]


def test_a_model_of_your_own(example, data_path, capsys):
    mine = example("my_model").LastItems
    results = run_recbole_edt(mine, "tiny", None, {**SMALL, "data_path": data_path, "last": 2})
    assert (results["model"], results["params"]["last"]) == ("LastItems", 2)
    named = arguments(data_path, "--model=my_model:LastItems", "--last=2", "--result_file=r.json")
    assert execute("run", named) == 0, capsys.readouterr().err
    assert json.loads(Path("r.json").read_text())["test"] == results["test"]


def test_a_model_of_your_own_beside_others(example, data_path, capsys, forked_runs):
    example("my_model")
    models = "--models=Pop,my_model:LastItems"
    more = [models, "--seeds=1", "--budget=0", "--last=2", "--report_modes=['uni5']"]
    assert execute("compare", arguments(data_path, *more)) == 0, capsys.readouterr().err
    assert re.search(r"\| LastItems +\| +0\.\d", Path("results/tiny/compare.md").read_text())
    (run,) = Path("results/tiny/runs").glob("LastItems-1-*.json")
    assert json.loads(run.read_text())["params"]["last"] == 2
    space = ["--model=my_model:LastItems", "--space={'last': [1, 2]}", "--seed=1", "--threads=1"]
    more = ["--metric=ndcg@3", "--report_modes=['uni5']"]
    assert execute("search", arguments(data_path, *space, *more)) == 0
    assert "last 2" in Path("results/tiny/search/LastItems.md").read_text()
    assert len(list(Path("results/tiny/runs").glob("LastItems-1-*.json"))) == 2  # one is shared


def test_a_subclass_of_llm_edt(example, data_path):
    mine = example("my_edt").ShortItems
    results = run(mine, data_path, norm_weight=0.5, preset="paper")
    assert (results["params"]["norm_weight"], results["params"]["loss"]) == (0.5, "bpr")
    with pytest.raises(ConfigError, match=r"norm_weight must be at least 0, not '-1\.0'"):
        run(mine, data_path, norm_weight=-1.0)
    with pytest.raises(ConfigError, match="unknown key 'norm_weigth', did you mean 'norm_weight'"):
        run(mine, data_path, norm_weigth=0.5)


def test_a_baseline(example, data_path):
    example("my_baseline")
    assert "RecentMean" in registry.known_models()
    results = run("RecentMean", data_path, decay=0.5)
    assert results["params"]["decay"] == 0.5
    assert results["test"]["overall"]["n"] == 20


def test_a_baselines_keys_are_checked_and_shown(example, data_path, capsys):
    example("my_baseline")
    assert execute("run", ["--model=RecentMean", "--help"]) == 0
    assert "--decay" in capsys.readouterr().out
    assert execute("run", ["--model=RecentMean", "--dataset=tiny", "--decay=2"]) == 2
    assert "decay must be below 1, not '2'" in capsys.readouterr().err


def test_a_backbone(example, data_path):
    example("my_backbone")
    assert run("LLMEDTPretrain", data_path, backbone="window")["test"]["overall"]["n"] == 20


def test_a_metric(example, data_path):
    example("my_metric")
    asked = {"metrics": ["Half", "Hit"], "topk": [1, 2, 3], "valid_metric": "Half@3"}
    figures = run("SASRec", data_path, **asked)["test"]["overall"]
    halves = [figures[f"half@{k}"] for k in asked["topk"]]
    assert halves == [figures[f"hit@{k}"] for k in (1, 1, 2)] and halves[2] > halves[0]


def test_a_provider(example, data_path, capsys):
    example("my_generator")
    arguments = ["--dataset=tiny", f"--data_path={data_path}", "--output_path=out",
                 "--generator=popular", "--encoder=file", "--clusters=3"]  # fmt: skip
    assert execute("augment", arguments) == 0, capsys.readouterr().err
    assert Path("out/tiny/tiny.inter").is_file()


def test_an_experiment(example, data_path, capsys, forked_runs):
    example("my_experiment")
    keys = [f"--{key}={value}" for key, value in SMALL.items() if key not in ("state", "use_gpu")]
    keys.append("--hidden_size=16")
    arguments = ["--dataset=tiny", f"--data_path={data_path}", "--seeds=1", "--threads=1", *keys]
    assert execute("experiment", ["my_experiment:depth", *arguments]) == 0, capsys.readouterr().err
    assert "2 layers" in Path("results/tiny/depth/depth.md").read_text()
