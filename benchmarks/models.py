"""Every sequential and general model of RecBole: does it train here, how long, beside RecBole?

Each model trains for one epoch and is validated, twice, in processes of their own: by the plugin,
and by RecBole's own dataset, loaders and trainer on the same raw rows with the same settings. The
seconds are those that the processor spent on data, model, training and validation, on one thread.
The ranking is of all items, or of 100 for models that score pairs alone.

    python benchmarks/models.py --data_path DIR --dataset cloth_sport [--models BPR,SASRec]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import traceback
from multiprocessing import get_context
from pathlib import Path
from time import process_time

import torch

# isort: off
import recbole_edt  # noqa: F401 - patches RecBole before it is imported

# isort: on
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_edt.config import EDTConfig
from recbole_edt.evaluation.scores import scores_all
from recbole_edt.quick_start import make_model
from recbole_edt.registry import _models_of_recbole, find_model
from recbole_edt.trainer import trainer_class

SETTINGS = {
    "epochs": 1, "pretrain_epochs": 1, "use_gpu": False, "state": "ERROR", "show_progress": False,
    "metrics": ["Hit", "NDCG"], "valid_metric": "NDCG@10", "topk": [10], "seed": 42,
    "MAX_ITEM_LIST_LENGTH": 20, "eval_batch_size": 4096,
}  # fmt: skip
SIZES = ("train_batch_size", "embedding_size", "hidden_size", "selected_features", "item_attribute",
         "repeatable", "train_neg_sample_args", "load_col")  # fmt: skip


def settings_of(model: str, dataset: str, data_path: str):
    mode = "full" if scores_all(find_model(model)) else "uni100"
    own = {"data_path": data_path, "eval_args.mode": mode, **SETTINGS}
    known = EDTConfig(model, dataset).known_keys()
    return EDTConfig(
        model, dataset, None, {k: v for k, v in own.items() if k.split(".")[0] in known}
    )


def by_plugin(config) -> float:
    init_seed(config["seed"], True)
    train, valid, _ = data_preparation(config, create_dataset(config))
    trainer = trainer_class(config.model_class)(config, make_model(config, train._dataset))
    trainer.fit(train, valid, saved=False, verbose=False)
    return trainer.best_valid_score


def by_recbole(config) -> float:
    sys.argv = sys.argv[:1]
    same = {key: config[key] for key in SIZES if key in config}
    if config["train_neg_sample_args"]["distribution"] == "none":
        same["train_neg_sample_args"] = None
    inter = ["user_id", "item_id", "timestamp"]
    load = {"inter": inter, "item": config["load_col"]["item"], "user": ["user_id"]}
    path = str(Path(config["data_path"]).parent)
    changes = {
        **SETTINGS,
        **same,
        "load_col": load,
        "eval_args": config["eval_args"],
        "data_path": path,
    }
    stock = Config(config["model"], config["dataset"], config_dict=changes)
    init_seed(stock["seed"], True)
    train, valid, _ = data_preparation(stock, create_dataset(stock))
    model = get_model(stock["model"])(stock, train._dataset).to(stock["device"])
    trainer = get_trainer(stock["MODEL_TYPE"], stock["model"])(stock, model)
    trainer.fit(train, valid, saved=False, verbose=False)
    return trainer.best_valid_score


def measure(model: str, options, how: str, answers) -> None:
    """Send the seconds and the validation metric of one model, or the error as a line."""
    try:
        config = settings_of(model, options.dataset, options.data_path)
        run = {"plugin": by_plugin, "recbole": by_recbole}[how]
        start = process_time()
        score = run(config)
        answers.send((process_time() - start, score, ""))
    except Exception as error:
        traceback.print_exc()
        answers.send((None, None, f"{type(error).__name__}: {error}".splitlines()[0][:90]))


def in_child(model: str, options, how: str) -> tuple:
    """Measure in a process of its own, forked from this one, which has everything imported."""
    processes = get_context("fork")
    receiver, sender = processes.Pipe(duplex=False)
    child = processes.Process(target=measure, args=(model, options, how, sender))
    child.start()
    sender.close()
    try:
        if not receiver.poll(options.timeout):
            return None, None, f"longer than {options.timeout:.0f} s"
        return receiver.recv()
    except EOFError:
        child.join()
        return None, None, f"ended with exit code {child.exitcode}"
    finally:
        child.kill()
        child.join()


def one_line(options, model: str) -> str:
    mine, theirs = (in_child(model, options, how) for how in ("plugin", "recbole"))
    ratio = f"{mine[0] / theirs[0]:.2f}" if mine[0] and theirs[0] else ""
    shown = [f"{seconds:.1f}" if seconds else why for seconds, _, why in (mine, theirs)]
    scores = [f"{s:.4f}" if s is not None else "" for _, s, _ in (mine, theirs)]
    return f"| {model} | {' | '.join((*shown, ratio, *scores))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_path", default=str(Path(__file__).parents[1] / "dataset_atomic"))
    parser.add_argument("--dataset", default="cloth_sport")
    parser.add_argument("--models")
    parser.add_argument("--timeout", type=float, default=900)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    options.data_path = os.path.abspath(options.data_path)
    of_both = {m: p for m, p in _models_of_recbole().items() if p[:3] in ("seq", "gen")}
    models = options.models.split(",") if options.models else sorted(of_both, key=of_both.get)
    print("| model | plugin, s | RecBole, s | ratio | plugin, N@10 | RecBole, N@10 |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for model in models:
            print(one_line(options, model), flush=True)


if __name__ == "__main__":
    main()
