"""A provider's batch API: half the price, an answer within a day, resumed by the batch's id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from recbole_edt.augment.llm.cache import AnswerCache
from recbole_edt.augment.llm.chat import Asking, ChatRequest
from recbole_edt.augment.llm.costs import FAULT, Usage
from recbole_edt.augment.llm.reading import Mismatch, read_message
from recbole_edt.augment.llm.refusals import server_words
from recbole_edt.augment.llm.transport import CallFailed, EndpointError
from recbole_edt.errors import ConfigError

_PATH: Final = "/v1/chat/completions"
_MOST_REQUESTS, _MOST_BYTES = 50_000, 100_000_000  # of a batch; OpenAI's limits and half of it
_ENDED = ("completed", "expired", "cancelled", "failed")


@dataclass(frozen=True)
class Batches:
    """Sends the questions of one stage as batches and waits for them.

    A file that was uploaded is in the cache before a batch is made of it, and the batch before it
    is waited for: a run that is killed finds its batches again.

    Parameters
    ----------
    cache, stage
        The batches under way, and the stage that they belong to.
    asking : Asking
        Makes the calls, and the bodies of requests; reads answers.
    asked : mapping
        Questions by key.
    texts : mapping
        Receives the answers that can be used.
    poll_s : float
        Seconds between two looks at a batch.
    """

    cache: AnswerCache
    stage: str
    asking: Asking
    asked: Mapping[bytes, ChatRequest]
    texts: MutableMapping[bytes, str]
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
                part, size = [*part, key], size + n
        if part:
            yield part

    def _line(self, key: bytes) -> bytes:
        body = self.asking.body(self.asked[key])
        line = {"custom_id": key.hex(), "method": "POST", "url": _PATH, "body": body}
        return f"{json.dumps(line)}\n".encode()

    async def resume(self) -> None:
        """Wait for the batches that an earlier run has sent."""
        for file, batch in self.cache.batches(self.asking.endpoint.address, self.stage).items():
            await self._finish(file, batch or await self._made_of(file))

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
                file = await self._call(
                    lambda: client.files.create(file=("batch.jsonl", content), purpose="batch")
                )
            except ConfigError as error:
                raise ConfigError(f"no batch API: {error} (or leave out --batch)") from None
            self._keep(file.id, None)
            await self._finish(file.id, await self._create(file.id))

    def _keep(self, file: str, batch: str | None) -> None:
        self.cache.keep_batch(file, self.asking.endpoint.address, self.stage, batch)

    async def _create(self, file: str) -> str:
        create = self.asking.run.client.batches.create
        batch = await self._call(
            lambda: create(input_file_id=file, endpoint=_PATH, completion_window="24h")
        )
        self._keep(file, batch.id)
        return batch.id

    async def _made_of(self, file: str) -> str:
        """Find the batch of a file if it was made before a run was killed; else make it."""
        listed = await self._call(lambda: self.asking.run.client.batches.list(limit=100))
        found = (batch.id for batch in listed.data if batch.input_file_id == file)
        return next(found, None) or await self._create(file)

    async def _finish(self, file: str, name: str) -> None:
        client = self.asking.run.client
        while (
            batch := await self._call(lambda: client.batches.retrieve(name))
        ).status not in _ENDED:
            await asyncio.sleep(self.poll_s)
        found: dict[bytes, dict[str, Any]] = {}
        if batch.output_file_id:
            output = batch.output_file_id
            text = (await self._call(lambda: client.files.content(output))).text
            for line in filter(None, map(_loaded, text.split("\n"))):
                response = line.get("response") or {}
                if response.get("status_code") == 200 and isinstance(response.get("body"), dict):
                    found[bytes.fromhex(line["custom_id"])] = response["body"]
        self._take(file, found)
        if batch.status == "failed" and not found:
            errors = batch.model_dump().get("errors") or {}
            said = server_words(errors.get("data")) or "nothing is said"
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

    async def _call(self, once: Callable[[], Any]) -> Any:
        try:
            return await self.asking.run.repeat(once)
        except CallFailed as failure:
            raise EndpointError(
                f"the batch API of {self.asking.endpoint.place} failed ({failure}): run again, "
                "batches under way are found again"
            ) from None


def _loaded(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
        bytes.fromhex(value["custom_id"])
    except (KeyError, TypeError, ValueError):
        return None
    return value
