"""Two stages, early stopping, repeatability, and resuming after a kill at any moment."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import RecVAE
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import RecVAETrainer, Trainer

from recbole_edt.config import EDTConfig
from recbole_edt.errors import CheckpointError, ConfigError, DataError, TrainingError
from recbole_edt.io.lock import run_lock
from recbole_edt.quick_start import run_recbole_edt
from recbole_edt.trainer import CrossDomainMixin, checkpoint, trainer_class


def scores_by_epoch(trainer, values):
    """Let the validation of a trainer return these scores, one per call."""
    remaining = iter(values)

    def valid_epoch(valid_data, show_progress=False):
        score = next(remaining)
        return score, {trainer.valid_metric: score}

    trainer._valid_epoch = valid_epoch
    trainer._choose_start = lambda valid_data: None


# --- stages ---------------------------------------------------------------------------------------


def test_stage_2_starts_from_the_best_epoch_of_stage_1(run):
    done = run(finetune_epochs=0).fit()
    best = torch.load(done.trainer.saved_model_file.replace(".pth", ".stage1.pth"))
    start = torch.load(done.trainer.saved_model_file)
    assert start["epoch"] == -1
    for name, value in best["state_dict"].items():
        if not name.startswith("domain_"):
            assert torch.equal(value, start["state_dict"][name]), name


def test_start_of_stage_2_is_kept_when_no_epoch_of_it_is_better(run):
    now = run()
    #                                stage 1        start  stage 2
    scores_by_epoch(now.trainer, [0.1, 0.3, 0.2, 0.3, 0.25, 0.29])
    now.fit()
    assert torch.load(now.trainer.saved_model_file)["epoch"] == -1
    assert now.trainer.best_valid_score == 0.3
    assert now.trainer.stages[2]["valid"] == {"ndcg@3": 0.3}


def test_adapters_start_with_the_share_of_h_that_validation_likes_best(run):
    """It likes a half for one domain, and nothing for the other."""
    now = run(epochs=1, finetune_epochs=0)
    adapters, (first, second) = now.trainer.model.domain_adapters, now.data.domains

    def valid_epoch(valid_data, show_progress=False):
        shares = [float(adapter.scale) for adapter in adapters]
        liked = {f"{first}/ndcg@3": 1 - abs(shares[0] - 0.5), f"{second}/ndcg@3": 1 - shares[1]}
        return sum(liked.values()), liked

    now.trainer._valid_epoch = valid_epoch
    now.fit()
    kept = torch.load(now.trainer.saved_model_file)["state_dict"]
    assert [float(kept[f"domain_adapters.{domain}.scale"]) for domain in (0, 1)] == [0.5, 0.0]


@pytest.mark.parametrize(("metric", "sign"), [("NDCG@3", 1), ("GiniIndex@3", -1)])
def test_each_stage_stops_early_by_itself(run, metric, sign):
    """At the smallest value where smaller is better."""
    keys = {"valid_metric": metric, "eval_args.mode": "full"}
    now = run(epochs=9, finetune_epochs=9, stopping_step=1, **keys)
    values = [0.1, 0.5, 0.4, 0.4, 0.5, 0.4, 0.6, 0.5, 0.5]
    scores_by_epoch(now.trainer, [sign * value for value in values])
    now.fit()
    assert {stage: part["epochs"] for stage, part in now.trainer.stages.items()} == {1: 4, 2: 4}
    assert torch.load(now.trainer.saved_model_file.replace(".pth", ".stage1.pth"))["epoch"] == 1
    assert torch.load(now.trainer.saved_model_file)["epoch"] == 1


def test_two_single_stage_runs_equal_one_of_both(run, same_result):
    whole = run().fit()
    both = whole.result()
    first = run("LLMEDTPretrain").fit()
    second = run("LLMEDTFinetune", pretrained_path=first.trainer.saved_model_file).fit()
    metrics, state = second.result()
    assert first.result()[0]["stages"][1] == both[0]["stages"][1]
    metrics["stages"][1] = both[0]["stages"][1]
    for parameters in (both[1], state):  # no score needs it: stage 2 leaves it where it is
        for name in [name for name in parameters if name.startswith("profile_adapter.")]:
            del parameters[name]
    same_result(both, (metrics, state))
    third = run("LLMEDTFinetune", pretrained_path=whole.trainer.saved_model_file).fit()
    assert third.trainer.stages[2]["valid"] == metrics["stages"][2]


def test_without_saving_the_last_epoch_is_what_remains(run):
    done = run().fit(saved=False)
    assert {stage: part["epochs"] for stage, part in done.trainer.stages.items()} == {1: 3, 2: 2}
    assert not list(Path("saved").iterdir())
    run(epochs=1).fit()  # a checkpoint of the same name, which is another training's
    with pytest.raises(CheckpointError, match="kept no checkpoint"):
        done.trainer.evaluate(done.test)
    assert done.trainer.evaluate(done.test, load_best_model=False)


def test_loss_that_is_no_number_is_one_clear_error(run):
    with pytest.raises(TrainingError, match="no longer a finite number"):
        run("LLMEDTPretrain", learning_rate=1e30).fit()


def test_other_models_keep_the_training_of_their_recbole_trainer():
    class Special(Trainer):
        pass

    own = type("Own", (SASRec,), {"trainer": Special})
    mixed = trainer_class(own)
    assert mixed.__bases__ == (CrossDomainMixin, Special)
    assert trainer_class(own) is mixed
    assert trainer_class(type("Own", (SASRec,), {"trainer": mixed})) is mixed
    assert trainer_class(RecVAE).__bases__ == (CrossDomainMixin, RecVAETrainer)


# --- repeatability --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["LLMEDT", "BERT4Rec"])
def test_a_seed_decides_every_bit(run, same_result, model):
    first = run(model).fit().result()
    again = run(model)
    torch.rand(100)  # what was drawn before plays no part
    same_result(first, again.fit().result())
    other = run(model, seed=43).fit().result()
    assert any(not torch.equal(value, other[1][name]) for name, value in first[1].items())


@pytest.mark.parametrize(
    ("model", "keys"),
    [("LLMEDT", {"history_weight": 4.0}), ("LLMEDT", {"eval_args.mode": "full"}), ("SASRec", {})],
)
def test_half_precision_trains_and_scores_are_ranked_in_full_precision(run, model, keys):
    seen = set()
    now = run(model, enable_amp=True, **keys)
    loss = now.trainer.model.calculate_loss

    def spy(batch):
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return loss(batch)

    now.trainer.model.calculate_loss = spy
    metrics, parameters = now.fit().result()
    assert seen == {torch.bfloat16}
    assert all(value.dtype != torch.bfloat16 for value in parameters.values())
    plain, _ = run(model, **keys).result(now.trainer.saved_model_file)
    assert (plain["valid"], plain["test"]) == (metrics["valid"], metrics["test"])


# --- killed and resumed ---------------------------------------------------------------------------


class Killed(BaseException):
    """What no handler of the training may swallow."""


def kill_at_save(monkeypatch, number=0, before=False, of=lambda content: True):
    """Die just before or after a write of a checkpoint (from 0) among those that ``of`` takes."""
    write, count = checkpoint.save, iter(range(1000))

    def save(path, content):
        mine = of(content) and next(count) == number
        if mine and before:
            raise Killed
        write(path, content)
        if mine:
            raise Killed

    monkeypatch.setattr(checkpoint, "save", save)


@pytest.mark.parametrize("model", ["LLMEDT", "LLMEDTFinetune", "BERT4Rec"])
def test_killed_at_any_write_and_resumed_it_ends_as_if_unbroken(
    run, same_result, monkeypatch, tmp_path, model
):
    changes = {"epochs": 2, "finetune_epochs": 2 if model == "LLMEDTFinetune" else 1}
    if model == "LLMEDTFinetune":
        changes["pretrained_path"] = run("LLMEDTPretrain", epochs=1).fit().trainer.saved_model_file
    changes = changes if model.startswith("LLMEDT") else {"epochs": 2}
    unbroken = run(model, **changes).fit().result()
    kills = 0
    while True:
        for before in (True, False):
            place = {"checkpoint_dir": str(tmp_path / f"{kills}{before}")}
            with monkeypatch.context() as patch:
                kill_at_save(patch, kills, before)
                try:
                    run(model, **changes, **place).fit()
                except Killed:
                    pass
                else:
                    assert kills >= 3
                    return
            again = run(model, **changes, **place, resume=True).fit()
            same_result(unbroken, again.result())
        kills += 1


def test_killed_run_repeats_no_whole_epoch(run):
    def die(epoch, score):
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        run().fit(callback_fn=die)
    trained = []
    again = run(resume=True)
    again.fit(callback_fn=lambda epoch, score: trained.append((again.trainer.stage, epoch)))
    assert trained == [(1, 2), (2, 0), (2, 1)]


def test_stopped_early_then_killed_does_not_train_on(run, monkeypatch):
    first = run(epochs=9, stopping_step=0)
    scores_by_epoch(first.trainer, [0.5, 0.4])
    monkeypatch.setattr(first.trainer, "_enter_stage_2", lambda: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        first.fit()
    again = run(epochs=9, stopping_step=0, resume=True)
    scores_by_epoch(again.trainer, [0.5, 0.4])  # the start of stage 2, and its first epoch
    again.fit()
    assert {stage: part["epochs"] for stage, part in again.trainer.stages.items()} == {1: 2, 2: 1}


def test_finished_run_resumed_only_reports_again(run, same_result):
    first = run(resume=True).fit().result()  # there is nothing to resume yet
    again = run(resume=True)
    again.fit(callback_fn=lambda epoch, score: pytest.fail("an epoch was trained"))
    same_result(first, again.result())


@pytest.mark.parametrize(
    "moment", [lambda content: content["stage"] == 1, lambda content: "history_weights" in content]
)  # within stage 1, and at the last write
def test_a_training_that_is_stopped_leaves_the_checkpoint_of_a_finished_one(
    run, monkeypatch, caplog, same_result, moment
):
    finished = Path(run(epochs=1).fit().trainer.saved_model_file)
    before = finished.read_bytes()
    with monkeypatch.context() as patch, caplog.at_level("WARNING"):
        kill_at_save(patch, of=moment)
        with pytest.raises(Killed):
            run().fit()
    assert finished.read_bytes() == before
    assert f"{finished} was made with other settings (epochs 1, not 3); the end of" in caplog.text
    again = run(resume=True).fit()
    assert Path(again.trainer.saved_model_file) == finished and finished.read_bytes() != before
    same_result(run(checkpoint_dir="other").fit().result(), again.result())
    assert not list(Path("saved").glob("*.best.pth"))


def test_other_data_are_another_run(run, data_path, tmp_path):
    first = run(finetune_epochs=1).fit().trainer
    before = Path(first.saved_model_file).read_bytes()
    shutil.copytree(data_path, tmp_path / "other")
    file = tmp_path / "other" / "tiny" / "tiny.item_emb.npy"
    np.save(file, np.load(file)[:, ::-1])
    other = {"finetune_epochs": 1, "data_path": str(tmp_path / "other")}
    again = run(**other, resume=True)
    with pytest.raises(CheckpointError, match=f"resume: {first.last_file} belongs to other data"):
        again.trainer.check(again.trainer.config, again.trainer.model, again.data)
    again.fit()
    assert Path(first.saved_model_file).read_bytes() == before
    named = {path.name.partition(".")[0] for path in Path("saved").glob("*.pth")}
    assert len(named) == 2 and len({name.rpartition("-")[0] for name in named}) == 1


def test_other_settings_are_another_run(run):
    files = {run().trainer.last_file, run(seed=43).trainer.last_file}
    files |= {run(dropout=0.1).trainer.last_file, run("LLMEDTPretrain").trainer.last_file}
    assert len(files) == 4
    for same in (
        {"checkpoint_dir": "saved/"}, {"resume": True}, {"result_file": "r.json"}, {"epochs": 9},
        {"finetune_epochs": 9}, {"stopping_step": 9}, {"eval_step": 2}, {"topk": [3, 5]},
    ):  # fmt: skip
        assert Path(run(**same).trainer.last_file).name == Path(run().trainer.last_file).name


@pytest.mark.parametrize("model", ["SASRec", "LLMEDT"])
def test_finished_run_resumed_with_more_epochs_goes_on_to_the_end_of_an_unbroken_one(
    run, same_result, caplog, tmp_path, model
):
    last = "epochs" if model == "SASRec" else "finetune_epochs"
    unbroken = run(model, **{last: 3}, checkpoint_dir=str(tmp_path)).fit().result()
    run(model, **{last: 1}).fit()
    again = run(model, **{last: 3}, resume=True)
    trained = []
    with caplog.at_level("INFO"):
        again.fit(callback_fn=lambda epoch, score: trained.append(epoch))
    assert trained == [1, 2]
    assert "after epoch 0: 1 of 3 epochs are done" in caplog.text
    assert ("stage 1 is over and stays as it is (epochs: 3)" in caplog.text) == (model == "LLMEDT")
    same_result(unbroken, again.result())


def test_without_validation_epochs_are_logged_and_the_last_one_stays(run, caplog):
    now = run("SASRec", epochs=2, eval_step=0)
    with caplog.at_level("INFO"):
        now.trainer.fit(now.train, now.valid, True, True, False)  # by place, as in RecBole
    assert "epoch 1 training" in caplog.text
    kept = torch.load(now.trainer.saved_model_file)
    assert kept["epoch"] == 1
    for key in ("resume", "time_limit"):
        now = run("SASRec", eval_step=0, **{key: 1 if key == "time_limit" else True})
        with pytest.raises(ConfigError, match=f"{key} acts at validations: eval_step has to be 1"):
            now.trainer.check(now.config, now.model, now.data)


def test_a_file_of_the_users_own_is_the_checkpoint(run):
    now = run("SASRec")
    now.trainer.saved_model_file = "saved/mine.pth"
    now.fit().trainer.load_best()
    names = {path.name for path in Path("saved").glob("*.pth")}
    assert names == {"mine.pth", Path(now.trainer.last_file).name}


@pytest.mark.parametrize("file", ["saved_model_file", "last_file"])
def test_resumed_by_hand_and_no_better_the_best_epoch_stays(run, file):
    first = run(finetune_epochs=1).fit().trainer
    kept = torch.load(first.saved_model_file)["state_dict"]
    now = run(finetune_epochs=2)
    now.trainer.resume_checkpoint(getattr(first, file))
    now.trainer.best_valid_score = 2.0
    now.trainer.start_epoch = 1
    now.fit().trainer.load_best()
    assert all(map(torch.equal, now.trainer.model.state_dict().values(), kept.values()))


# --- what a run leaves ----------------------------------------------------------------------------


def test_results_file_has_the_promised_structure(small):
    settings = small(report_modes="full", result_file="out/r.json")
    returned = run_recbole_edt("LLMEDT", "tiny", None, settings)
    text = Path("out/r.json").read_text()
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the file"))
    assert results == json.loads(json.dumps(returned))
    assert (results["model"], results["dataset"], results["seed"]) == ("LLMEDT", "tiny", 42)
    assert results["protocol"] == "uni5"
    assert results["params"]["hidden_size"] == 16
    names = {"hit@3", "ndcg@3", "mrr", "n"}
    for part in (results["test"], results["valid"], results["protocols"]["full"]["test"]):
        assert part["overall"].keys() == names
        assert part["domains"].keys() == {"art", "bike"}
        assert all(domain.keys() == names for domain in part["domains"].values())
        assert sum(domain["n"] for domain in part["domains"].values()) == part["overall"]["n"] == 20
        for name in names - {"n"}:
            mean = sum(d[name] * d["n"] for d in part["domains"].values()) / 20
            assert math.isclose(part["overall"][name], mean)
    assert results["timing"].keys() == {"train_s", "valid_s", "epochs", "test_s", "total_s"}
    assert results["timing"]["epochs"] == 5
    assert 0 < results["parameters"]["trainable"] < results["parameters"]["total"]
    assert results["stages"].keys() == {"1", "2"}


def test_a_second_run_that_would_write_the_same_files_is_refused(small):
    settings = small(epochs=1, finetune_epochs=1)
    file = Path(checkpoint.run_file(EDTConfig("LLMEDT", "tiny", None, settings)))
    with run_lock(file.parent, file.name):
        with pytest.raises(DataError, match=f"another run is using {file}: wait until it finishes"):
            run_recbole_edt("LLMEDT", "tiny", None, settings)
        assert not list(file.parent.glob("*.pth"))
        run_recbole_edt("LLMEDT", "tiny", None, {**settings, "seed": 43})  # writes other files


def test_two_trainers_of_the_same_files_are_kept_apart(run):
    """Also those that RecBole's own functions make, without ``run_recbole_edt``."""
    first = run(epochs=1, finetune_epochs=1)
    file = Path(checkpoint.run_file(first.config))
    with run_lock(file.parent, file.name), pytest.raises(DataError, match="another run is using"):
        first.fit()
    first.fit()
    assert file.is_file()


