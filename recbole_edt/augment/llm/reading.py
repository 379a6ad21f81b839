"""Read what a model wrote: leave its thoughts out, find and repair the JSON of its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, ClassVar, NamedTuple

import json_repair
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from recbole_edt.augment.llm.payload import within
from recbole_edt.io.prices import read_price

_THINKING = r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
# Marks of thoughts: tags and special tokens of chat templates, as servers leave them
_ENDS = (
    rf"[<◁]\|?(?:/\|?|end_(?:of_)?){_THINKING}\|?[>▷]",
    r"(?-i:\[/THINK\])|<channel\|>|<\|inner_suffix\|>|<\|(?:start_response|begin_of_solution)\|>",
    r"<\|channel\|>final\b(?:[^{[]*<\|message\|>)?|assistantfinal",
    r"\[begin final response\]|^here is my response:",
)
_STARTS = (
    rf"[<◁]\|?(?:start_|begin_(?:of_)?)?{_THINKING}\b[^<>◁▷]*[>▷]?",
    r"(?-i:\[THINK\])|(?:<\|start\|>assistant)?<\|channel\|?>\s*(?:analysis|thought)",
    r"(?-i:\Aanalysis(?=[A-Z]))|<\|inner_prefix\|>",
    r"^here (?:is|are) my (?:thought process|reasoning steps):",
)
_MARK = re.compile(f"(?P<end>{'|'.join(_ENDS)})|{'|'.join(_STARTS)}", re.IGNORECASE | re.MULTILINE)
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]m|i am) (?:very |so )?sorry\b|sorry,|i apologi[sz]e|as an ai\b|"
    r"i (?:can(?:no|['’])t|can not|am (?:unable|not able) to|won['’]t) "
    r"(?:help|assist|provide|create|generate|fulfill?|do|comply|answer|write))",
    re.IGNORECASE,
)
# Why a message ended, in the words of OpenAI, Gemini and Zhipu
_FILTERED = re.compile("filter|safety|recitation|blocklist|prohibited|spii|sensitive|refus")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # fields of a message
_BRACKET = re.compile(r"[\[{]")
_OBJECT = re.compile(r"\s*(?:```(?:json)?\s*)?\{.*\}\s*(?:```\s*)?", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?P<end>"?)|[\[\]{},]', re.DOTALL)  # a text, or what joins
_BETWEEN = re.compile(r"(?:[\W\d_]|json[l5]?|item)*", re.IGNORECASE)  # of elements of one list
_STARTS_TRIED = 20  # text that only looks like JSON must not cost minutes
_DEEPEST = 64
_LONGEST = 200_000  # characters that are repaired
_LEAST = 10  # characters of a summary or profile
_DECODER = json.JSONDecoder(strict=False, parse_constant=lambda name: None)
# Type of pydantic's error -> fault
_FAULTS = {
    "too_short": "too few", "text_too_short": "too short", "refusal": "refusal",
}  # fmt: skip


class Said(NamedTuple):
    """A model's message."""

    text: str  # Without thoughts
    thought: bool = False  # It wrote thoughts
    refusal: str = ""  # Its reason not to answer
    finish: str = ""  # Why it ended: stop, length, content_filter, ...


class Mismatch(Exception):
    """An answer that is not what was asked for.

    The message says where and why, for the model and for the user; ``fault`` names it in counts.
    """

    def __init__(self, reason: str, fault: str = "unreadable") -> None:
        super().__init__(reason)
        self.fault = fault


class Reply(BaseModel, coerce_numbers_to_str=True, str_strip_whitespace=True):
    """Base of the JSON objects that prompts ask for; undeclared fields are dropped."""

    elements: ClassVar[str] = ""
    """Name of the list that has as many elements as the request asks for, if there is one."""

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """Name fields as declared, whatever their case, and complete a list.

        The list, or its only element, may stand alone, under its singular, or in the arguments of
        a tool's call; its elements may be numbered by names (``item1``, ``item2``).
        """
        if not _names(value, cls.elements):
            value = next((one for one in _within(value, 1) if _names(one, cls.elements)), value)
        if isinstance(value, dict):
            declared = {field.casefold(): field for field in cls.model_fields}
            value = {declared.get(_key(key), key): one for key, one in value.items()}
        name = cls.elements
        if not name or (isinstance(value, dict) and name in value):
            return value

        def bare(one: Any) -> Any:
            keys = {_key(key): key for key in one} if isinstance(one, dict) else {}
            return one[keys[single]] if (single := name.removesuffix("s")) in keys else one

        value = _numbered(value)
        several = isinstance(value, list | tuple)
        return {name: list(map(bare, value)) if several else bare(value)}


def _key(name: Any) -> str:
    return str(name).strip().casefold()


def _names(value: Any, key: str) -> bool:
    """Whether a value is an object with a key, in any case."""
    return isinstance(value, dict) and key in map(_key, value)


