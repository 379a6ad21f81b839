"""Rows of comparisons: which models, with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recbole_edt import registry
from recbole_edt.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """A row: the name of a model, and settings that differ from its property file."""

    model: str
    keys: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with those of the user, which win except over the backbone: it names the row."""
        named = {key: value for key, value in self.keys.items() if key == "backbone"}
        return {**self.keys, **given, **named}


_RECBOLE = ("GRU4Rec", "BERT4Rec", "SASRec")
_ALL_POSITIONS = {
    "item_embedding": "id",
    "pretrain_sequences": "mixed",
    "learning_rate": 0.001,  # RecBole's
    "align_weight": 0.0,
    "augmentation": False,
}
_BASELINES = ("C2DSR", "TriCDR", "SyNCRec", "LLMESR", "LLMCDSR", "LLM4CDSR")
ENTRIES = {name: Entry(name) for name in _RECBOLE}
for _name in _RECBOLE:
    ENTRIES[f"{_name}*"] = Entry("LLMEDTPretrain", {"backbone": _name.lower(), **_ALL_POSITIONS})
ENTRIES |= {name: Entry(name) for name in (*_BASELINES, "LLMEDT")}
"""Rows of table 1 in its order, and RecBole's three trained on all positions at once (``*``)."""


def find_entry(name: str) -> Entry:
    """Row of a name: one of table 1, or any model that a run can train; else a ConfigError."""
    if name in ENTRIES:
        return ENTRIES[name]
    registry.find_model(name)
    return Entry(name)


def choose(names: str) -> dict[str, Entry]:
    """Look up rows by names with commas between; ``all``: table 1 and further baselines.

    The row of ``package.module:Class`` is called after the class if no other row is. A name that is
    unknown is a ConfigError, and so is none.
    """
    if names == "all":
        models = registry.plugin_models().items()
        own = [name for name, model in models if registry.properties_of(model)[0] == name]
        return ENTRIES | {name: Entry(name) for name in own if name not in ENTRIES}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ConfigError("--models names no model")
    short = [registry.short_name(name) for name in wanted]
    labels = (s if short.count(s) == 1 else w for s, w in zip(short, wanted, strict=True))
    return dict(zip(labels, map(find_entry, wanted), strict=True))