def test_missing_checkpoint_of_stage_1_is_refused_by_the_trainer_too(run):
    with pytest.raises(CheckpointError, match="needs --pretrained_path"):
        run("LLMEDTFinetune").fit()


# --- a limit of time ------------------------------------------------------------------------------


def test_no_epoch_begins_once_the_time_is_up(run, monkeypatch):
    now = run(epochs=9, finetune_epochs=9, time_limit=25.0)
    clock = iter(range(0, 100_000, 10))  # every look at the clock comes ten seconds later
    monkeypatch.setattr("recbole_edt.trainer.trainer.perf_counter", lambda: next(clock))
    now.fit()
    epochs = {stage: part["epochs"] for stage, part in now.trainer.stages.items()}
    assert epochs == {1: 3, 2: 3}  # 10, 20 and 30 seconds of training: the third passes the limit
    assert now.result()[0]["valid"]


def test_a_run_whose_time_was_up_is_not_trained_again_when_resumed(run, same_result):
    keys = {"epochs": 9, "finetune_epochs": 2, "time_limit": 1e-9}
    first = run(**keys).fit()
    assert {stage: part["epochs"] for stage, part in first.trainer.stages.items()} == {1: 1, 2: 1}
    again = run(**keys, resume=True).fit()
    assert again.trainer.stages == first.trainer.stages
    same_result(again.result(), first.result())
