"""Write docs/keys.md, every key of the commands, from the settings and the property files.

``python -m tools.keys``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from recbole_edt.augment.llm.settings import LLMSettings
from recbole_edt.augment.settings import AugmentCommand
from recbole_edt.experiment.compare import Comparison
from recbole_edt.experiment.context import ExperimentContext
from recbole_edt.experiment.search import Search
from recbole_edt.importing.settings import ImportCommand
from recbole_edt.model.settings import ModelSettings
from recbole_edt.prepare.settings import PrepareCommand
from recbole_edt.recommend.command import RecommendSettings
from recbole_edt.registry import find_model, plugin_models, properties_of
from recbole_edt.run_settings import RunSettings
from recbole_edt.settings import nested_in

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "keys.md"
PROPERTIES = ROOT / "properties"
COMMANDS: dict[str, type[BaseModel]] = {
    "import": ImportCommand,
    "prepare": PrepareCommand,
    "augment": AugmentCommand,
    "compare": Comparison,
    "experiment": ExperimentContext,
    "search": Search,
    "recommend": RecommendSettings,
}
TYPES = {int: "int", float: "float", str: "str", bool: "bool", dict: "mapping", Any: "any"}
PRINTED = r"\bpapers?: (\{[^}]*\}|[^;,)]+)"
BOUNDS = {"ge": ">= ", "gt": "> ", "le": "<= ", "lt": "< "}
HEAD = """\
# Keys

<!-- Written by `python -m tools.keys` from the settings and property files. -->

Keys are the configuration parameters of RecBole and of the plugin: `--key=value` on the command
line, `config_dict={"key": value}` in Python, or `key: value` in a file of `--config_files`. The
command line wins over files, and files over defaults. An unknown key is refused with the nearest
known one. An empty default means that the key is not set. The column "paper" has the value of
`--preset=paper`, also of keys that the paper does not print (such as item_dropout; the comments of
`properties/model/*-paper.yaml` say which). Without backticks it is what the paper prints, and the
preset leaves the default. A data set has defaults of its own in `properties/dataset/`:
`MAX_ITEM_LIST_LENGTH` is 20 for any data set called `cloth_sport`.
"""


def type_of(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Type of a value in words, with its range: ``int >= 1``, ``full or uni100``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_of(arguments[0], arguments[1:])
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(type_of(part) for part in arguments if part is not NoneType)
    if origin in (list, tuple):
        return "list"
    limits = [part for one in metadata for part in getattr(one, "metadata", None) or [one]]
    for limit in limits:  # what `must_be` accepts
        check = getattr(limit, "func", None)
        words = inspect.getclosurevars(check).nonlocals.get("words") if check else None
        if isinstance(words, str):
            return words
    name = TYPES.get(origin or annotation, "mapping")
    ranges = [
        f"{sign}{getattr(limit, bound):.10g}"
        for limit in limits
        for bound, sign in BOUNDS.items()
        if isinstance(getattr(limit, bound, None), (int, float))
    ]
    return f"{name} {', '.join(ranges)}".strip()


def shown(value: Any) -> str:
    """Value as one writes it on the command line; empty for none."""
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = f"[{', '.join(value)}]"
    return "" if value in (None, "") else f"`{value}`".replace("\t", "\\t")


def comments(file: Path) -> dict[str, str]:
    """Comment behind each key of a property file, without the type that begins it."""
    lines = re.findall(r"^ *(\w+):[^#\n]*# *(?:\(\w+\) )?(.*)$", file.read_text("utf-8"), re.M)
    return dict(lines)


def rows(
    model: type[BaseModel],
    notes: Mapping[str, str],
    values: Mapping[str, Any],
    paper: Mapping[str, Any],
    prefix: str = "",
) -> Iterator[tuple[str, ...]]:
    """Name, type, default, paper's value and meaning of each key of a class of settings."""
    for name, field in model.model_fields.items():
        nested = nested_in(field)
        if nested is not None:
            inner = values.get(name)
            given = inner if isinstance(inner, Mapping) else {}
            yield from rows(nested, notes, given, {}, f"{prefix}{name}.")
            continue
        said, note = re.sub(r"\s+", " ", field.description or ""), notes.get(name, "")
        told = re.search(PRINTED, f"{said}; {note}")
        default = values.get(name, field.get_default(call_default_factory=True, validated_data={}))
        printed = shown(paper[name]) if name in paper else told[1].strip() if told else ""
        meaning = re.sub(f"[;,]? *{PRINTED}", "", said) or re.sub(f"[;,]? *{PRINTED}", "", note)
        kind = "list" if isinstance(default, tuple) else type_of(field.annotation, (field,))
        if model is RunSettings and not meaning:
            meaning = "as in RecBole"
        if field.is_required():
            kind, default = f"{kind}, required", None
        yield f"`{prefix}{name}`", kind, shown(default), printed, meaning


