"""A provider's batch API: half the price, an answer within a day, resumed by the batch's id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Final, TypeVar

from recbole_edt.augment.llm.cache import AnswerCache
from recbole_edt.augment.llm.chat import Asking, ChatRequest
from recbole_edt.augment.llm.costs import FAULT, Usage
from recbole_edt.augment.llm.dialect import read_list
from recbole_edt.augment.llm.payload import read_payload, within
from recbole_edt.augment.llm.reading import Mismatch, read_message
from recbole_edt.augment.llm.refusals import Refusal, server_words
from recbole_edt.augment.llm.transport import CallFailed, EndpointError, UnservedError
from recbole_edt.errors import ConfigError

T = TypeVar("T")

_PATH: Final = "/v1/chat/completions"
_MOST_REQUESTS, _MOST_BYTES = 50_000, 100_000_000  # of a batch; OpenAI's limits and half of it
_ENDED = ("completed", "expired", "cancelled", "failed")


@dataclass(frozen=True)
class Batches:
    """Sends the questions of one stage as batches and waits for them.

    A file that was uploaded is in the cache before a batch is made of it, and the batch before it
    is waited for: a run that is killed finds its batches again.
    """

    cache: AnswerCache  # holds the batches under way
    stage: str
    asking: Asking  # makes calls and the bodies of requests; reads answers
    asked: Mapping[bytes, ChatRequest]
    texts: MutableMapping[bytes, str]  # receives the answers that can be used
    poll_s: float

    def jobs(self, missing: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Give the first question by itself, then the others in batches of the allowed size."""
        yield list(missing[:1])
        part: list[bytes] = []
        size = 0
        for key in missing[1:]:
            n = len(self._line(key))
            if part and (len(part) >= _MOST_REQUESTS or size + n > _MOST_BYTES):
                yield part
                part, size = [], 0
            if key not in self.texts:
                part.append(key)
                size += n
        if part:
            yield part

    def _line(self, key: bytes) -> bytes:
        request = self.asked[key]
        body = self.asking.body(request.messages, request.reply, request.n)
        line = {"custom_id": key.hex(), "method": "POST", "url": _PATH, "body": body}
        return f"{json.dumps(line)}\n".encode()

    async def resume(self) -> None:
        """Wait for the batches that an earlier run has sent; those that are gone are forgotten.

        Raises
        ------
        EndpointError
            If the provider refuses a batch, or its batch API is away.
        """
        endpoint = self.asking.endpoint
        for file, batch in self.cache.batches(endpoint.address, self.stage).items():
            try:
                await self._finish(file, batch or await self._made_of(file))
            except UnservedError as error:
                await self._listed()  # a gateway in trouble knows no path at all for a moment
                getLogger(__name__).warning("a batch is asked anew, for it is gone: %s", error)
                self.asking.keep(file=file)

    async def send(self, keys: Sequence[bytes]) -> None:
        """Send one batch and wait for its answers.

        Raises
        ------
        ConfigError
            If the endpoint has no batch API.
        EndpointError
            If the provider refuses the batch, with its words.
        """
        client, prices = self.asking.run.client, self.asking.endpoint.prices
        content = b"".join(map(self._line, keys))
        tokens = len(content), len(keys) * self.asking.endpoint.max_tokens  # at most
        most = prices.dollars(tokens[0], completion=tokens[1]) * prices.batch
        async with self.asking.run.reserve(most):
            try:
                upload = client.files.with_raw_response.create
                made = await self._call(
                    lambda: upload(file=("batch.jsonl", content), purpose="batch"), _named
                )
            except ConfigError as error:
                raise ConfigError(f"no batch API: {error} (or leave out --batch)") from None
            file = made["id"]
            self._keep(file, None)
            await self._finish(file, await self._create(file))

    def _keep(self, file: str, batch: str | None) -> None:
        self.cache.keep_batch(file, self.asking.endpoint.address, self.stage, batch)

    async def _create(self, file: str) -> str:
        create = self.asking.run.client.batches.with_raw_response.create
        batch = await self._call(
            lambda: create(input_file_id=file, endpoint=_PATH, completion_window="24h"), _named
        )
        self._keep(file, batch["id"])
        return batch["id"]

    async def _made_of(self, file: str) -> str:
        """Find the batch of a file if it was made before a run was killed; else make it."""
        for batch in await self._listed():
            if batch.get("input_file_id") == file:
                return batch["id"]
        return await self._create(file)

    async def _listed(self) -> list[dict[str, Any]]:
        batches = self.asking.run.client.batches.with_raw_response
        try:
            return read_list(await self._call(lambda: batches.list(limit=100), read_payload))
        except UnservedError as error:
            raise EndpointError(
                f"batches are under way, and {error}: run again later, or without --batch"
            ) from None

    async def _finish(self, file: str, name: str) -> None:
        client = self.asking.run.client
        retrieve = client.batches.with_raw_response.retrieve
        while (batch := await self._call(lambda: retrieve(name), _named))["status"] not in _ENDED:
            await asyncio.sleep(self.poll_s)
        content = ""
        if output := batch.get("output_file_id"):
            content = await self._call(lambda: client.files.content(output), str)
        found = dict(filter(None, map(_answered, content.split("\n"))))
        self._take(file, found)
        if batch["status"] == "failed" and not found:
            said = server_words(within(batch, "errors", "data")) or "nothing is said"
            raise EndpointError(f"{self.asking.endpoint.place} refuses the batch: {said}")

    def _take(self, file: str, responses: Mapping[bytes, dict[str, Any]]) -> None:
        """Keep the answers that can be used, and forget the batch."""
        run, prices, found = self.asking.run, self.asking.endpoint.prices, {}
        for key, payload in responses.items():
            said = read_message(payload)
            usage = Usage.reported(payload, prices, "", said.text)
            run.pay(usage._replace(dollars=usage.dollars * prices.batch))
            try:
                if key in self.asked:
                    self.asking.check(said, self.asked[key], self.asked[key].n)
                found[key] = run.redact(said.text)
            except Mismatch as mismatch:
                run.counts[FAULT + mismatch.fault] += 1
        self.texts.update(found)
        self.asking.keep(answers=found, file=file)

    async def _call(self, make: Callable[[], Awaitable[Any]], read: Callable[[str], T]) -> T:
        """Make a call, and read the text of its response."""

        async def once() -> T:
            return read((await make()).text)

        try:
            return await self.asking.run.repeat(once)
        except CallFailed as failure:
            raise EndpointError(
                f"the batch API of {self.asking.endpoint.place} failed ({failure}): run again, "
                "batches under way are found again"
            ) from None


def _named(text: str) -> dict[str, Any]:
    """Read a file or a batch, which has an id; LM Studio answers 200 on paths that it lacks."""
    payload = read_payload(text)
    if not payload.get("id"):
        raise Refusal(server_words(payload) or "the response has no id", 404)
    return payload


def _answered(line: str) -> tuple[bytes, dict[str, Any]] | None:
    """Read key and response of a line; None if the request failed or the line is damaged."""
    with suppress(TypeError, ValueError):
        value = json.loads(line)
        key, body = bytes.fromhex(within(value, "custom_id")), within(value, "response", "body")
        if within(value, "response", "status_code") == 200 and isinstance(body, dict):
            return key, body
    return None
