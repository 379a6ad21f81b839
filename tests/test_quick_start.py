"""One call trains, tests and reports, and refuses before it writes."""

from __future__ import annotations

import numpy as np
import pytest
from running import small

import recbole_edt
from recbole_edt.data.dataset import CrossDomainDataset


@pytest.fixture
def run(data_path):
    def call(model="LLMEDT", saved=True, **changes):
        settings = small(model, data_path=data_path, **changes)
        return recbole_edt.run_recbole_edt(model, "tiny", None, settings, saved)

    return call


def test_further_protocols_are_reported_beside_the_main_one(run, capsys):
    results = run(report_modes=["full", "uni5"])
    assert list(results["protocols"]) == ["uni5", "full"]
    assert results["test"] == results["protocols"]["uni5"]["test"]
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("LLMEDT")]
    assert [title.split()[2] for title in titles] == ["uni5", "full"]


@pytest.mark.parametrize(("k", "is_told"), [(5, False), (6, True)])
def test_a_cut_that_no_target_is_beyond_is_told(run, capfd, k, is_told):
    run("Pop", topk=[k], report_modes=[], state="INFO")
    told = f"uni5: users have as few as 6 candidates, the target included, so that metrics at {k}"
    assert (told in capfd.readouterr().err) == is_told


def test_ranks_of_every_user_are_written_and_give_the_reported_figures(run, data_path, config_for):
    results = run(report_modes=["full"], ranks_file="ranks.npz")
    data = CrossDomainDataset(config_for(data_path))
    targets = data.sequences.items[data.split.test_rows]
    with np.load("ranks.npz") as ranks:
        assert ranks["users"].tolist() == data.id2token("user_id", data.split.users).tolist()
        assert ranks["test_domains"].tolist() == data.item_domain[targets].tolist()
        assert len(ranks) == 3 + 4
        for mode, part in results["protocols"].items():
            for phase in ("valid", "test"):
                mine = ranks[f"{phase}_{mode}"]
                assert part[phase]["overall"]["hit@3"] == pytest.approx((mine <= 3).mean(), 1e-14)
                for domain, name in enumerate(data.domains):
                    of_domain = mine[ranks[f"{phase}_domains"] == domain]
                    assert (1 / of_domain).mean() == part[phase]["domains"][name]["mrr"]


def test_metrics_of_lists_are_reported_where_all_candidates_are_ranked(run, capsys):
    keys = {"metrics": ["MAP", "GiniIndex"], "report_modes": ["full"], "metric_decimal_place": 2}
    protocols = run("SASRec", **keys)["protocols"]
    names = {mode: set(part["test"]["overall"]) for mode, part in protocols.items()}
    assert names["full"] - names["uni5"] == {"giniindex@3"}
    for values in protocols["full"]["test"]["domains"].values():
        assert 0 < values["giniindex@3"] < 1
    *_, overall = [line for line in capsys.readouterr().out.splitlines() if "overall" in line]
    digits = [f"{protocols['full']['test']['overall'][name]:.2f}" for name in names["full"] - {"n"}]
    assert sorted(overall.split()[2:]) == sorted(digits)
