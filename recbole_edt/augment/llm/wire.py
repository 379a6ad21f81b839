"""The OpenAI API as it goes over the wire: bodies of requests, and what responses hold."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_edt.augment.llm.reply import well_formed
from recbole_edt.augment.llm.requests import ChatRequest
from recbole_edt.augment.llm.settings import ChatEndpoint, EmbeddingEndpoint, Endpoint
from recbole_edt.augment.llm.transport import BadResponse
from recbole_edt.io.files import value_sha256

Messages = list[dict[str, str]]

_SHOWN = 4000
"""Characters of a bad answer that the model gets to see again."""


@dataclass
class Question:
    """A chat request on the wire: its content key, its messages, and its body without them."""

    key: bytes
    request: ChatRequest
    messages: Messages
    body: dict[str, Any]


def question(request: ChatRequest, endpoint: ChatEndpoint) -> Question:
    """Write a request as its endpoint wants it."""
    messages = [
        {"role": role, "content": well_formed(content)}
        for role, content in (("system", request.system), ("user", request.user))
        if content
    ]
    body: dict[str, Any] = {"model": endpoint.model, endpoint.max_tokens_key: endpoint.max_tokens}
    if endpoint.temperature is not None:
        body["temperature"] = endpoint.temperature
    if endpoint.json_mode:
        body["response_format"] = {"type": "json_object"}
    body |= endpoint.extra
    key = _content_key(endpoint, body | {"messages": messages})
    return Question(key, request, messages, body)


def reask(text: str, mismatch: str, cut: bool) -> Messages:
    """Tell the model what was wrong with its answer."""
    shorter = " It was cut off because it was too long: write less." if cut else ""
    return [
        {"role": "assistant", "content": text[:_SHOWN]},
        {
            "role": "user",
            "content": f"This answer cannot be used: {mismatch}.{shorter} "
            "Answer again with the whole JSON object in the form asked for, and nothing else.",
        },
    ]


def written(payload: dict) -> tuple[str, str | None]:
    """Text of a completion, empty where there is none, and why it ended."""
    try:
        choice = payload["choices"][0]
        text = choice["message"]["content"]
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return "", None
    text = text if isinstance(text, str) else ""
    return well_formed(text), finish


def text_key(text: str, endpoint: EmbeddingEndpoint) -> bytes:
    """Content key of one text to embed, whatever batch it goes in."""
    return _content_key(endpoint, embedding_body([text], endpoint))


def _content_key(endpoint: Endpoint, body: dict[str, Any]) -> bytes:
    """Address of what a call asks for."""
    return bytes.fromhex(value_sha256({"base_url": endpoint.base_url.rstrip("/"), "body": body}))


def embedding_body(texts: Sequence[str], endpoint: EmbeddingEndpoint) -> dict[str, Any]:
    """Request to embed a batch."""
    body: dict[str, Any] = {
        "model": endpoint.model,
        "input": [well_formed(text) for text in texts],
        "encoding_format": "base64",  # exact, and a quarter of the size of figures
    }
    if endpoint.dimensions is not None:
        body["dimensions"] = endpoint.dimensions
    return body | endpoint.extra


def read_vectors(payload: dict, n: int, size: int | None) -> np.ndarray:
    """Read the vectors of a response, in the order of its texts: float32 [n, d]."""
    try:
        entries = {
            int(entry.get("index", n)): entry["embedding"]
            for n, entry in enumerate(payload["data"])
        }
        rows = [_vector(entries[index]) for index in range(n)]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BadResponse("the response does not hold one vector for each text") from error
    sizes = {len(row) for row in rows}
    if len(sizes) != 1 or 0 in sizes or len(entries) != n:
        raise BadResponse("the response does not hold one vector for each text")
    if size is not None and sizes != {size}:
        raise BadResponse(f"the vectors have {sizes.pop()} dimensions, not {size}")
    stacked = np.stack(rows)  # [n, d]
    if not np.isfinite(stacked).all():
        raise BadResponse("the vectors hold values that are not numbers")
    return stacked


def _vector(entry: Any) -> np.ndarray:
    if isinstance(entry, str):
        return np.frombuffer(base64.b64decode(entry, validate=True), dtype="<f4")
    return np.asarray(entry, dtype=np.float32).reshape(-1)
