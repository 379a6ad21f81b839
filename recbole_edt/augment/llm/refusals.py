"""What servers say when they refuse, in whatever shape they say it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from time import time
from typing import Any

_KEYS = (
    "message", "msg", "error", "detail", "details", "errors", "error_description", "error_msg",
    "status_msg", "fault", "faultstring", "reason", "title", "base_resp",
)  # fmt: skip
_HIDDEN = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_TOO_LARGE = re.compile(
    r"context|batch.?size|too (?:large|long|many|big)|(?:larger|longer|greater|more) than|exceed|"
    r"max(?:imum|_)?\b.{0,40}\b(?:length|tokens|size|batch|inputs)|at most \d|tokens? limit|"
    r"must (?:be|have) (?:<=|less|at most)|range of input length",
    re.IGNORECASE,
)
# A server's 5xx is a refusal only if it is plainly about sizes: others pass with a retry
_SURELY_TOO_LARGE = re.compile(
    r"context (?:size|length|window)|too (?:large|long)|batch.?size", re.I
)
_UNPAID = re.compile(
    r"insufficient[_ ](?:quota|balance|credit|funds)|credit balance|all available credits|"
    r"budget has been exceeded|exceeded ?budget|over budget|arrearage",
    re.I,
)
FORM = re.compile(r"response_format|schema|grammar", re.I)
"""Of a refusal that is about the form of the answer."""
# A span of time, such as 1m26.4s, 120ms or 2 minutes
_PART = r"(\d+(?:\.\d+)?) ?(ms|mil|[smh])[a-z]*"
_SPAN = re.compile(rf"(?:{_PART},? ?)+", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "mil": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_WAIT = re.compile(
    r'(?:retryDelay"\s*:\s*"|(?:retry|try again) (?:in|after) )(?=\d)', re.IGNORECASE
)
_RESET = re.compile(r'x-ratelimit-reset"\s*:\s*"?(\d{13})\b', re.IGNORECASE)
NO_ANSWER = 200
"""Status of a response that was to be an answer and holds nothing of use."""
_PASSING = (408, 409, 424, 425, 429, 498)  # 498: Groq has no capacity


class Refusal(Exception):
    """One failed attempt at a call, and what the server said."""

    def __init__(
        self, said: str, status: int | None = None, code: str = "", retry_after: str = ""
    ) -> None:
        super().__init__(said)
        self.said, self.status, self.code, self.retry_after = said, status, code, retry_after

    @property
    def is_passing(self) -> bool:
        """Whether the same request may be answered later."""
        if self.code == "json_validate_failed":  # Groq: the model wrote no JSON this time
            return True
        return self.status in (None, NO_ANSWER, *_PASSING) or self.status >= 500

    @property
    def is_unpaid(self) -> bool:
        """Whether the account has no credit, or a gateway's budget is used up."""
        return self.status == 402 or bool(_UNPAID.search(f"{self.code} {self.said}"))

    @property
    def is_too_large(self) -> bool:
        """Whether it is about the size of a prompt, a text or a batch."""
        if self.status == 413:
            return True
        if self.status in (None, *_PASSING) or FORM.search(self.said):
            return False
        pattern = _SURELY_TOO_LARGE if self.status >= 500 else _TOO_LARGE
        return bool(pattern.search(self.said))


def server_words(body: Any) -> str:
    """Find the sentence in the body of an error: JSON of any shape, HTML or plain text."""
    if isinstance(body, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(body)
            if isinstance(value, Mapping | list):
                return server_words(value)
        return " ".join(_HIDDEN.sub(" ", body).split())
    if isinstance(body, list):
        return "; ".join(filter(None, map(server_words, body[:3])))
    if not isinstance(body, Mapping):
        return "" if body is None or isinstance(body, bool) else str(body)
    values = {str(key).lower(): value for key, value in body.items()}
    said = next(filter(None, (server_words(values.get(key)) for key in _KEYS)), "")
    if isinstance(values.get("loc"), list):  # FastAPI: the field that is wrong
        said = f"{'.'.join(map(str, values['loc']))}: {said}"
    metadata = values.get("metadata")  # OpenRouter: what the provider behind it said
    raw = server_words(metadata.get("raw")) if isinstance(metadata, Mapping) else ""
    return f"{said}: {raw}" if said and raw else said


def stated_limit(said: str, n: int) -> int | None:
    """Read the last number below ``n`` in a refusal: mostly the largest size that is taken."""
    numbers = [int(word) for word in re.findall(r"(?<![\w.[])\d{1,7}(?![\w])", said)]
    return next((number for number in reversed(numbers) if 0 < number < n), None)


def seconds_of(span: str) -> str:
    """Read a span of time, such as 1m26.4s or 30s, in seconds; a text that is none stays."""
    if not (found := _SPAN.match(span)):
        return span
    parts = re.findall(_PART, found[0].lower())
    return str(round(sum(float(number) * _SECONDS[unit] for number, unit in parts), 3))


def stated_wait(body: str) -> str:
    """Read the seconds to wait from the body of an error, as Gemini, Azure and Groq have them.

    OpenRouter has the instant, in milliseconds.
    """
    if found := _WAIT.search(body):
        return seconds_of(body[found.end() : found.end() + 40])
    if found := _RESET.search(body):
        return str(max(round(int(found[1]) / 1000 - time(), 3), 0.0))
    return ""


def stated_excess(said: str) -> float:
    """Read by what factor a text is too long, from "612 tokens ... 512"; 0.8 if not said."""
    numbers = [int(word) for word in re.findall(r"(?<![\w.])\d{2,7}(?![\w])", said)]
    if len(numbers) >= 2 and max(numbers) < 64 * min(numbers) and max(numbers) > min(numbers):
        return 0.95 * min(numbers) / max(numbers)
    return 0.8
