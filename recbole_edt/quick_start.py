"""Train and test one model: the plugin's or RecBole's, same protocol, same table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

from recbole_edt import distributed
from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.errors import ConfigError, ProtocolError, as_config_error
from recbole_edt.evaluation.metrics import RankMetrics
from recbole_edt.evaluation.ranking import Ranking
from recbole_edt.evaluation.report import table, write_json, write_ranks
from recbole_edt.io.files import check_writable
from recbole_edt.io.lock import run_lock
from recbole_edt.io.paths import simulated_note
from recbole_edt.log import FILE_ONLY, close_log, open_log
from recbole_edt.registry import is_users_own
from recbole_edt.run_settings import RunArguments, RunSettings
from recbole_edt.settings import parse_arguments, split_paths, validate
from recbole_edt.trainer import checkpoint, trainer_class
from recbole_edt.trainer.evaluating import EvaluationMixin


def run(arguments: Sequence[str]) -> None:
    """Train and test one model from command-line arguments."""
    given = validate(RunArguments, parse_arguments(arguments, RunSettings))
    files = split_paths(given.config_files)
    run_recbole_edt(given.model, given.dataset, files, given.model_extra)


def run_recbole_edt(
    model: str | type,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Train a model, test its best epoch, and print the tables per domain.

    With the key ``result_file`` the results are written as well.

    Parameters
    ----------
    model : str or type
        A model of the plugin, a sequential or general model of RecBole, or one of your own: its
        class, or ``package.module:Class``.
    dataset : str
        Name of a dataset in ``dataset/``, ``dataset_atomic/`` or ``data_path``.
    config_file_list, config_dict : optional
        YAML files, and values that win over them; nested keys may be dotted (``eval_args.mode``).
    saved : bool
        Whether to keep checkpoints; without them the last epoch is tested, not the best.

    Returns
    -------
    dict
        The content of the results file: ``model``, ``dataset``, ``seed``, ``protocol``, ``preset``,
        ``params``, ``history_weights``, ``test`` and ``valid`` (``overall`` and ``domains``: metric
        -> value), ``protocols``, ``stages``, ``timing`` (seconds, and epochs), ``parameters`` and
        ``checkpoint`` (a path).

    Raises
    ------
    EDTError
        If configuration or data are invalid, or training cannot go on. Other errors of a class of
        your own are raised as they are.
    """
    config = EDTConfig(model, dataset, config_file_list, config_dict)
    with distributed.process_group(), ExitStack() as held:
        try:
            return _run(config, saved, held)
        finally:
            close_log()


def _run(config: EDTConfig, saved: bool, held: ExitStack) -> dict[str, Any]:
    start = perf_counter()
    model, dataset = config["model"], config["dataset"]
    for key in ("result_file", "ranks_file"):
        if config[key]:
            check_writable(key, config[key])
    if saved:
        check_writable("checkpoint_dir", Path(config["checkpoint_dir"]) / "checkpoint.pth")
    init_seed(config["seed"], config["reproducibility"])
    with as_config_error(f"dataset {dataset}"):
        data = create_dataset(config)  # patched by compat: a CrossDomainDataset and its loaders
        train_data, valid_data, test_data = data_preparation(config, data)
    init_seed(config["seed"], config["reproducibility"])  # whatever reading the data has drawn
    own = is_users_own(config.model_class)  # the user needs the traceback
    with nullcontext() if own else as_config_error(f"model {model}"):
        network = make_model(config, train_data._dataset)
    trainer_type: Any = trainer_class(config.model_class)
    trainer_type.check(config, network, data)
    rankings = make_rankings(config, data)  # before training: a mode without candidates is an error

    if saved and not distributed.rank():
        file = Path(checkpoint.run_file(config))
        held.enter_context(run_lock(file.parent, file.name))
    open_log(config)  # all checks are done; files are written from here on
    for part in (sys.argv, config, network):
        getLogger().info(part, extra=FILE_ONLY)
    for line in (f"device: {describe_device(config['device'])}", describe(data), *data.notes):
        getLogger().info(line)
    trainer = trainer_type(config, network)
    trainer.is_locked = saved
    config.refuse_unread()
    trainer.rankings = rankings
    show_progress = config["show_progress"] and sys.stderr.isatty()
    if idle := idle_keys(config, data):
        getLogger().warning(f"nothing in this run uses {', '.join(idle)}")
    try:
        trainer.fit(train_data, valid_data, saved=saved, show_progress=show_progress)
    except KeyError as error:
        if error.args[0] not in (data.label_field, config["NEG_PREFIX"] + data.iid_field):
            raise
        raise ConfigError(
            f"{model} trains on negatives, and train_neg_sample_args is none: leave it out"
        ) from error
    if saved:
        trainer.load_best()

    results, ranks = report(config, trainer, valid_data, test_data)
    results["timing"]["total_s"] = round(perf_counter() - start, 2)
    results["checkpoint"] = trainer.saved_model_file if saved else None
    if distributed.rank():
        return results
    if config["ranks_file"]:
        write_ranks(config["ranks_file"], {**describe_targets(data), **ranks})
    if config["result_file"]:  # after the ranks: with it a run is finished
        write_json(config["result_file"], results)
    if note := simulated_note(data.dataset_path):
        print(note, end="\n\n")
    for mode, part in results["protocols"].items():
        text = table(part["test"], f"{model} test, {mode}", config["metric_decimal_place"])
        print(text, end="\n\n", flush=True)
    if saved:
        Path(checkpoint.run_file(config, "stage1")).unlink(missing_ok=True)
        if Path(trainer.last_file).exists():
            print(f"for --resume only, delete it if the run is final: {trainer.last_file}")
        print(f"checkpoint: {trainer.saved_model_file}")
    return results


