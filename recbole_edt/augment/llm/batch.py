"""A provider's batch API: half the price, an answer within a day, resumed by the batch's id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from recbole_edt.augment.llm.cache import AnswerCache
from recbole_edt.augment.llm.costs import most_tokens
from recbole_edt.augment.llm.refusals import server_words
from recbole_edt.augment.llm.settings import ChatEndpoint, LLMSettings
from recbole_edt.augment.llm.transport import CallFailed, EndpointError, Run
from recbole_edt.errors import ConfigError

_PATH: Final = "/v1/chat/completions"
_MOST_REQUESTS, _MOST_BYTES = 50_000, 100_000_000  # of a batch; OpenAI's limits and half of it
_ENDED = ("completed", "expired", "cancelled", "failed")


class Batches:
    """Sends the requests of one stage as batches and waits for them.

    A file that was uploaded is in the cache before a batch is made of it, and the batch before it
    is waited for: a run that is killed finds its batches again.

    Parameters
    ----------
    endpoint, settings, run
        As for ``Asking``.
    cache : AnswerCache
        Knows the batches under way.
    stage : str
        The stage that they belong to.
    take : callable
        Takes the answers of one batch, file and responses by key; it forgets the file.
    """

    def __init__(
        self,
        endpoint: ChatEndpoint,
        settings: LLMSettings,
        run: Run,
        cache: AnswerCache,
        stage: str,
        take: Callable[[str, Mapping[bytes, dict[str, Any]]], None],
    ) -> None:
        self._endpoint, self._settings, self._run = endpoint, settings, run
        self._cache, self._stage, self._take = cache, stage, take

    def split(self, bodies: Mapping[bytes, dict[str, Any]]) -> Iterator[dict[bytes, dict]]:
        """Split requests into batches of the size that is allowed."""
        part: dict[bytes, dict] = {}
        size = 0
        for key, body in bodies.items():
            n = len(json.dumps(body).encode())
            if part and (len(part) >= _MOST_REQUESTS or size + n > _MOST_BYTES):
                yield part
                part, size = {}, 0
            part[key] = body
            size += n
        if part:
            yield part

    async def resume(self) -> None:
        """Wait for the batches that an earlier run has sent."""
        for file, batch in self._cache.batches(self._endpoint.address, self._stage).items():
            await self._finish(file, batch or await self._made_of(file))

    async def send(self, bodies: Mapping[bytes, dict[str, Any]]) -> None:
        """Send one batch and wait for its answers.

        Raises
        ------
        ConfigError
            If the endpoint has no batch API.
        EndpointError
            If the provider refuses the batch, with its words.
        """
        lines = (
            {"custom_id": key.hex(), "method": "POST", "url": _PATH, "body": body}
            for key, body in bodies.items()
        )
        content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        client, prices = self._run.client, self._endpoint.prices
        most = prices.dollars(
            sum(most_tokens(json.dumps(body)) for body in bodies.values()),
            completion=len(bodies) * self._endpoint.max_tokens,
        )
        async with self._run.reserve(most * prices.batch):
            try:
                file = await self._call(
                    lambda: client.files.create(file=("batch.jsonl", content), purpose="batch")
                )
            except ConfigError as error:
                raise ConfigError(f"no batch API: {error} (or leave out --batch)") from None
            self._keep(file.id, None)
            await self._finish(file.id, await self._create(file.id))

    def _keep(self, file: str, batch: str | None) -> None:
        self._cache.keep_batch(file, self._endpoint.address, self._stage, batch)

    async def _create(self, file: str) -> str:
        create = self._run.client.batches.create
        batch = await self._call(
            lambda: create(input_file_id=file, endpoint=_PATH, completion_window="24h")
        )
        self._keep(file, batch.id)
        return batch.id

    async def _made_of(self, file: str) -> str:
        """Find the batch of a file if it was made before a run was killed; else make it."""
        listed = await self._call(lambda: self._run.client.batches.list(limit=100))
        found = (batch.id for batch in listed.data if batch.input_file_id == file)
        return next(found, None) or await self._create(file)

    async def _finish(self, file: str, name: str) -> None:
        client = self._run.client
        while (
            batch := await self._call(lambda: client.batches.retrieve(name))
        ).status not in _ENDED:
            await asyncio.sleep(self._settings.poll_s)
        found: dict[bytes, dict[str, Any]] = {}
        if batch.output_file_id:
            output = batch.output_file_id
            text = (await self._call(lambda: client.files.content(output))).text
            for line in filter(None, map(_loaded, text.splitlines())):
                response = line.get("response") or {}
                if response.get("status_code") == 200 and isinstance(response.get("body"), dict):
                    found[bytes.fromhex(line["custom_id"])] = response["body"]
        self._take(file, found)
        if batch.status == "failed" and not found:
            errors = batch.model_dump().get("errors") or {}
            said = server_words(errors.get("data")) or "nothing is said"
            raise EndpointError(f"{self._endpoint.place} refuses the batch: {said}")

    async def _call(self, once: Callable[[], Any]) -> Any:
        try:
            return await self._run.repeat(once)
        except CallFailed as failure:
            raise EndpointError(
                f"the batch API of {self._endpoint.place} failed ({failure}): run again, batches "
                "under way are found again"
            ) from None


def _loaded(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
        bytes.fromhex(value["custom_id"])
    except (KeyError, TypeError, ValueError):
        return None
    return value