def table(found: Iterable[tuple[str, ...]], own: set[str] | None = None) -> list[str]:
    """Markdown table of rows; the paper's column goes where no row has a value."""
    chosen = [row for row in found if row[4] and (own is None or row[0].strip("`") in own)]
    head: tuple[str, ...] = ("key", "type", "default", "paper", "meaning")
    if not any(row[3] for row in chosen):
        chosen = [row[:3] + row[4:] for row in chosen]
        head = head[:3] + head[4:]
    cells = [head, ("---",) * len(head), *chosen]
    return ["| " + " | ".join(part.replace("|", "\\|") for part in row) + " |" for row in cells]


def of_model(name: str) -> list[str]:
    """Table of the keys of a model; of a baseline, those that differ from every model's."""
    model: Any = find_model(name)
    file = PROPERTIES / "model" / f"{name}.yaml"
    values = yaml.safe_load(file.read_text("utf-8"))
    printed = file.with_stem(f"{name}-paper")
    paper = yaml.safe_load(printed.read_text("utf-8")) if printed.is_file() else {}
    own = {*values, *paper, *(model.settings.model_fields.keys() - ModelSettings.model_fields)}
    found = [*rows(model.settings, comments(file), values, paper)]
    known = {row[0] for row in found}  # other keys of its file are those of every run
    found += [row for row in rows(RunSettings, {}, values, paper) if row[0] not in known]
    return table(found, own)


def page() -> str:
    """Text of the page."""
    overall = PROPERTIES / "overall.yaml"
    values = yaml.safe_load(overall.read_text("utf-8"))
    parts = [HEAD]

    def add(title: str, lines: list[str], about: str = "") -> None:
        parts.append("\n".join([f"## {title}", "", *([about, ""] if about else []), *lines, ""]))

    notes = comments(overall)
    add(
        "Every run",
        table(rows(RunSettings, notes, values, {})),
        "`recbole-edt run`, and every run of `compare`, `experiment` and `search`. Any other key "
        "of RecBole, and the keys of a model of RecBole, are taken as well.",
    )
    add("LLMEDT", of_model("LLMEDT"), "Both stages; `--preset=paper` sets the paper's column.")
    about = "A model's own default is in its table."
    add("Every model of the plugin", table(rows(ModelSettings, {}, {}, {})), about)
    for name, model in plugin_models().items():
        if properties_of(model)[0] == name != "LLMEDT":  # not the stages of LLMEDT
            add(name, of_model(name))
    for name, settings in COMMANDS.items():
        add(f"recbole-edt {name}", table(rows(settings, {}, {}, {})))
    file = PROPERTIES / "llm" / "deepseek.yaml"
    about = (
        "A file for `--llm`, such as those of `properties/llm/`; what it leaves out has these "
        "defaults."
    )
    add("Profile of an LLM", table(rows(LLMSettings, comments(file), {}, {})), about)
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
