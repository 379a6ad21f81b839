"""Questions to a chat model: what is sent, what is asked again, and what an answer is made of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from recbole_edt.augment.llm.costs import FAULT, Usage, most_tokens
from recbole_edt.augment.llm.dialect import Dialect
from recbole_edt.augment.llm.reading import (
    Mismatch,
    Reply,
    Said,
    read_answer,
    read_message,
    schema,
    well_formed,
)
from recbole_edt.augment.llm.refusals import NO_ANSWER, Refusal
from recbole_edt.augment.llm.settings import ChatEndpoint, Endpoint
from recbole_edt.augment.llm.transport import CallFailed, Run
from recbole_edt.io.files import value_sha256

_AGAINST_THOUGHTS = ": switch the model's thinking off by chat.extra, or raise chat.max_tokens"
_SHOWN = 4000  # characters of a bad answer that the model gets to see again


@dataclass(frozen=True)
class ChatRequest:
    """One question to a chat model whose answer must be JSON."""

    system: str  # The two messages. With JSON mode on, vendors want the word JSON in one of them
    user: str
    reply: type[Reply]  # What the answer must be
    # A made-up answer of the usual length, for estimates; it is never sent
    likely: Mapping[str, Any] = field(default_factory=dict)
    n: int = 0  # Elements that the reply's list must have; 0 if any number will do
    # Names what is wrong with an element, which is then left out; empty if nothing is
    fault_of: Callable[[Mapping[str, Any]], str] | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages of the question."""
        return _messages(system=self.system, user=self.user)

    def key(self, endpoint: ChatEndpoint, dialect: Dialect) -> bytes:
        """Content address of the question."""
        settings = endpoint.model_dump(include={"temperature", "max_tokens", "json_mode", "extra"})
        form = schema(self.reply, self.n)
        return content_key(endpoint, dialect, [self.messages, form, settings])


@dataclass(frozen=True)
class Answer:
    """A value, or one line that says why there is none."""

    value: dict[str, Any] | None = None  # Fields of the request's reply
    error: str | None = None
    cached: bool = False  # The value was in the cache before


class Step(NamedTuple):
    """How far the answer to a question has come."""

    value: dict[str, Any] | None  # So far
    key: bytes | None  # Of the text that is still to be asked for; None when done
    lacks: int = 0  # Elements to ask for; 0 if nothing was asked yet


def progress(request: ChatRequest, key: bytes, texts: Mapping[bytes, str]) -> Step:
    """Put an answer together from the texts there are: the first one, and further elements."""
    try:
        value = usable(request, read_answer(texts[key], request.reply))
    except (KeyError, Mismatch):  # stored when replies were read in another way
        return Step(None, key)
    name, n = request.reply.elements, request.n
    if not n or len(value[name]) >= n:
        return Step(value, None)
    more_key = bytes.fromhex(value_sha256([key.hex(), value[name]]))
    if more_key not in texts:
        return Step(value, more_key, n - len(value[name]))
    more = read_answer(texts[more_key], request.reply)[name]
    return Step(usable(request, value | {name: [*value[name], *more]}), None)


def usable(
    request: ChatRequest, value: dict[str, Any], faults: Counter[str] | None = None
) -> dict[str, Any]:
    """Leave out elements with a fault or that repeat each other, and those beyond ``n``.

    Raises
    ------
    Mismatch
        If none is left.
    """
    name = request.reply.elements
    if not name or request.fault_of is None:
        return value | ({name: value[name][: request.n]} if name and request.n else {})
    kept: list[Any] = []
    found = Counter[str]()
    for element in value[name]:
        if fault := request.fault_of(element) or ("copy" if element in kept else ""):
            found[FAULT + fault] += 1
        else:
            kept.append(element)
    if faults is not None:
        faults.update(found)
    if not kept:
        kinds = ", ".join(sorted(fault.removeprefix(FAULT) for fault in found))
        raise Mismatch(f"not one of the {name} can be used ({kinds})", f"no usable {name}")
    return value | {name: kept[: request.n or None]}


