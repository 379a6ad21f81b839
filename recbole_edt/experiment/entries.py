"""Rows of comparisons: which models, with which settings, on which rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recbole_edt.errors import ConfigError
from recbole_edt.registry import find_model, known_models, plugin_models, properties_of
from recbole_edt.settings import nearest


@dataclass(frozen=True)
class Entry:
    """A row: a model and its settings.

    Attributes
    ----------
    model : str
        Its name in the registry.
    keys : mapping
        Settings that differ from its property file.
    """

    model: str
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def raw(self) -> bool:
        """Whether it reads nothing that augmentation makes: inserted rows, profiles, vectors."""
        reads = getattr(find_model(self.model), "reads_augmentation", False)
        return not self.keys.get("augmentation", reads)


def _all_positions(backbone: str) -> Entry:
    """RecBole's model of a backbone: ids and one sequence, but all positions in one pass."""
    keys = {
        "backbone": backbone,
        "item_embedding": "id",
        "pretrain_sequences": "mixed",
        "learning_rate": 0.001,  # RecBole's
        "align_weight": 0.0,
        "augmentation": False,
    }
    return Entry("LLMEDTPretrain", keys)


ENTRIES = {name: Entry(name) for name in ("GRU4Rec", "BERT4Rec", "SASRec")}
ENTRIES |= {f"{name}*": _all_positions(name.lower()) for name in ("GRU4Rec", "BERT4Rec", "SASRec")}
ENTRIES |= {name: Entry(name) for name in ("C2DSR", "TriCDR", "SyNCRec", "LLMESR", "LLMCDSR",
                                           "LLM4CDSR", "LLMEDT")}  # fmt: skip
"""Rows of table 1 in its order, and RecBole's three trained on all positions at once (``*``)."""


def all_entries() -> dict[str, Entry]:
    """Rows of table 1, and every further rival of the plugin."""
    rivals = [name for name, model in plugin_models().items() if properties_of(model) == name]
    return ENTRIES | {name: Entry(name) for name in rivals if name not in ENTRIES}


def find_entry(name: str) -> Entry:
    """Row of a name: one of table 1, or any known model.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    known = [*ENTRIES, *known_models()]
    if name not in known:
        raise ConfigError(f"unknown model '{name}'{nearest(name, known)}")
    return ENTRIES.get(name) or Entry(name)


def choose(names: str) -> dict[str, Entry]:
    """Look up rows: ``all``, or names with commas between.

    Raises
    ------
    ConfigError
        If a name is unknown or there is none.
    """
    if names == "all":
        return all_entries()
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ConfigError("--models names no model")
    return {name: find_entry(name) for name in wanted}
