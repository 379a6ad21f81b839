"""Experiments: what they train, what they show of it, and the report that binds them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from recbole_edt.augment.pipeline import Pipeline
from recbole_edt.augment.settings import AugmentSettings
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.evaluation.metrics import RankMetrics
from recbole_edt.evaluation.report import write_ranks
from recbole_edt.experiment.base import OURS, add_paper, load_experiments, paper_table
from recbole_edt.experiment.command import experiment, make
from recbole_edt.experiment.context import ExperimentContext, grid, read_properties
from recbole_edt.experiment.layout import reports_table
from recbole_edt.experiment.page import Page
from recbole_edt.experiment.paper.groups import length_groups, ratio_groups
from recbole_edt.experiment.pictures import DARK
from recbole_edt.experiment.report import report, write_report
from recbole_edt.experiment.runs import flatten
from recbole_edt.experiment.tables import Table, to_markdown
from recbole_edt.experiment.variants import Variants
from recbole_edt.io.files import read_table
from recbole_edt.quick_start import describe_targets
from recbole_edt.settings import validate

EXPERIMENTS = load_experiments()


@pytest.fixture(scope="module")
def data_path(tmp_path_factory, make_shop, write_dataset) -> Path:
    shop = make_shop(seed=3, n_users=60, n_items=(12, 14), lengths=(3, 24))
    vectors = np.random.default_rng(0).normal(size=(26, 6)).astype(np.float32)
    words = ("red", "oak", "silk", "iron", "wool")
    items = [
        (*item, "0", f"{words[n % 5]} {words[n // 5 % 5]}") for n, item in enumerate(shop.items)
    ]
    return write_dataset(tmp_path_factory.mktemp("data"), shop, items=items, item_emb=vectors)


def new_context(data_path: Path, output: Path, seeds: str) -> ExperimentContext:
    given = {"dataset": "tiny", "data_path": str(data_path), "output_path": str(output)}
    return validate(ExperimentContext, given | {"seeds": seeds})


def pretend(context: ExperimentContext, runs, data: CrossDomainDataset) -> None:
    """Leave what finished runs would have left: results and ranks that agree."""
    targets = describe_targets(data)
    domains = targets["test_domains"]
    for run in runs:
        told = f"{run.model} {sorted(run.keys.items(), key=str)} {run.data_path.name}"
        rng = np.random.default_rng([run.seed, *told.encode()])
        ranks = rng.integers(1, 30, len(domains))
        metrics = RankMetrics(data.config, "uni100")
        parts = {d: metrics.evaluate(ranks[domains == n]) for n, d in enumerate(data.domains)}
        part = {"overall": metrics.evaluate(ranks), "domains": parts}
        results = {
            "model": run.model, "seed": run.seed, "protocol": "uni100", "test": part,
            "protocols": {"uni100": {"test": part, "valid": part}},
            "params": {"time_limit": None, "valid_metric": "NDCG@10",
                       "eval_args": {"mode": {"valid": "full", "test": "full"}}},
            "stages": {"1": {"train_s": 8.0}},
            "timing": {"train_s": 8.0, "epochs": 4, "test_s": 0.5},
            "parameters": {"total": 2_000_000, "trainable": 1_000_000},
        }  # fmt: skip
        context.store.folder.mkdir(parents=True, exist_ok=True)
        context.store.path(run, ".json").write_text(json.dumps(results))
        write_ranks(context.store.path(run, ".npz"), {**targets, "test_uni100": ranks})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_path, load) -> ExperimentContext:
    """A context in which every experiment was made, of trainings that were only pretended."""
    output = tmp_path_factory.mktemp("out")
    context = new_context(data_path, output, "1,2")
    runs = [run for one in EXPERIMENTS.values() for run in flatten(one.runs(context))]
    pretend(context, runs, load(data_path))
    make(context, EXPERIMENTS)
    return context


def test_every_experiment_of_the_paper_is_listed_in_its_order(capsys) -> None:
    experiment(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    assert [" ".join(one.source.split()[:2]) for one in EXPERIMENTS.values()] == [
        "table 1", "tables 2", *(f"table {n}" for n in (3, 4, 5, 6, 7, 9, 10, 11, 12)),
        *(f"figure {n}" for n in (1, 3, 4, 5, 6))]  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_page_table_and_pictures_are_written(finished, name) -> None:
    folder = finished.folder / name
    text = (folder / f"{name}.md").read_text()
    assert text.startswith("# ")
    assert text.splitlines()[-1].startswith("Made on ") and "Seeds 1, 2;" in text
    for number, (alt, picture) in enumerate(re.findall(r"!\[(.*?)\]\((.*?)\)", text), start=1):
        assert f"\n*Figure {number}: " in text and re.search(r"\d", alt)
        svg = ElementTree.parse(folder / picture).getroot()
        assert svg.attrib["role"] == "img" and svg.attrib["aria-label"] == alt.replace("\\*", "*")
        assert float(svg.attrib["viewBox"].split()[2]) == 360  # a phone's width
        colours = set(re.findall(r"(?:fill|stroke): (#\w+)", (folder / picture).read_text()))
        assert colours <= set(DARK)  # each has another on a dark page
    if name != "case":
        assert len(pd.read_csv(folder / f"{name}.csv"))


def test_ablations_differ_from_ours_in_one_thing_each(finished) -> None:
    runs = {row: of_row[0] for row, of_row in EXPERIMENTS["ablation"].runs(finished).items()}
    ours = runs[OURS]
    assert runs["w/o DFT"].model == "LLMEDTPretrain" and runs["w/o DFT"].data_path == ours.data_path
    assert runs["w/o Profiling"].keys == {**ours.keys, "align_weight": 0.0}
    changed = {"w/o Aug.": ("generator", "none"), "w/o Filtering": ("filter", "none"),
               "w/o Inserting": ("insert", "end"), "Random Inserting": ("insert", "random"),
               "w/o S-R-A": ("profile", "naive")}  # fmt: skip

    def settings(run):
        path = run.data_path / "tiny" / "augmentation.json"
        return json.loads(path.read_text())["settings"]

    for row, (key, value) in changed.items():
        assert runs[row].model == "LLMEDT" and runs[row].keys == ours.keys
        assert settings(runs[row]) == {**settings(ours), key: value}


def test_what_an_experiment_varies_is_not_overridden(data_path, tmp_path) -> None:
    context = validate(ExperimentContext, {
        "dataset": "tiny", "data_path": str(data_path), "output_path": str(tmp_path), "seeds": "1",
        "align_weight": 0.2, "epochs": 3,
    })  # fmt: skip
    keys = [run.keys for run in flatten(EXPERIMENTS["alpha"].runs(context))]
    assert keys == [{"align_weight": weight, "epochs": 3} for weight in grid("alpha")]


@pytest.mark.parametrize("own", [{"tau": 0.6}, {"tau_quantile": 0.5}])
def test_a_variant_has_tau_or_its_quantile(tmp_path, own) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "augmentation.json").write_text(json.dumps({"settings": own}))
    variants = Variants("tiny", tmp_path, tmp_path / "made")
    assert variants.make(own) == tmp_path  # the data have it already
    found = [variants.settings(keys) for keys in ({"tau": 0.9}, {"tau_quantile": 0.25})]
    assert [(one.tau, one.tau_quantile) for one in found] == [(0.9, None), (None, 0.25)]


def test_variants_keep_the_vectors_of_data_with_joined_encoders(data_path, tmp_path) -> None:
    joined = AugmentSettings(encoder="file+lsa", profiler="none")
    Pipeline("tiny", data_path, tmp_path / "own", joined).run()
    variant = Variants("tiny", tmp_path / "own", tmp_path / "made").make({"insert": "end"})
    own, other = (
        np.load(folder / "tiny" / "tiny.item_emb.npy") for folder in (tmp_path / "own", variant)
    )
    np.testing.assert_array_equal(other, own)


def test_shared_runs_are_trained_once(finished) -> None:
    names = {
        name: {finished.store.name(run) for run in flatten(one.runs(finished))}
        for name, one in EXPERIMENTS.items()
    }
    assert all(names[n] & names["overall"] for n in ("ablation", "ratio", "length", "alpha"))
    assert names["efficiency"] == names["overall"]


def test_every_k_keeps_other_items(finished) -> None:
    """Retrieval proposes one item by default: then every k would be the same."""
    tables = [read_table(one.data_path / "tiny" / "tiny.inter")
              for one, _ in EXPERIMENTS["k"].runs(finished).values()]  # fmt: skip
    inserted = [(table["augmented"] == "1").sum() for table in tables]
    assert inserted == sorted(inserted) and len(inserted) == 3
    assert inserted[0] < inserted[1]  # a shop this small has no fifteen items to insert


def test_the_estimate_of_a_stage_is_that_of_all_its_parts(data_path, tmp_path) -> None:
    context = new_context(data_path, tmp_path, "1")
    (table,) = EXPERIMENTS["cost"].lay_out(context, {}).tables
    asks = dict.fromkeys(("encoder", "generator", "profiler"), "openai")
    parts = [one for one in context.variants.estimate(asks) if one["stage"] == "encode"]
    assert len(parts) == 3  # items, new items, profiles
    shown = table.means().loc["estimate: encode"]
    for column, name in (("requests", "requests"), ("tokens in", "prompt_tokens")):
        assert shown[column] == sum(part[name] for part in parts)


@pytest.mark.parametrize(
    ("own", "num"), [({}, 15), ({"generator": "openai"}, 15), ({"num": 20}, 20)]
)
def test_no_k_is_more_than_is_proposed(data_path, tmp_path, monkeypatch, own, num) -> None:
    made = []

    def settings(self, changes=None):
        return AugmentSettings(**{**own, **(changes or {})})

    def make(self, changes):
        made.append(self.settings(changes))
        return data_path

    monkeypatch.setattr(Variants, "settings", settings)
    monkeypatch.setattr(Variants, "make", make)
    EXPERIMENTS["k"].runs(new_context(data_path, tmp_path, "1"))
    assert [(one.k, one.num) for one in made] == [(5, num), (10, num), (15, num)]


@pytest.mark.parametrize(
    ("group", "bounds"),
    [
        (ratio_groups, [(0.95, 1), (0.9, 0.9499), (0, 0.8999)]),
        (length_groups, [(1, 5), (6, 10), (11, 15), (16, 20), (21, 99)]),
    ],
)
def test_users_by_ratio_and_length(finished, load, data_path, group, bounds) -> None:
    data = load(data_path)
    values = []
    for user in data.token2id("user_id", finished.histories.users):
        items = data.sequences.items[slice(*data.sequences.offsets[user : user + 2])]
        training = items[: len(items) - 2] if len(items) >= 3 else items
        n_b = int((data.item_domain[training] == 1).sum())
        r = abs(len(training) - 2 * n_b) / len(training)
        values.append(r if group is ratio_groups else len(items))
    groups = group(finished)
    assert (np.sum(list(groups.values()), axis=0) == 1).all()  # each user is in one group
    for inside, (low, high) in zip(groups.values(), bounds, strict=True):
        assert all(low <= value <= high for value in np.array(values)[inside])


def test_groups_report_the_ranks_of_their_users(finished) -> None:
    run = EXPERIMENTS["ratio"].runs(finished)[OURS][0]
    groups = ratio_groups(finished)
    reports = finished.grouped([run], groups, "uni100")
    ranks = finished.store.ranks(run)
    members = dict(zip(finished.histories.users, groups["r < 0.9"], strict=True))
    inside = np.array([members[user] for user in ranks["users"]])
    found = reports["r < 0.9"][0]["overall"]
    assert found["n"] == inside.sum() > 5
    assert found["hit@10"] == pytest.approx((ranks["test_uni100"][inside] <= 10).mean(), 1e-14)
    assert sum(group[0]["overall"]["n"] for group in reports.values()) == len(inside)


def test_case_is_the_user_whom_augmentation_helped_most(finished) -> None:
    text = (finished.folder / "case" / "case.md").read_text()
    user, *shown = re.search(
        r"User (\S+): .* has rank (\d+) with augmentation and rank (\d+) without", text, re.DOTALL
    ).groups()
    runs = EXPERIMENTS["case"].runs(finished)
    first, other = (finished.store.ranks(runs[row][0]) for row in (OURS, "w/o Aug."))
    assert first["users"].tolist() == other["users"].tolist()
    place = first["users"].tolist().index(user)
    assert [int(rank) for rank in shown] == [r["test_uni100"][place] for r in (first, other)]
    gains = 1 / first["test_uni100"] - 1 / other["test_uni100"]
    inter = read_table(finished.augmented(".inter"))
    augmented = np.isin(first["users"], inter.loc[inter["augmented"] == "1", "user_id"])
    assert gains[place] == pytest.approx(gains[augmented].max())


def test_a_case_without_one_of_its_runs_says_so(finished, data_path, tmp_path, load) -> None:
    context = new_context(data_path, tmp_path, "1,2")
    runs = EXPERIMENTS["case"].runs(context)
    pretend(context, [runs[OURS][1], runs["w/o Aug."][0]], load(data_path))  # others failed
    assert "case" in EXPERIMENTS["case"].page(context, runs).pictures
    context.store.path(runs["w/o Aug."][0], ".json").unlink()
    (told,) = EXPERIMENTS["case"].page(context, runs).text
    assert told == "A run failed: there is nothing to compare."


def test_paper_is_shown_beside_ours() -> None:
    table = paper_table("overall", "cloth_sport")
    assert table.means().at["LLMEDT", "sport N@10"] == 0.6848
    ours, other = (Table(mode, ["sport H@10", "sport N@10"]) for mode in ("uni100", "full"))
    ours.add_rows({"LLMEDT": [0.5, 0.4]})
    page = Page(tables=[other, ours])
    add_paper(page, "overall", "cloth_sport")
    assert ours.means().loc["LLMEDT", ["sport N@10", "sport N@10, paper"]].tolist() == [0.4, 0.6848]
    assert len(ours.cells) == 10 and len(other.columns) == len(page.tables) == 2
    add_paper(page, "cost", "cloth_sport")  # no column in common
    assert "0.000477" in to_markdown(page.tables[2])
    assert np.isnan(paper_table("llm", "cloth_sport").means().at["with GPT-3.5", "sport H@10"])
    assert paper_table("overall", "tiny") is None
    for name, of_dataset in read_properties("paper").items():
        assert EXPERIMENTS[name] and all(paper_table(name, dataset) for dataset in of_dataset)


def test_pages_are_written_as_their_runs_end_and_stay_on_ctrl_c(
    data_path, tmp_path, load, monkeypatch, capsys
) -> None:
    context = new_context(data_path, tmp_path, "1")
    data, chosen = load(data_path), {name: EXPERIMENTS[name] for name in ("alpha", "ratio", "map")}

    def interrupted(store, runs, jobs, label, after):
        assert [path.stem for path in context.folder.glob("*/*.md")] == ["map"]  # needs no run
        for run in flatten(chosen["ratio"].runs(context)):
            pretend(context, [run], data)
            after(store.name(run))
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_edt.experiment.command.execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(context, chosen)
    assert {path.stem for path in context.folder.glob("*/*.md")} == {"map", "ratio"}
    assert '<section id="ratio">' in (context.folder / "report.html").read_text()
    assert f"2 of 3 pages are written in {context.folder}" in capsys.readouterr().err


def test_groups_without_users_show_a_dash_and_small_ones_a_mark() -> None:
    parts = {"art": {"hit@10": 0.5, "n": 12}, "bike": {"hit@10": 0.25, "n": 4}}
    alone = {"art": {"hit@10": 0.5, "n": 3}, "bike": {"hit@10": 0.0, "n": 0}}
    reports = {
        "some": [{"overall": {"hit@10": 0.4, "n": 16}, "domains": parts}],
        "hardly any": [{"overall": {"hit@10": 0.5, "n": 3}, "domains": alone}],
    }
    text = re.sub(" +", " ", to_markdown(reports_table("t", reports)))
    assert "| some | <u>0.5000</u>" not in text
    assert "| 0.2500 † |" in text and "| hardly any | 0.5000 † | – | " in text
    assert "† Fewer than ten users." in text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], ConfigError, "name one experiment"),
        (["overal", "--dataset=tiny"], ConfigError, "unknown experiment 'overal', did you mean"),
        (["tau", "--dataset=nothing"], DataError, "there is no data set"),
        (["tau", "--dataset=tiny", "--epoch=3"], ConfigError, "unknown key 'epoch'"),
    ],
)
def test_bad_arguments(data_path, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        experiment([*arguments, f"--data_path={data_path}"] if arguments[1:] else arguments)


def test_an_experiment_of_ones_own(data_path, monkeypatch) -> None:
    others = {name: one for name, one in EXPERIMENTS.items() if name != "map"}
    monkeypatch.setattr("recbole_edt.experiment.base.EXPERIMENTS", others)
    monkeypatch.delitem(sys.modules, "recbole_edt.experiment.paper.map")  # as at a start
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("mine.py").write_text(
        "from recbole_edt.experiment.base import Page, Table, register_experiment\n"
        "def page(context, runs):\n"
        "    table = Table(context.dataset, ['users'])\n"
        "    table.add_rows({'all': [len(context.histories.users)]})\n"
        "    return Page(tables=[table])\n"
        "register_experiment('map', 'Number of users', lay_out=page, text='Mine.')\n"
    )
    arguments = ["--dataset=tiny", f"--data_path={data_path}"]
    experiment(["mine:map", *arguments])  # not the package's of this name
    text = Path("results/tiny/map/map.md").read_text()
    assert text.startswith("# Number of users\n\nMine.\n") and "60" in text
    with pytest.raises(ConfigError, match="module 'nowhere' cannot be imported"):
        experiment(["nowhere:users", *arguments])


# -- report ---------------------------------------------------------------------------------------


def test_report_holds_every_page_and_needs_nothing_else(finished) -> None:
    text = write_report(finished.folder, "tiny").read_text()
    for name in EXPERIMENTS:
        assert f'<section id="{name}">' in text and f'href="#{name}"' in text
    assert "<img" not in text and not re.search(r"""(?:src|href)=["'](?!#|data:)""", text)
    for kind, tag in (("Figure", "<svg"), ("Table", "<table>")):
        captions = re.findall(rf"<figcaption>{kind} (\d+): ", text)
        assert captions == [str(n + 1) for n in range(text.count(tag))]
        assert len(captions) > 5
    assert "<dt>Seeds</dt><dd>1, 2</dd>" in text and "`" not in text