def make_model(config: EDTConfig, dataset: CrossDomainDataset):
    """Make the untrained model of a configuration, on its device."""
    return config.model_class(config, dataset).to(config["device"])


def reported_modes(config) -> list[str]:
    """Protocols of the results, the main one first."""
    modes = [config["eval_args"]["mode"]["test"], *(config["report_modes"] or [])]
    return list(dict.fromkeys(modes))


def make_rankings(config, data: CrossDomainDataset) -> dict[tuple[str, str], Ranking]:
    """Draw the candidates of every protocol of the run.

    Too few items are an error for a protocol that was asked for; ``report_modes`` loses its default
    ones.
    """
    rankings: dict[tuple[str, str], Ranking] = {}
    asked = "report_modes" in config.external_config_dict
    for mode in dict.fromkeys([config["eval_args"]["mode"]["valid"], *reported_modes(config)]):
        metrics = RankMetrics(config, mode)
        try:
            made = {(phase, mode): Ranking(data, phase, mode, config["device"], metrics.list_length)
                    for phase in ("valid", "test")}  # fmt: skip
        except ProtocolError as error:
            if asked or mode in config["eval_args"]["mode"].values():
                raise
            config["report_modes"] = [one for one in config["report_modes"] if one != mode]
            data.notes.append(f"{mode} is left out: {error}")
        else:
            rankings |= made
            fewest = min(ranking.n_candidates.min() for ranking in made.values())
            if (k := max(metrics.topk)) >= fewest:
                data.notes.append(
                    f"{mode}: users have as few as {fewest} candidates, the target included, so "
                    f"that metrics at {k} find every target of theirs"
                )
    return rankings


def describe_targets(data: CrossDomainDataset) -> dict[str, np.ndarray]:
    """Return the users of the ranks and the domains of their targets, in the ranks' order."""
    split, items = data.split, data.sequences.items
    return {
        "users": data.id2token(data.uid_field, split.users).astype(str),
        "valid_domains": data.item_domain[items[split.valid_rows]].astype(np.int8),
        "test_domains": data.item_domain[items[split.test_rows]].astype(np.int8),
    }


def report(config, trainer, valid_data, test_data) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Evaluate validation and test under every protocol.

    Returns the content of the results file, and the rank of every target:
    ``<phase>_<mode>`` -> int32 [n_eval].
    """
    modes = reported_modes(config)
    protocols: dict[str, Any] = {mode: {} for mode in modes}
    ranks, seconds = {}, {}
    for mode in modes:
        for phase, loader in (("valid", valid_data), ("test", test_data)):
            start = perf_counter()
            # a user's own `evaluate` may validate; what is reported is ranked by the protocol
            EvaluationMixin.evaluate(trainer, loader, load_best_model=False, mode=mode)
            seconds[phase, mode] = perf_counter() - start
            protocols[mode][phase] = trainer.reports[phase]
            ranks[f"{phase}_{mode}"] = trainer.last_ranks[phase].astype(np.int32)
    parameters = list(trainer.model.parameters())
    stages = trainer.stages.values()
    results = {
        **{key: config[key] for key in ("model", "dataset", "seed", "preset")},
        "protocol": modes[0],
        "params": checkpoint.settings(config),
        **protocols[modes[0]],
        "protocols": protocols,
        "stages": checkpoint.plain(trainer.stages),
        "history_weights": getattr(trainer.model, "history_weights", None),
        "timing": {
            "train_s": round(sum(stage["train_s"] for stage in stages), 2),
            "valid_s": round(sum(stage["valid_s"] for stage in stages), 2),
            "epochs": sum(stage["epochs"] for stage in stages),
            "test_s": round(seconds["test", modes[0]], 3),
        },
        "parameters": {
            "total": sum(p.numel() for p in parameters),
            "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        },
    }
    return results, ranks


def idle_keys(config: EDTConfig, data: CrossDomainDataset) -> list[str]:
    """Keys that were given, and that change nothing for this model and these data."""
    given = config.external_config_dict
    of_model = getattr(config.model_class, "idle", ())
    idle = sorted({*config.unread_keys(), *(key for key in of_model if key in given)})
    missing: dict[str, str] = {}
    if not data.sequences.augmented.any():
        missing |= dict.fromkeys(("augmentation", "augmented_histories"), "inserted rows")
    of_profiles = ("align_weight", "align_temperature", "align_loss")
    if given.keys() & {*of_profiles} and data.user_table() is None:
        missing |= dict.fromkeys(of_profiles, "profiles")
    absent = ((key, what) for key, what in missing.items() if given.get(key) and key not in idle)
    return [*idle, *(f"{key} (there are no {what})" for key, what in absent)]


def describe_device(device: torch.device) -> str:
    """Name a device: the type, and the model of a GPU."""
    return f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def describe(data: CrossDomainDataset) -> str:
    """Describe a dataset in one line: users, items per domain, rows, what is evaluated."""
    items = " + ".join(
        f"{(data.item_domain == domain).sum():,} {name}" for domain, name in enumerate(data.domains)
    )
    inserted = data.sequences.augmented.sum()
    return (
        f"{data.dataset_name}: {data.user_num - 1:,} users, {items} items, "
        f"{len(data.sequences.items) - inserted:,} rows + {inserted:,} augmented; "
        f"{len(data.split.users):,} users are evaluated"
    )
