"""Every key of RecBole's defaults acts, is refused, or is said to be of no use.

The keys are those of RecBole's own property files and lists of arguments, so that a key which a
later version adds has no verdict here, and fails.
"""

from __future__ import annotations

import os
from logging import getLogger
from pathlib import Path

import numpy as np
import pytest
import recbole
import torch
import yaml
from recbole.data import data_preparation
from recbole.utils import argument_list, init_seed

from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.errors import EDTError
from recbole_edt.evaluation.metrics import RankMetrics
from recbole_edt.log import open_log
from recbole_edt.quick_start import idle_keys, run_recbole_edt
from recbole_edt.trainer import trainer_class

PROPERTIES = Path(recbole.__file__).parent / "properties"
FILES = [PROPERTIES / "overall.yaml", *PROPERTIES.glob("dataset/[!ku]*.yaml"),
         *PROPERTIES.glob("quick_start_config/*.yaml")]  # fmt: skip
KEYS = sorted(
    {key for file in FILES for key in yaml.safe_load(file.read_text()) or {}}
    | {key for name, keys in vars(argument_list).items() if name.endswith("arguments")
       for key in keys}
    - {"config_file"}  # the command line's, here config_files
)  # fmt: skip


@pytest.fixture
def shop(tmp_path):
    """A shop with columns of all types, and an additional file."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "shop"
    folder.mkdir(parents=True)
    rows = [
        f"u{u}\t{'ab'[(u + at) % 2]}{rng.integers(9)}\t{at}\t{at}\t{rng.integers(1, 6)}"
        for u in range(12)
        for at in range(3 + u % 5)
    ]
    items = [
        f"{domain}{n}\t{domain}\t{n + 1}\tx{n % 3} y{n} z\t{n} 1\t{domain}{(n + 1) % 9}"
        for domain in "ab"
        for n in range(9)
    ]
    tables = {
        "inter": ["user_id:token\titem_id:token\ttimestamp:float\tposition:float\trating:float",
                  *rows],
        "item": ["item_id:token\tdomain:token\tprice:float\ttags:token_seq\tsizes:float_seq\t"
                 "next:token", *items],
        "user": ["user_id:token\tfriend:token", *(f"u{u}\tu{u + 1}" for u in range(11))],
        "ent": ["ent_id:token\tent_emb:float_seq", "e1\t1 2", "e2\t3 4"],
    }  # fmt: skip
    for suffix, lines in tables.items():
        (folder / f"shop.{suffix}").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


@pytest.fixture
def configure(shop):
    def make(model="SASRec", **keys) -> EDTConfig:
        settled = {"data_path": str(shop), "use_gpu": False, "show_progress": False,
                   "state": "ERROR", "eval_args.mode": "uni3", "topk": [3],
                   "valid_metric": "NDCG@3"}  # fmt: skip
        if keys.pop("gpu", False):
            del settled["use_gpu"]
        return EDTConfig(model, "shop", None, settled | keys)

    return make


# --- what a key can change: each function makes something comparable of a configuration -----------


def data(config):
    """Rows, and what models see of items."""
    found = CrossDomainDataset(config)
    found.build()
    names = found.id2token("item_id", found.sequences.items).tolist()
    columns = {name: values.tolist() for name, values in found.item_feat.interaction.items()}
    weights = {key: matrix.tolist() for key, matrix in found._preloaded_weight.items()}
    tokens = {field: len(tokens) for field, tokens in found.field2id_token.items()}
    return str((names, columns, weights, tokens, found.feat_name_list))


def batches(config):
    """First batches of training and validation, and the number of them."""
    loaders = data_preparation(config, CrossDomainDataset(config))
    first = next(iter(loaders[0]))
    fields = {name: values.tolist() for name, values in first.interaction.items()}
    evaluated = [len(rows) for _, rows in loaders[1].batches()]
    return str((len(loaders[0]), fields, evaluated, loaders[0].num_workers))


def setup(config):
    """Everything that a run makes before it trains: the dataset, the loaders and the trainer."""
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, CrossDomainDataset(config))
    network = config.model_class(config, loaders[0]._dataset)
    return trainer_class(config.model_class)(config, network)


def training(config):
    trainer = setup(config)
    group = trainer.optimizer.param_groups[0]
    attributes = ("epochs", "eval_step", "stopping_step", "clip_grad_norm", "enable_amp",
                  "enable_scaler", "saved_model_file", "valid_metric", "gpu_available")  # fmt: skip
    weights = next(iter(trainer.model.parameters())).flatten()[:5].tolist()
    rates = {name: group.get(name) for name in ("lr", "weight_decay")}
    found = [getattr(trainer, attribute) for attribute in attributes]
    found.append(RankMetrics(config, "full").names)
    is_exact = torch.backends.cudnn.deterministic
    return str((type(trainer.optimizer), rates, weights, is_exact, found))


def logging(config):
    root = getLogger()
    before = root.level
    open_log(config)
    level = root.level
    root.setLevel(before)
    return level


def device(config):
    return str(config["device"]), os.environ["CUDA_VISIBLE_DEVICES"]


ITEM = {"load_col": {"item": ["price", "tags", "sizes", "next"], "user": ["friend"]}}
ENT = {"load_col.ent": ["ent_id", "ent_emb"], "alias_of_item_id": ["ent_id"],
       "additional_feat_suffix": "ent"}  # fmt: skip
PAIRS = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}

ACTS = {
    "gpu_id": (device, {"gpu_id": "1"}, {"gpu": True}),
    "use_gpu": (device, {"use_gpu": False}, {"gpu": True}),
    "worker": (batches, {"worker": 1}),
    "seed": (training, {"seed": 7}),
    "state": (logging, {"state": "WARNING"}),
    "reproducibility": (training, {"reproducibility": False}),
    "checkpoint_dir": (training, {"checkpoint_dir": "elsewhere"}),
    "shuffle": (batches, {"shuffle": False}),
    "epochs": (training, {"epochs": 3}),
    "train_batch_size": (batches, {"train_batch_size": 4}),
    "learner": (training, {"learner": "sgd"}),
    "learning_rate": (training, {"learning_rate": 0.5}),
    "train_neg_sample_args": (batches, {"train_neg_sample_args": {"sample_num": 2}}, PAIRS),
    "eval_step": (training, {"eval_step": 2}),
    "stopping_step": (training, {"stopping_step": 2}),
    "clip_grad_norm": (training, {"clip_grad_norm": {"max_norm": 1.0}}),
    "weight_decay": (training, {"weight_decay": 0.5}),
    "enable_amp": (training, {"enable_amp": True}),
    "enable_scaler": (training, {"enable_scaler": True, "use_gpu": False}, {"gpu": False}),
    "transform": (batches, {"transform": "inverse_itemseq"}),
    "metrics": (training, {"metrics": ["MRR"]}),
    "topk": (training, {"topk": [2, 3]}),
    "valid_metric": (training, {"valid_metric": "Hit@3"}),
    "eval_batch_size": (batches, {"eval_batch_size": 2}),
    "seq_separator": (data, {"seq_separator": "y"}, {"load_col.item": ["tags"]}),
    "seq_len": (data, {"seq_len": {"tags": 1}}, ITEM),
    "LABEL_FIELD": (batches, {"LABEL_FIELD": "liked"}, {"model": "DIN"}),
    "NEG_PREFIX": (batches, {"NEG_PREFIX": "not_"}, PAIRS),
    "numerical_features": (data, {"numerical_features": ["price"]}, ITEM),
    "load_col": (data, {"load_col.item": ["price"]}),
    "unload_col": (data, {"unload_col": {"item": ["price"]}}),
    "unused_col": (data, {"unused_col": {"item": ["price"]}}, ITEM),
    "additional_feat_suffix": (data, ENT),
    "rm_dup_inter": (data, {"rm_dup_inter": "first"}),
    "val_interval": (data, {"val_interval": {"rating": "[3,inf)"}}),
    "filter_inter_by_user_or_item": (data, {"filter_inter_by_user_or_item": True}),
    "user_inter_num_interval": (data, {"user_inter_num_interval": "[4,inf)"}),
    "item_inter_num_interval": (data, {"item_inter_num_interval": "[3,inf)"}),
    "alias_of_user_id": (data, {"alias_of_user_id": ["friend"]}, ITEM),
    "alias_of_item_id": (data, {"alias_of_item_id": ["next"]}, ITEM),
    "preload_weight": (data, {"preload_weight": {"ent_id": "ent_emb"}}, ENT),
    "normalize_field": (data, {"normalize_field": ["price"]}, ITEM),
    "normalize_all": (data, {"normalize_all": True}, ITEM),
    "discretization": (data, {"discretization": {"price": {"method": "ED", "bucket": 3}}},
                       {**ITEM, "numerical_features": ["price"]}),
    "ITEM_LIST_LENGTH_FIELD": (batches, {"ITEM_LIST_LENGTH_FIELD": "n"}),
    "LIST_SUFFIX": (batches, {"LIST_SUFFIX": "_seen"}),
    "MAX_ITEM_LIST_LENGTH": (batches, {"MAX_ITEM_LIST_LENGTH": 2}),
}  # fmt: skip

REFUSED = {
    "eval_args": {"eval_args.split": {"RS": [0.8, 0.1, 0.1]}},
    "repeatable": {"repeatable": False},
    "valid_metric_bigger": {"valid_metric_bigger": False},
    "field_separator": {"field_separator": ","},
    "USER_ID_FIELD": {"USER_ID_FIELD": "session"},
    "ITEM_ID_FIELD": {"ITEM_ID_FIELD": "asin"},
    "TIME_FIELD": {"TIME_FIELD": "time"},
    "threshold": {"threshold": {"rating": 3}},
    "benchmark_filename": {"benchmark_filename": ["train", "valid", "test"]},
    "data_path": {"data_path": "nowhere"},
}
"""Values that are refused; others of these keys are not."""

OF_NO_USE = {
    "require_pow": True, "wandb_project": "mine", "RATING_FIELD": "stars", "POSITION_FIELD": "at",
    "HEAD_ENTITY_ID_FIELD": "h", "TAIL_ENTITY_ID_FIELD": "t", "RELATION_ID_FIELD": "r",
    "ENTITY_ID_FIELD": "e", "kg_reverse_r": True, "entity_kg_num_interval": "[1,inf)",
    "relation_kg_num_interval": "[1,inf)", "alias_of_entity_id": ["e"],
    "alias_of_relation_id": ["r"], "selected_features": ["domain"], "pooling_mode": "sum",
}  # fmt: skip
"""Keys of other models than SASRec or of other keys: a line of the log names them."""

DISPLAYED = {"show_progress", "loss_decimal_place", "metric_decimal_place"}

ELSEWHERE = {  # what is saved and logged beside a run, see test_compat.py
    "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "log_wandb",
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_recbole_has_a_verdict(key):
    assert sum(key in verdict for verdict in (ACTS, REFUSED, OF_NO_USE, DISPLAYED, ELSEWHERE)) == 1


@pytest.mark.parametrize("key", ACTS)
def test_a_key_acts(configure, monkeypatch, key):
    probe, change, *base = ACTS[key]
    before = base[0] if base else {}
    if "gpu" in before:  # also on a machine without one
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    plain, changed = probe(configure(**before)), probe(configure(**{**before, **change}))
    assert plain != changed


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_is_refused_where_its_value_has_no_meaning(configure, key):
    with pytest.raises(EDTError) as caught:
        CrossDomainDataset(configure(**REFUSED[key]))
    assert "\n" not in str(caught.value)
    assert next(iter(REFUSED[key])) in str(caught.value) or key == "data_path"


@pytest.mark.parametrize("key", OF_NO_USE)
def test_a_key_of_no_use_is_named(configure, key):
    config = configure(**{key: OF_NO_USE[key]})
    setup(config)
    assert {*config.unread_keys()} - {"show_progress", "state"} == {key}  # read by a run itself


def test_keys_of_what_the_data_do_not_hold_are_named(configure):
    config = configure(
        "LLMEDT", augmentation=True, augmented_histories=True, align_weight=0.1,
        align_loss="infonce", item_embedding="id",
    )  # fmt: skip
    setup(config)
    named = idle_keys(config, CrossDomainDataset(config))
    assert named[-4:] == [
        "augmentation (there are no inserted rows)",
        "augmented_histories (there are no inserted rows)",
        "align_weight (there are no profiles)", "align_loss (there are no profiles)",
    ]  # fmt: skip


@pytest.mark.parametrize("model", ["LLMEDTFinetune", "LLMEDT"])
def test_keys_of_the_other_stage_are_named(configure, model):
    config = configure(model, dropout=0.9, learning_rate=0.5, item_embedding="id")
    setup(config)
    named = idle_keys(config, CrossDomainDataset(config))
    is_alone = model == "LLMEDTFinetune"
    assert {"dropout", "learning_rate"} & {*named} == (
        {"dropout", "learning_rate"} if is_alone else set()
    )


@pytest.mark.parametrize("model", ["LLMEDT", "LLMEDTPretrain", "LLMCDSR", "SASRec", "FPMC"])
def test_what_is_named_before_a_training_is_what_nothing_has_read_after_it(
    shop, monkeypatch, model
):
    """All keys of the configuration are given, with their defaults."""
    np.save(shop / "shop" / "shop.item_emb.npy", np.random.default_rng(0).normal(size=(18, 4)))
    small = {"data_path": str(shop), "eval_args": {"mode": "uni3"}, "report_modes": None,
             "use_gpu": False, "epochs": 1, "state": "ERROR"}  # fmt: skip
    sizes = {"hidden_size": 8, "inner_size": 8, "embedding_size": 8, "n_negatives": 4}
    keys = EDTConfig(model, "shop").internal_config_dict
    keys |= small | {key: size for key, size in sizes.items() if key in keys}
    del keys["MODEL_TYPE"]
    if keys.get("loss_type") == "CE":
        keys["train_neg_sample_args"] = None
    named, configs = [], []

    def unread_keys(self, named_now=EDTConfig.unread_keys):
        configs.append(self)
        named.extend(named_now(self))
        return named

    monkeypatch.setattr(EDTConfig, "unread_keys", unread_keys)
    run_recbole_edt(model, "shop", None, keys)
    assert sorted(named) == sorted(key for key in keys if key not in configs[0]._read)
    assert {"kg_reverse_r", "pretrained_path"} < {*named}
    assert not {"epochs", "learning_rate", "n_heads", "loss_decimal_place"} & {*named}