def test_report_holds_experiments_of_ones_own(tmp_path) -> None:
    Page("How deep", ["Deeper is not better."]).write(tmp_path / "depth", "depth")
    Page("Search: LLMEDT", ["Not a page of an experiment."]).write(tmp_path / "search", "LLMEDT")
    text = write_report(tmp_path, "tiny").read_text()
    assert '<section id="depth">' in text and "How deep" in text and "Deeper" in text
    assert "Search" not in text


def test_figures_of_simulated_data_say_so_first(data_path, tmp_path, load) -> None:
    note, folder = "simulated data: of no shop", tmp_path / "data" / "tiny"
    shutil.copytree(data_path / "tiny", folder)
    (folder / "SIMULATED").write_text(note + "\n")
    context = new_context(tmp_path / "data", tmp_path / "out", "1")
    pretend(context, flatten(EXPERIMENTS["overall"].runs(context)), load(data_path))
    (page,) = make(context, {"overall": EXPERIMENTS["overall"]})
    assert page.read_text().startswith(f"> {note}\n")
    assert "(simulated data)" in page.with_suffix(".csv").read_text().splitlines()[1]
    printed = Page(tables=[paper_table("cost", "cloth_sport")]).write(tmp_path, "cost", note)
    assert "as printed in the paper\n" in printed.read_text()
    body = write_report(context.folder, "tiny").read_text().partition("<body>")[2]
    assert body.split(">")[1].split("<")[0] == note
    assert body.count(note) == 1


def test_report_without_pages_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="run compare or an experiment first"):
        report(["--dataset=tiny", f"--output_path={tmp_path}"])
