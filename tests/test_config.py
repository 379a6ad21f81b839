"""What a run's configuration accepts, where it looks, and how it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from recbole_edt import registry
from recbole_edt.config import EDTConfig, defaults
from recbole_edt.errors import ConfigError
from recbole_edt.io.paths import find_data_root, properties_dir
from recbole_edt.prepare.sample import SampleCommand
from recbole_edt.recommend.command import RecommendSettings
from recbole_edt.run_settings import RunSettings
from recbole_edt.settings import nest, parse_arguments, parse_value, split_paths, validate

ROOT = Path(__file__).resolve().parents[1]


def config(model="LLMEDT", files=(), dataset="cloth_sport", **changes) -> EDTConfig:
    return EDTConfig(model, dataset, list(files), changes)


@pytest.mark.parametrize(
    ("model", "key", "value", "message"),
    [
        ("LLMEDT", "learning_rat", 1, "unknown key 'learning_rat', did you mean 'learning_rate'"),
        ("LLMEDT", "Epochs", 1, "unknown key 'Epochs', did you mean 'epochs'"),
        ("LLMEDT", "qqqq", 1, "unknown key 'qqqq'$"),
        ("SASRec", "align_weight", 1, "unknown key 'align_weight'"),
        ("LLMEDT", "eval_args.mod", "full", "unknown key 'eval_args.mod', did you mean 'mode'"),
        ("LLMEDT", "eval_args", "full", "eval_args must be a mapping"),
        ("LLMEDT", "preset", "papr", "LLMEDT has no preset 'papr' .*paper"),
        ("SASRec", "preset", "paper", r"SASRec has no preset 'paper' \(it has: none\)"),
        ("SASRec", "n_layers", "two", "n_layers must be .*, not 'two'"),
        ("SASRec", "hidden_dropout_prob", -0.5, "hidden_dropout_prob must be .*, not '-0.5'"),
        ("SASRec", "hidden_act", 3, "hidden_act must be .*, not '3'"),
        ("SASRec", "clip_grad_norm.max_nrm", 5,
         "unknown key 'clip_grad_norm.max_nrm', did you mean 'max_norm'"),
        ("SASRec", "train_neg_sample_args.popularity", 5,
         "unknown key 'train_neg_sample_args.popularity'"),
        ("SASRec", "MODEL_TYPE", 5, "unknown key 'MODEL_TYPE'"),
        ("GRU4Rec", "loss_type", "BCE", "loss_type must be one of CE, BPR, not 'BCE'"),
        *(
            ("LLMEDT", f"eval_args.{key}", "RO", f"eval_args[.]{key} must be .*the protocol.*RO")
            for key in ("split", "order", "group_by")
        ),
    ],
)  # fmt: skip
def test_keys_and_values_that_a_model_does_not_take(model, key, value, message):
    with pytest.raises(ConfigError, match=message):
        config(model, **{key: value})


def test_later_layers_win(tmp_path):
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("epochs: 3\nseed: 1\nhidden_size: 32\neval_args.mode: uni7\n")
    second.write_text("epochs: 4\nseed: 2\n")
    made = config(files=[first, second], epochs=5, **{"eval_args.order": "TO"})
    assert made["eval_args"]["mode"] == {"valid": "uni7", "test": "uni7"}
    assert [made[key] for key in ("epochs", "seed", "hidden_size")] == [5, 2, 32]
    assert made["n_heads"] == config()["n_heads"]


@pytest.mark.parametrize("key", ["eval_args.mode", "eval_args"])
def test_nested_settings_change_only_what_they_name(key):
    given = "full" if "." in key else {"mode": "full"}
    made = config(**{key: given})["eval_args"]
    assert made["mode"] == {"valid": "full", "test": "full"}
    assert (made["split"], made["order"]) == ({"LS": "valid_and_test"}, "TO")


def test_preset_has_the_papers_values():
    printed = yaml.safe_load((properties_dir() / "model" / "LLMEDT-paper.yaml").read_text())
    made = config(preset="paper")
    assert {key: made[key] for key in printed} == printed
    assert (made["item_embedding"], made["loss"], made["adapter"]) == ("text", "bpr", "paper")
    assert config(preset="paper", loss="softmax")["loss"] == "softmax"


def test_dataset_file_sets_values_for_single_models_but_never_for_a_preset(tmp_path, monkeypatch):
    copied = tmp_path / "properties"
    shutil.copytree(properties_dir(), copied)
    (copied / "dataset" / "tiny.yaml").write_text(
        "seed: 7\nper_model:\n  LLMEDT: {dropout: 0.45}\n  SASRec: {n_layers: 3}\n"
    )
    for module in ("config", "registry"):
        monkeypatch.setattr(f"recbole_edt.{module}.properties_dir", lambda: copied)
    for model in ("LLMEDT", "LLMEDTPretrain", "LLMEDTFinetune"):
        assert config(model, dataset="tiny")["dropout"] == 0.45
    assert config("SASRec", dataset="tiny")["n_layers"] == 3
    assert config(dataset="tiny", preset="paper")["dropout"] != 0.45
    assert config(dataset="tiny", dropout=0.1)["dropout"] == 0.1
    assert config(dataset="tiny")["per_model"] is None
    assert config(dataset="other")["seed"] == 42


def test_process_arguments_are_not_read(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "--epochs=9999", "--nonsense=1"])
    assert config()["epochs"] != 9999


def test_built_in_models_sample_negatives_where_their_loss_needs_some():
    pairwise = {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": 1}}
    for given, distribution in (({}, "none"), (pairwise, "uniform")):
        assert config("SASRec", **given)["train_neg_sample_args"]["distribution"] == distribution


def test_paths_numbers_of_numpy_and_one_file_are_taken(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("dropout: 0.25")
    given = {"seed": np.int64(3), "learning_rate": np.float32(0.5), "data_path": tmp_path}
    for files in (file, str(file), [file]):
        found = EDTConfig("LLMEDT", "tiny", files, given)
        assert (found["seed"], found["learning_rate"], found["dropout"]) == (3, 0.5, 0.25)
        assert found["data_path"] == str(tmp_path / "tiny") and type(found["seed"]) is int


def test_none_in_a_file_is_none_as_on_the_command_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("clip_grad_norm: None\ntrain_neg_sample_args: None")
    found = EDTConfig("LLMEDT", "tiny", file)
    assert found["clip_grad_norm"] is None
    assert found["train_neg_sample_args"]["distribution"] == "none"


def test_a_path_may_begin_with_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("result_file: ~/r.json")
    keys = {"checkpoint_dir": "~/saved", "data_path": Path("~/data")}
    config = EDTConfig("LLMEDT", "cloth_sport", [Path("~/own.yaml")], keys)
    found = [config[key] for key in ("checkpoint_dir", "data_path", "result_file")]
    assert found == [f"{tmp_path}/saved", f"{tmp_path}/data/cloth_sport", f"{tmp_path}/r.json"]
    given = validate(SampleCommand, parse_arguments(["--output_path=~/data"]))
    assert given.output_path == f"{tmp_path}/data"


def test_dataset_folder_comes_before_the_bundled_one():
    assert find_data_root("tiny") == "dataset"
    assert find_data_root("cloth_sport") == str(ROOT / "dataset_atomic")  # of the checkout
    for folder in ("dataset_atomic", "dataset"):
        (Path(folder) / "tiny").mkdir(parents=True)
        assert find_data_root("tiny") == str(Path.cwd() / folder)
    assert config(dataset="tiny")["data_path"] == str(Path.cwd() / "dataset" / "tiny")
    assert config(dataset="tiny", data_path="/else/where")["data_path"] == "/else/where/tiny"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1, 2", "is not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        (b"\xff\xfe\x00", "is not valid YAML: it is not UTF-8 text"),
        (b"epochs: 3\n\ttopk: 5\n", "is not valid YAML: line 2: found character"),
        (b"config_file: a.yaml", "unknown key 'config_file', did you mean 'config_files'"),
        (b"- 1\n- 2", "holds no 'key: value' lines"),
        (b"learning_rat: 1", "did you mean 'learning_rate'"),
        (b"1: 1", "unknown key '1'"),
    ],
)
def test_bad_configuration_file(content, message):
    Path("c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        config(files=["c.yaml"])


WRONG = [
    ("epochs", 0), ("epochs", 1.5), ("epochs", True), ("epochs", None), ("learning_rate", 0),
    ("learning_rate", float("nan")), ("hidden_size", {"x": 1}), ("topk", []), ("topk", [5, 0]),
    ("topk", True), ("metrics", "Foo"), ("metrics", []), ("metrics", [3]), ("tail_ratio", 0),
    ("valid_metric", "Foo@10"), ("valid_metric", "NDCG@x"), ("valid_metric", "NDCG"),
    ("eval_args.mode", "foo"), ("eval_args.mode", "uni0"), ("eval_args.mode", "pop100"),
    ("eval_args.mode", 100), ("eval_args.mode", {"test": "foo"}), ("report_modes", ["full", "uni"]),
    ("gpu_id", -1), ("use_gpu", "maybe"), ("dropout", 1), ("dropout", -0.1), ("preset", ""),
    ("stopping_step", -1), ("domains", ["cloth"]), ("result_file", True), ("data_path", None),
    ("learner", "adamm"), ("learner", "sparse_adam"), ("state", "loud"), ("clip_grad_norm", 1),
    ("shuffle", None), ("report_modes", 0), ("train_neg_sample_args", {"sample_num": 0}),
    # of RecBole's loaders, which models of the plugin do without
    ("transform", "crop_itemseq"), ("worker", 2),
    ("train_neg_sample_args", {"distribution": "uniform", "sample_num": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_value_names_key_and_value_in_one_line(key, value):
    with pytest.raises(
        ConfigError, match=rf"^{key.replace('.', '[.]')}[\w.]* must be .*not "
    ) as caught:
        config(**{key: value})
    assert "\n" not in str(caught.value)
    if not isinstance(value, dict):
        assert str(value) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 1), ("dropout", 0), ("topk", 5), ("metrics", "hit"),
        ("metrics", ["Recall", "MAP"]), ("tail_ratio", 5),
        ("valid_metric", "mrr"), ("valid_metric", "HIT@5"), ("gpu_id", 0), ("gpu_id", (0, 1)),
        ("gpu_id", "0,1"), ("gpu_id", ""), ("gpu_id", None), ("metrics", "Recall, MAP"),
        ("threads", None), ("domains", ["sport", "cloth"]),
        ("eval_args.mode", {"valid": "uni5", "test": "full"}), ("state", "debug"),
        ("clip_grad_norm", {"max_norm": 1.0}), ("report_modes", []),
        ("clip_grad_norm", {"max_norm": 1, "norm_type": "inf", "foreach": False}),
    ],
)  # fmt: skip
def test_right_value_is_taken(key, value):
    config(**{key: value})


@pytest.mark.parametrize(
    ("transform", "share"),
    [("mask_itemseq", "mask_ratio"), ("crop_itemseq", "eta"), ("reorder_itemseq", "beta")],
)
def test_a_transform_that_needs_a_share_names_it_and_takes_it(transform, share):
    assert config("SASRec", transform=transform, **{share: 0.5})[share] == 0.5
    for given in ({}, {share: "half"}):
        with pytest.raises(ConfigError, match=rf"{share} \(of transform: {transform}\) must be"):
            config("SASRec", transform=transform, **given)
    with pytest.raises(ConfigError, match=f"unknown key '{share}'"):
        config("SASRec", **{share: 0.5})


def test_overall_file_and_run_settings_agree():
    written = yaml.safe_load((properties_dir() / "overall.yaml").read_text())
    declared = RunSettings().model_dump()
    assert written == {key: declared[key] for key in written}
    assert not set(declared) - config().known_keys()


@pytest.mark.parametrize("model", registry.plugin_models())
def test_property_files_and_settings_of_a_model_agree(model):
    model_class = registry.plugin_models()[model]
    folder, (name, _) = properties_dir() / "model", registry.properties_of(model_class)
    fields = model_class.settings.model_fields
    declared = {k: v for k, v in defaults(model_class).items() if fields[k].description}
    # the others are RecBole's, and have one value alone
    assert {*fields} - {*declared} == {"train_neg_sample_args", "transform", "worker"}
    written = yaml.safe_load((folder / f"{name}.yaml").read_text())
    assert {key: written[key] for key in declared} == declared
    for preset in folder.glob(f"{name}-*.yaml"):
        preset_name = preset.stem.removeprefix(f"{name}-")
        assert set(yaml.safe_load(preset.read_text())) <= config(model).known_keys()
        config(model, preset=preset_name)  # which checks every value
    assert set(written) - set(declared) <= set(RunSettings.model_fields)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("1e-4", 1e-4), ("true", True), ("none", None), ("['full']", ["full"]),
        ("[Hit, NDCG@5]", ["Hit", "NDCG@5"]), ("[5,inf)", "[5,inf)"), ("[5,inf]", "[5,inf]"),
        ("5,10", (5, 10)), ("cloth", "cloth"), ("", ""), ("__import__('os')", "__import__('os')"),
        ('{"low": 1e-3, "log": true}', {"low": 0.001, "log": True}), ("{", "{"),
        ("{valid: full}", {"valid": "full"}), ("{title}", "{title}"), ("{[1]: 2}", "{[1]: 2}"),
        ("{day: 2020-13-45}", "{day: 2020-13-45}"),
    ],
)  # fmt: skip
def test_values_are_literals_or_text(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_none_stays_text_where_a_model_of_recbole_has_it_as_text():
    given = {"fredom_type": "None", "clip_grad_norm": "None"}
    made = config("FEARec", **given)
    assert [made[key] for key in given] == ["None", None]


@pytest.mark.parametrize(
    ("line", "given", "words"),
    [
        ("--epochs 3 --seed=4", {"epochs": 3, "seed": 4}, []),
        ("--tau -0.5 --seed -1", {"tau": -0.5, "seed": -1}, []),
        ("--topk [5,10] --metrics ['Hit','MRR']", {"topk": [5, 10], "metrics": ["Hit", "MRR"]}, []),
        ("--dataset 2024 --seed 1", {"dataset": "2024", "seed": 1}, []),
        ("cloth_sport --source raw", {"source": "raw"}, ["cloth_sport"]),
        ("--source raw cloth_sport", {"source": "raw"}, ["cloth_sport"]),
        ("--resume cloth_sport", {"resume": True}, ["cloth_sport"]),
        ("--resume False cloth_sport", {"resume": False}, ["cloth_sport"]),
        ("--augmentation --eval_args.mode full", {"augmentation": True, "eval_args.mode": "full"},
         []),
        ("a.csv --use_gpu b.csv", {"use_gpu": True}, ["a.csv", "b.csv"]),
        ("--data-path=x --result-file --resume", {"data_path": "x", "result_file": True,
                                                  "resume": True}, []),
    ],
)  # fmt: skip
def test_key_value_is_key_equals_value(line, given, words):
    found: list[str] = []
    assert parse_arguments(line.split(), RunSettings, found) == given
    assert found == words
    if not words:
        assert parse_arguments(line.split()) == given


def test_a_key_whose_type_is_text_takes_numbers_as_text():
    line = "--checkpoint_dir=2024_01 --domains=[2,01] --data_path='x' --result_file=none --seed=3"
    assert parse_arguments([*line.split(), "--preset=1e5", "--state=1"], RunSettings) == {
        "checkpoint_dir": "2024_01", "domains": ["2", "01"], "data_path": "x", "result_file": None,
        "seed": 3, "preset": "1e5", "state": 1,
    }  # fmt: skip
    given = parse_arguments(["--domain=1", "--user=1"], RecommendSettings, as_text=["user"])
    assert given == {"domain": "1", "user": "1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epochs=3"], "'epochs=3' is not of the form --key=value"),
        (["--=3"], "is not of the form"),
        (["--epochs=3", "--epochs=3"], "--epochs is given twice"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_arguments(arguments)


def test_dotted_keys_are_nested_unless_set_as_a_whole_and_in_part():
    assert nest({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    for flat in ({"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"a": {"b": 1}, "a.b": 2}):
        with pytest.raises(ConfigError, match=r"cannot both be set|is set twice"):
            nest(flat)


def test_one_file_of_settings_may_have_a_space_in_its_name(tmp_path):
    path = tmp_path / "my settings.yaml"
    path.write_text("epochs: 1")
    assert split_paths(str(path)) == [str(path)]
    assert split_paths("a.yaml b.yaml") == ["a.yaml", "b.yaml"]


def test_files_of_settings_have_an_argument_of_their_own():
    with pytest.raises(ConfigError, match="config_file_list names files"):
        EDTConfig("SASRec", "tiny", config_dict={"config_files": "a.yaml"})