@dataclass(frozen=True)
class Asking:
    """Asks the questions of one stage."""

    endpoint: ChatEndpoint
    asks: int  # Fresh starts of a question
    run: Run  # Makes the calls
    keep: Callable[..., None]  # Stores the counts of the stage, and answers by key

    async def answer(
        self, key: bytes, request: ChatRequest, texts: MutableMapping[bytes, str]
    ) -> Answer:
        """Ask what is not yet in ``texts``; a question with too few elements is asked for more.

        Raises
        ------
        CallFailed
            If nothing of use was answered.
        """
        while (step := progress(request, key, texts)).key:
            try:
                texts[step.key] = await self._ask(step, request)
            except CallFailed as failure:
                self.run.counts[FAULT + failure.kind] += 1
                if step.value is None:
                    raise
                break
            except Mismatch as mismatch:
                if step.value is None:
                    is_thought = mismatch.fault in ("thoughts", "empty")  # some vendors hide them
                    advice = _AGAINST_THOUGHTS if is_thought else ""
                    reason = f"no answer that can be used: {mismatch}{advice}"
                    raise CallFailed(reason, Refusal(reason), is_final=True) from None
                break
        return Answer(step.value)

    async def _ask(self, step: Step, request: ChatRequest) -> str:
        """Ask, and once more with the reason if the answer cannot be used; then from scratch."""
        messages, n = request.messages, request.n
        if step.value is not None:
            messages, n = [*messages, *_more(step, request)], step.lacks
        complaint: list[dict[str, str]] = []
        mismatch = Mismatch("")
        for turn in range(2 * self.asks):
            self.run.counts["reasks"] += turn % 2
            asked = [*messages, *(complaint if turn % 2 else [])]
            said = await self._complete(asked, request.reply, n)
            try:
                self.check(said, request, n, is_first=step.value is None)
            except Mismatch as problem:
                self.run.counts[FAULT + problem.fault] += 1
                self.keep()
                was_cut = said.finish == "length"
                cut = " (cut off at max_tokens)" if was_cut else ""
                mismatch = Mismatch(f"{problem}{cut}", problem.fault)
                shorter = " It was cut off because it was too long: write less." if was_cut else ""
                complaint = _messages(
                    assistant=said.text[:_SHOWN],
                    user=f"This answer cannot be used: {problem}.{shorter} Answer again with the "
                    "whole JSON object in the form asked for, and nothing else.",
                )
            else:
                self.keep(answers={step.key: said.text})
                return said.text
        raise mismatch

    def body(self, messages: list[dict[str, str]], reply: type[Reply], n: int) -> dict[str, Any]:
        """Make the body of a request, as the endpoint wants to be asked now."""
        return chat_body(messages, schema(reply, n), self.endpoint, self.run.dialect)

    def check(self, said: Said, request: ChatRequest, n: int, is_first: bool = True) -> None:
        """Count what is wrong with an answer; raise a ``Mismatch`` if nothing of it can be used."""
        if not said.text:
            if said.refusal or said.finish == "content_filter":
                raise Mismatch(f"the model refused: {said.refusal or 'content_filter'}", "refusal")
            if said.thought:
                raise Mismatch("there are thoughts and no answer", "thoughts")
            raise Mismatch("the model wrote nothing", "empty")
        value, counts = read_answer(said.text, request.reply), self.run.counts
        counts[f"{FAULT}too few"] += bool(n) and len(value[request.reply.elements]) < n
        counts[f"{FAULT}cut off"] += said.finish == "length"
        try:
            usable(request, value, counts)
        except Mismatch:
            if is_first:
                raise

    async def _complete(self, messages: list[dict[str, str]], reply: type[Reply], n: int) -> Said:
        """Make one completion."""
        run, prices = self.run, self.endpoint.prices
        asked = "".join(message["content"] for message in messages)

        def read(payload: dict[str, Any]) -> Said:
            said = read_message(payload)
            run.pay(Usage.reported(payload, prices, asked, said.text))
            is_end = said.finish in ("length", "content_filter")
            if not (said.text or said.thought or said.refusal or is_end):
                self.keep()
                raise Refusal("the response holds no answer", NO_ANSWER)
            return said._replace(text=run.redact(said.text))

        most = prices.dollars(most_tokens(asked), completion=self.endpoint.max_tokens)
        body = partial(self.body, messages, reply, n)
        return await run.call("/chat/completions", body, most, read)


def chat_body(
    messages: list[dict[str, str]],
    form: dict[str, Any] | None,
    endpoint: ChatEndpoint,
    dialect: Dialect,
) -> dict[str, Any]:
    """Request for one completion, of any text if there is no schema."""
    first, *others = messages
    if first["role"] == "system" and not dialect.system:
        told = f"{first['content']}\n\n{others[0]['content']}"
        messages = [{"role": "user", "content": told}, *others[1:]]
    body: dict[str, Any] = {
        "model": dialect.model,
        dialect.max_tokens_key: endpoint.max_tokens,
        **endpoint.extra,
        "messages": messages,
    }
    if dialect.temperature and endpoint.temperature is not None:
        body["temperature"] = endpoint.temperature
    if dialect.stream:
        body["stream"] = True
    if form is not None and dialect.response_format != "text":
        body["response_format"] = {"type": dialect.response_format}
        if dialect.response_format == "json_schema":
            named = {"name": "answer", "strict": True, "schema": form}
            body["response_format"]["json_schema"] = named
    return body


def _more(step: Step, request: ChatRequest) -> list[dict[str, str]]:
    """Show the elements that can be used and ask for the others."""
    name = request.reply.elements
    value = step.value or {}
    return _messages(
        assistant=json.dumps({name: value[name]}, ensure_ascii=False),
        user=f"These {len(value[name])} {name} can be used, {step.lacks} are missing. Write "
        f"exactly {step.lacks} more in the same JSON form. Repeat none of those above, and "
        "nothing that the question shows.",
    )


def _messages(**contents: str) -> list[dict[str, str]]:
    return [{"role": role, "content": well_formed(said)} for role, said in contents.items() if said]


def content_key(endpoint: Endpoint, dialect: Dialect, asked: Sequence[Any]) -> bytes:
    """Content address of what is asked of a model."""
    where = {"base_url": endpoint.base_url.rstrip("/"), "model": dialect.identity}
    return bytes.fromhex(value_sha256({**where, "asked": asked}))
