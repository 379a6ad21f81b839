"""Responses of servers as JSON: at once or streamed, with an answer or an error in HTTP 200."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from recbole_edt.augment.llm.refusals import NO_ANSWER, Refusal, server_words


def within(value: Any, *path: str | int) -> Any:
    """Follow a path into JSON; None if it leads nowhere."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def read_payload(text: str) -> dict[str, Any]:
    """Read a response: JSON, or the events of a stream.

    Raises
    ------
    Refusal
        If it is neither.
    """
    text = text.lstrip("\ufeff \r\n")
    if re.match(r"(data|event|id|retry)?:", text):
        return _joined(text)
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        said = server_words(text)[:100]
        raise Refusal(f"the response is not JSON{said and ': '}{said}", NO_ANSWER) from None
    if not isinstance(payload, dict):
        raise Refusal("the response is no JSON object", NO_ANSWER)
    return payload


def _joined(text: str) -> dict[str, Any]:
    """Join the events of a streamed completion to one that came at once."""
    message: dict[str, str] = {}
    choice: dict[str, Any] = {"message": message}
    out: dict[str, Any] = {"choices": [choice]}
    for line in text.split("\n"):
        said = line.removeprefix("data:").strip()
        if not line.startswith("data:") or said == "[DONE]":
            continue
        event = read_payload(said)
        if event.get("error"):
            return event
        out |= {key: event[key] for key in ("usage", "model") if event.get(key)}
        for key, part in (within(event, "choices", 0, "delta") or {}).items():
            if isinstance(part, str):
                message[key] = message.get(key, "") + part
        if finish := within(event, "choices", 0, "finish_reason"):
            choice["finish_reason"] = finish
    return out


def refusal_within(payload: Mapping[str, Any]) -> Refusal | None:
    """Read an error that came with HTTP 200, in place of an answer or within it."""
    if isinstance(choice := within(payload, "choices", 0), Mapping):
        payload = {"error": choice.get("error")}
    if payload.get("data") or not (said := server_words(payload)):
        return None
    code = str(within(payload, "error", "code") or payload.get("code"))
    is_status = code.isdigit() and 400 <= int(code) < 600
    return Refusal(said, int(code) if is_status else NO_ANSWER, code)
