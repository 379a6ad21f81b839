"""Settings as pydantic models: types and ranges, messages of one line, and the help of a command.

A command, a model or a provider declares its keys as a subclass of :class:`Settings`; a further
subclass adds keys. Nothing here knows what keys there are.
"""

from __future__ import annotations

import ast
import copy
import difflib
import os
import re
import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from recbole_edt.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]  # a name or a path


def _split_names(value: Any) -> Any:
    if value is None:
        return None
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    names = tuple(str(part).strip() for part in parts)
    if not names or not all(names):
        raise ValueError("names such as a,b")
    return names


def _check_folder(name: str) -> str:
    if name.startswith(".") or any(mark in name for mark in "/\\"):
        raise ValueError("a name without slashes that does not begin with a dot")
    return name


FolderName = Annotated[Name, AfterValidator(_check_folder)]
"""Name of a folder that is to be made."""

Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]
"""Names, given as ``a,b`` or as a list."""


def must_be(words: str, accepts: Callable[[Any], Any]) -> AfterValidator:
    """Refuse values for which a function is false or raises, as "KEY must be WORDS"."""

    def check(value: Any) -> Any:
        with suppress(ConfigError, AttributeError, LookupError, TypeError, ValueError):
            if accepts(value):
                return value
        raise ValueError(words)

    return AfterValidator(check)


def fixed(expected: Any, why: str) -> AfterValidator:
    """Refuse every other value of a key that exists in RecBole and has no meaning here."""
    return must_be(f"{expected} ({why})", lambda value: value == expected)


def is_interval(value: Any) -> bool:
    """Whether a value is one that RecBole reads as intervals: ``[5,inf)`` or ``(0,1];[3,4)``."""
    found = [re.fullmatch(r"\s*[\[(](.*),(.*)[\])]\s*", part) for part in str(value).split(";")]
    with suppress(ValueError):
        return all(ends and float(ends[1]) <= float(ends[2]) for ends in found)
    return False


def expand_home(text: str) -> str:
    """Path of a text such as ``~/data``, which shells leave as it is after ``--key=``."""
    return os.path.expanduser(text) if text.startswith("~/") else text


class Settings(BaseModel):
    """Base of all settings: types are exact (``1`` is no text), unknown keys are refused.

    Each field has a ``description``, which is what ``--help`` shows. A rule that joins several keys
    is a ``model_validator`` that raises ``ValueError`` with the whole sentence. Values such as
    ``~/data`` are paths in the user's home.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _at_home(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {k: expand_home(v) if isinstance(v, str) else v for k, v in values.items()}


S = TypeVar("S", bound=BaseModel)


def validate(model: type[S], values: Mapping[str, Any], where: str = "") -> S:
    """Make settings from values.

    A :class:`ConfigError` names the first key that is unknown, missing or wrong, after ``where``,
    such as ``chat.``.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_message(error, model, where)) from None


def check_value(kind: Any, key: str, value: Any) -> None:
    """Check one value of a key against a type that pydantic knows."""
    try:
        TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{key} must be {_words(problem)}, not '{value}'") from None


def _message(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Format the first problem, an unknown key before others, in one line."""
    problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    key, owner = _locate(model, problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = nearest(str(problem["loc"][-1]), owner.model_fields) or " (--help lists the keys)"
        return f"unknown key '{where}{key}'{near}"
    if problem["type"] == "missing":
        return f"--{where}{key} is missing"
    if not key and problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"{where}{key} must be {_words(problem)}, not '{problem['input']}'"


def _locate(model: type[BaseModel], location: Sequence[int | str]) -> tuple[str, type[BaseModel]]:
    """Dotted key of a problem, and the settings that the key belongs to."""
    keys: list[str] = []
    for key in map(str, location):
        nested = nested_in(model.model_fields.get(keys[-1])) if keys else model
        if nested is None:
            break
        keys, model = [*keys, key], nested
    return ".".join(keys), model


def nested_in(field: FieldInfo | None) -> type[BaseModel] | None:
    """Settings that are the value of a field, or None may stand for."""
    kinds = [field.annotation, *get_args(field.annotation)] if field else []
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


_WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "True or False",
    "string_type": "text",
    "string_unicode": "text in UTF-8 (set the terminal and LC_ALL to UTF-8)",
    "string_too_short": "text that is not empty",
    "list_type": "a list",
    "too_short": "a list that is not empty",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "empty",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:.10g}",
    "value_error": "{error}",
}


def _words(problem: Any) -> str:
    """Describe the accepted values."""
    context = problem.get("ctx", {})
    if problem["type"] == "literal_error":
        return "one of " + context["expected"].replace("'", "").replace(" or ", ", ")
    return _WORDS.get(problem["type"], "{msg}").format(msg=problem["msg"], **context)


def declared(config: Any, key: str, default: Any) -> Any:
    """Value of a key that only some models declare; for the others a default."""
    value = config[key] if key in config else None
    return default if value is None else value


def changed(config: Any, **values: Any) -> Any:
    """Copy a configuration of RecBole with other values of some keys."""
    out = copy.copy(config)
    out.final_config_dict = {**config.final_config_dict, **values}
    return out


def nearest(word: str, known: Iterable[str]) -> str:
    """Phrase a suggestion: ", did you mean 'x'?", or nothing."""
    lowered = {name.lower(): name for name in sorted(known)}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    return f", did you mean '{lowered[close[0]]}'?" if close else ""


# -- command lines ------------------------------------------------------------------------------


class _YamlLoader(yaml.SafeLoader):
    """Takes 1e-3 for a number, as RecBole's loader does; YAML 1.1 wants 1.0e-3."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+$"), [*"+-0123456789"]
)