def _numbered(value: Any) -> Any:
    """Objects under the names of an object are a list."""
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        return list(value.values())
    return value


def _from_null(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    return "" if value is None else value


def _from_single(value: Any) -> Any:
    value = _numbered(value)
    if isinstance(value, dict | str):
        return [value] if value else []
    return value


def _readable(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError as error:
        bad = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
        if not isinstance(value, dict | list):
            raise
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        kept = {place: one for place, one in pairs if place not in bad}
        if not kept or len(kept) == len(value):
            raise
        with suppress(ValidationError):
            return read(kept if isinstance(value, dict) else list(kept.values()))
        raise


def _not_too_short(value: str) -> str:
    if _REFUSAL.match(value):
        raise PydanticCustomError("refusal", "must be an answer, not a refusal")
    if len(value) < _LEAST:
        raise PydanticCustomError("text_too_short", "must be whole sentences, not less")
    return value


Words = Annotated[str, BeforeValidator(_from_null)]
"""Text; null is empty, a figure is its text."""

Sentences = Annotated[Words, AfterValidator(_not_too_short)]
"""Text of a least length that is no refusal, such as a summary or a profile."""

Figure = Annotated[float | None, BeforeValidator(read_price)]
"""A number above 0, also as text such as "$1,299.50"; None if it cannot be read."""

Several = BeforeValidator(_from_single)
"""Marks a list of which a single element may be given without the list."""

Readable = WrapValidator(_readable)
"""Marks a list or object of which elements or optional fields that cannot be read are left out."""


def well_formed(text: str) -> str:
    """Replace what no UTF-8 can carry, such as half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


@cache
def schema(reply: type[Reply], n: int = 0) -> dict[str, Any]:
    """JSON schema of a reply, with ``n`` elements, in the subset that servers understand."""
    whole = reply.model_json_schema()
    kept = ("type", "enum", "minItems", "maxItems")

    def plain(part: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in part:
            part = whole["$defs"][part["$ref"].rsplit("/", 1)[1]]
        out = {key: part[key] for key in kept if key in part}
        if "anyOf" in part:
            out["anyOf"] = [plain(one) for one in part["anyOf"]]
        if "items" in part:
            out["items"] = plain(part["items"])
        if "properties" in part:
            fields = {name: plain(one) for name, one in part["properties"].items()}
            out |= {"properties": fields, "required": list(fields), "additionalProperties": False}
        return out

    out = plain(whole)
    if n and reply.elements:
        out["properties"][reply.elements] |= {"minItems": n, "maxItems": n}
    return out


def read_message(payload: Mapping[str, Any]) -> Said:
    """Read the message of a completion, whatever its shape.

    Content may be text, a list of parts, or missing where the answer is the arguments of a tool's
    call. Thoughts stand in a field or parts of their own, or between marks, of which one may be
    missing. An object of JSON that stands alone in their field is an answer: servers put it there
    when the model does not think.
    """
    message, finish = (within(payload, "choices", 0, key) for key in ("message", "finish_reason"))
    content, refusal = _joined_parts(within(message, "content")), within(message, "refusal")
    content = content if content.strip() else _arguments(message)
    thoughts = next(filter(None, (within(message, field) for field in _THOUGHTS)), "")
    if not content and isinstance(thoughts, str) and _OBJECT.fullmatch(thoughts):
        content, thoughts = thoughts, ""
    text = _without_thoughts(content)
    return Said(
        well_formed(text).strip(),
        bool(thoughts) or len(text) < len(content),
        refusal if isinstance(refusal, str) else "",
        _finish(finish),
    )


def _joined_parts(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = (
        part if isinstance(part, str) else within(part, "text")
        for part in (content if isinstance(content, list) else ())
        if (within(part, "type") or "text") in ("text", "output_text")
    )
    return "".join(text for text in texts if isinstance(text, str))


def _arguments(message: Any) -> str:
    """Arguments of the tools that a message calls, one after the other."""
    calls = within(message, "tool_calls") or [{"function": within(message, "function_call")}]
    calls = calls if isinstance(calls, list) else []
    given = [within(call, "function", "arguments") for call in calls]
    return "\n".join(one if isinstance(one, str) else json.dumps(one) for one in given if one)


def _finish(reason: Any) -> str:
    """Why a message ended: "length", "content_filter" or another word of the server."""
    said = str(reason or "").lower()
    if "length" in said or said == "max_tokens":
        return "length"
    return "content_filter" if _FILTERED.search(said) else said


def _without_thoughts(text: str) -> str:
    """Leave out what stands between marks, before a lone end mark, and after one without end."""
    kept, start, is_thought = "", 0, False
    for mark in _MARK.finditer(text):
        if not mark["end"]:
            kept += "" if is_thought else text[start : mark.start()]
        elif not is_thought:
            kept = ""
        start, is_thought = mark.end(), not mark["end"]
    return kept if is_thought else kept + text[start:]


def read_answer(text: str, reply: type[Reply]) -> dict[str, Any]:
    """Read the JSON that a model wrote.

    JSON is found alone, in code fences, and in the middle of a text. A value that names the
    reply's list counts before a list, and that before a lone element; of equal ones the last that
    needs no repair: drafts come before the answer. Elements that follow each other are a list.
    Names of fields count in any case. What is inside an object of other names counts if nothing
    else can be read. Commas before a closing bracket and line breaks within texts are accepted,
    then whatever ``json_repair`` can read, such as single quotes and comments. Of JSON that breaks
    off, the unfinished element is dropped.

    Returns
    -------
    dict
        The fields of the reply.

    Raises
    ------
    Mismatch
        If there is none.
    """
    name, found, reason, fault = reply.elements, None, "", ""
    standing = (-1, False)  # of what is found
    wrapped: list[Any] = []
    for value, is_sound in _values(text):
        is_whole = not name or _names(value, name)
        now = (2 if is_whole else int(isinstance(value, list)), is_sound)
        if now < standing or (now == standing and not is_sound):
            continue
        try:
            found, standing = reply.model_validate(value).model_dump(), now
        except ValidationError as error:
            wrapped += _within(value)
            if not reason:
                reason, fault = _sentence(error)
    for value in wrapped if found is None else []:
        with suppress(ValidationError):
            found = reply.model_validate(value).model_dump()
    if found is None and not reason and _REFUSAL.match(text):
        raise Mismatch(f"the model refused: {' '.join(text.split())[:100]}", "refusal")
    if found is None:
        raise Mismatch(reason or "there is no JSON in the answer", fault or "unreadable")
    return found


def _within(value: Any, depth: int = 2) -> Iterator[Any]:
    """Lists and objects inside an object."""
    inner = value.values() if depth and isinstance(value, dict) else ()
    for one in inner:
        if isinstance(one, dict | list):
            yield one
            yield from _within(one, depth - 1)


def _sentence(error: ValidationError) -> tuple[str, str]:
    """Say what is wrong with a value, and name the fault."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    fault = _FAULTS.get(problem["type"], "unreadable")
    place = "".join(f"[{part}]" if isinstance(part, int) else f" {part}" for part in problem["loc"])
    if problem["type"] == "missing":
        return f"the answer lacks{place}", fault
    said = problem["msg"].removeprefix("Value error, ")
    return f"in the answer{place or ' itself'}: {said[0].lower()}{said[1:]}", fault


def _values(text: str) -> Iterator[tuple[Any, bool]]:
    """Values the text may hold, and whether they are sound; objects in a row as a tuple, too."""
    start = end = n_broken = 0
    rows: list[list[Any]] = [[]]
    while n_broken < _STARTS_TRIED and (found := _BRACKET.search(text, start)):
        start = found.start()
        try:
            value, stop = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            for candidate in _completed(text[start:]):
                with suppress(ValueError, RecursionError):
                    yield _DECODER.decode(candidate), False
            n_broken, start = n_broken + 1, start + 1
            continue
        yield value, True
        if not (isinstance(value, dict) and _BETWEEN.fullmatch(text, end, start)):
            rows.append([])
        rows[-1].append(value)
        start = end = stop
    yield from ((tuple(row), True) for row in sorted(rows, key=len) if len(row) > 1)
    if n_broken:
        yield from ((value, False) for value in _repaired(text))


def _repaired(text: str) -> list[Any]:
    """What ``json_repair`` makes of a text with JSON that is broken: values, the whole first."""
    first, last = _BRACKET.search(text), max(text.rfind("}"), text.rfind("]"))
    if not first or not first.start() < last < _LONGEST:
        return []
    with suppress(Exception):  # of any kind: the text is a model's
        value = json_repair.loads(text[first.start() : last + 1])
        return [value, *value] if isinstance(value, list) else [value]
    return []


def _completed(text: str) -> list[str]:
    """Close JSON that breaks off: at its end, or before the unfinished element of each bracket."""
    closers: list[str] = []  # of the open brackets
    cuts: list[int] = []  # per open bracket where its unfinished element begins
    in_text = False
    for found in _TOKEN.finditer(text):
        token, in_text = found[0], found["end"] == ""
        if token in ("[", "{"):
            closers.append("]" if token == "[" else "}")
            cuts.append(found.end())
        elif token == ",":
            cuts[-1] = found.start()
        elif token in ("]", "}"):
            cuts.pop()
            if token != closers.pop() or not closers:
                return []  # it does not break off, but is no JSON
        if len(closers) > _DEEPEST:
            break
    ends = "".join(reversed(closers))
    # The outermost first: no half element is kept.
    parts = [text[:place] + ends[len(ends) - depth :] for depth, place in enumerate(cuts, start=1)]
    is_after_value = not in_text and text.rstrip()[-1:] in ('"', "}", "]")
    return [text + ends, *parts] if is_after_value else parts
