"""Where RecBole finds the plugin: its look-ups by name get the plugin's classes as answers.

RecBole finds a model by importing ``recbole.model.sequential_recommender.<name>``, a dataset and a
trainer as ``<Model>Dataset`` and ``<Model>Trainer`` in their packages. The plugin puts its modules
and classes at those names. Only three functions are wrapped, because they have no such door:
``Config._load_internal_config_dict`` (property files), ``Config._init_device`` (several processes)
and ``get_dataloader``; for any other model they do what they always did.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

PLUGIN_MODELS = {
    "LLMEDT": "recbole_edt.model.llmedt",
    "LLMEDTPretrain": "recbole_edt.model.llmedt",
    "LLMEDTFinetune": "recbole_edt.model.llmedt",
    "C2DSR": "recbole_edt.model.baselines.c2dsr",
    "TriCDR": "recbole_edt.model.baselines.tricdr",
    "SyNCRec": "recbole_edt.model.baselines.syncrec",
    "LLMCDSR": "recbole_edt.model.baselines.llmcdsr",
    "LLMESR": "recbole_edt.model.baselines.llmesr",
    "LLM4CDSR": "recbole_edt.model.baselines.llm4cdsr",
}
"""Model name -> module that defines it."""

PROPERTIES = {"LLMEDTPretrain": "LLMEDT", "LLMEDTFinetune": "LLMEDT"}
"""Models that share the property files of another."""


def known_models() -> list[str]:
    """Names of the plugin's models and of RecBole's built-in sequential models."""
    import recbole.model.sequential_recommender as builtin

    names = [name for name in vars(builtin) if name[0].isupper()]
    modules = {module.name for module in pkgutil.iter_modules(builtin.__path__)}
    return sorted({name for name in names if name.lower() in modules} | set(PLUGIN_MODELS))


def register() -> None:
    """Make RecBole's own look-ups find the plugin's models, datasets, trainers and loaders."""
    import recbole.data.dataset
    import recbole.trainer

    from recbole_edt.data.dataset import CrossDomainDataset
    from recbole_edt.trainer import trainer_class

    for name, module_name in PLUGIN_MODELS.items():
        module = importlib.import_module(module_name)
        sys.modules[f"recbole.model.sequential_recommender.{name.lower()}"] = module
        setattr(recbole.data.dataset, f"{name}Dataset", CrossDomainDataset)
        setattr(recbole.trainer, f"{name}Trainer", trainer_class(getattr(module, name)))
    _wrap_config()
    _wrap_loaders()


def _wrap_config() -> None:
    from recbole.config.configurator import Config

    original = Config._load_internal_config_dict
    if getattr(original, "knows_recbole_edt", False):
        return

    def load_with_plugin(self, model, model_class, dataset):
        from recbole_edt.config import EDTConfig, lay_properties

        original(self, model, model_class, dataset)
        if model in PLUGIN_MODELS or isinstance(self, EDTConfig):
            lay_properties(self, model, dataset)

    alone = Config._init_device

    def meet_others(self):
        from recbole_edt import distributed
        from recbole_edt.config import EDTConfig

        ours = self.final_config_dict["model"] in PLUGIN_MODELS or isinstance(self, EDTConfig)
        if ours and distributed.is_launched(self.final_config_dict):
            distributed.init(self.final_config_dict)
        else:
            alone(self)

    load_with_plugin.knows_recbole_edt = True  # type: ignore[attr-defined]
    Config._load_internal_config_dict = load_with_plugin
    Config._init_device = meet_others


def _wrap_loaders() -> None:
    import recbole.data
    import recbole.data.utils as utils

    original = utils.get_dataloader
    if getattr(original, "knows_recbole_edt", False):
        return

    def get_dataloader(config, phase):
        from recbole_edt.data.dataloader import EvaluationLoader, SequenceLoader

        if config["model"] not in PLUGIN_MODELS and not config["cross_domain"]:
            return original(config, phase)
        if phase != "train":
            return EvaluationLoader
        return SequenceLoader if config["model"] in PLUGIN_MODELS else original(config, phase)

    get_dataloader.knows_recbole_edt = True  # type: ignore[attr-defined]
    utils.get_dataloader = recbole.data.get_dataloader = get_dataloader