def parse_yaml(text: str) -> Any:
    """Read YAML, of which JSON is a part."""
    return yaml.load(text, _YamlLoader)


def yaml_fault(error: Exception) -> str:
    """Say where a text is no YAML, and why, after the name of its file."""
    if isinstance(error, UnicodeError):
        return "is not valid YAML: it is not UTF-8 text"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return "is not valid YAML" + (f": line {mark.line + 1}: {problem}" if mark else "")


def parse_value(text: str) -> Any:
    """Read a command-line value: Python, true/false/none, [names], {JSON or YAML}, text."""
    words = {"true": True, "false": False, "none": None, "null": None, "~": None}
    if text.lower() in words:
        return words[text.lower()]
    if names := re.fullmatch(r"\[\s*([a-zA-Z][\w@.]*(?:\s*,\s*[a-zA-Z][\w@.]*)*)\s*\]", text):
        return re.split(r"\s*,\s*", names[1])
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        if text.startswith("{") and ":" in text:
            # values such as 2020-13-45 raise what their types do
            with suppress(yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError):
                return parse_yaml(text)
        return text


def _parse_as(kind: Any, text: str) -> Any:
    """Read a command-line value of a type: where that is text, or a list of texts, 1 is text."""
    value, kinds = parse_value(text), set(_kinds(kind))
    if value is None and NoneType in kinds:
        return None
    kinds.discard(NoneType)
    if kinds == {str}:
        return value if isinstance(value, str) else text
    listed = re.fullmatch(r"\[\s*([\w@.]+(?:\s*,\s*[\w@.]+)*)\s*\]", text)
    if listed and kinds == {list[str]}:
        return re.split(r"\s*,\s*", listed[1])
    return value


def _kinds(kind: Any) -> list[Any]:
    """Types of a union, without what annotations say about them."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kinds(args[0])
    if origin in (Union, UnionType):
        return [one for arg in args for one in _kinds(arg)]
    return [list[_kinds(args[0])[0]]] if origin is list else [kind]  # type: ignore[misc]


def parse_arguments(
    arguments: Sequence[str],
    settings: type[BaseModel] | None = None,
    words: list | None = None,
    as_text: Sequence[str] = (),
) -> dict[str, Any]:
    """Parse ``--key=value``, ``--key value`` and bare ``--key`` (true); ``-`` in keys is ``_``.

    Parameters
    ----------
    arguments : sequence of str
        A command line without the name of the command.
    settings : type, optional
        Says which keys are flags, which take no other word for a value than true or false, and
        which are text, also if it looks like a number.
    words : list, optional
        Receives the arguments that belong to no key; without it they are refused.
    as_text : sequence of str
        Keys whose values are taken literally, besides ``dataset``.
    """
    fields = settings.model_fields if settings else {}
    flags = {key for key, field in fields.items() if field.annotation in (bool, bool | None)}
    out: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if words is not None and not argument.startswith("-"):
            words.append(argument)
            continue
        if not argument.startswith("--") or argument[2:3] in ("", "="):
            raise ConfigError(f"'{argument}' is not of the form --key=value")
        key, equals, value = argument[2:].partition("=")
        key = key.replace("-", "_")
        if not equals and rest and not rest[0].startswith("--"):
            if key not in flags or isinstance(parse_value(rest[0]), bool):
                equals, value = "=", rest.pop(0)
        if key in out:
            raise ConfigError(f"--{key} is given twice")
        if key in as_text or key == "dataset" or not equals:
            out[key] = value if equals else True
        else:
            out[key] = _parse_as(fields[key].annotation if key in fields else Any, value)
    return out


def shell(*words: str) -> str:
    """Write words as a shell takes them, in double quotes if they hold single ones."""
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)
        for word in words
    )


def split_paths(given: str) -> list[str]:
    """Split paths at spaces; a single one may hold some."""
    return [given] if Path(given).is_file() else given.split()


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested dictionaries; no key is set as a whole and in part."""
    out: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = str(key).split(".")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"'{key}' and '{parents[0]}' cannot both be set")
        if leaf in node:
            raise ConfigError(f"'{key}' is set twice")
        node[leaf] = dict(value) if isinstance(value, Mapping) else value
    return out


def help_text(usage: str, about: str, model: type[BaseModel], after: str = "") -> str:
    """Write the help of a command from its settings; a field without a description is left out.

    Parameters
    ----------
    usage, about, after : str
        The line after ``usage:``, what the command does, and text after the list of keys.
    model : type
        Subclass of :class:`Settings`.
    """
    lines = [f"usage: {usage}", "", *textwrap.wrap(about, 96), "", *_help_lines(model), ""]
    return "\n".join([*lines, after] if after else lines)


def _help_lines(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        nested = nested_in(field)
        if nested is not None:
            yield from _help_lines(nested, f"{prefix}{name}.")
        if not field.description:
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, tuple):
            default = ", ".join(map(str, default))
        empty = nested or field.is_required() or default in (None, "")
        shown = "" if empty else f" (default: {default})"
        first, *rest = textwrap.wrap(f"{field.description}{shown}", 70)
        key = f"  --{prefix}{name}"
        yield f"{key:<26}{first}" if len(key) < 26 else f"{key}\n{'':<26}{first}"
        yield from (" " * 26 + line for line in rest)
