"""Texts into vectors: batches that an endpoint takes, and texts as long as it takes."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_edt.augment.llm.chat import content_key
from recbole_edt.augment.llm.costs import FAULT, Usage, most_tokens
from recbole_edt.augment.llm.dialect import Dialect
from recbole_edt.augment.llm.reading import well_formed
from recbole_edt.augment.llm.refusals import NO_ANSWER, Refusal, stated_excess, stated_limit
from recbole_edt.augment.llm.settings import EmbeddingEndpoint
from recbole_edt.augment.llm.transport import CallFailed, EndpointError, Run
from recbole_edt.io.files import LARGEST

_SHORTEST = 16  # characters that every model takes


@dataclass(frozen=True)
class Embedding:
    """Embeds the texts of one stage."""

    endpoint: EmbeddingEndpoint
    run: Run  # Makes the calls
    keep: Callable[..., None]  # Stores the counts of the stage, and vectors by key
    texts: Mapping[bytes, str]  # By key
    found: MutableMapping[bytes, np.ndarray]  # Receives vectors
    lost: MutableMapping[bytes, str]  # Receives why a text has none
    cut: MutableMapping[bytes, str]  # Receives the beginning of a text that was too long
    size: int | None  # Of the vectors, if it is known

    def batches(self, missing: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Split texts into batches of the size that the endpoint takes when one is due."""
        rest = deque(missing)
        while rest:
            most = min(self.run.dialect.batch_size or len(rest), self.endpoint.batch_size)
            yield [rest.popleft() for _ in range(min(most, len(rest)))]

    async def embed(self, batch: list[bytes]) -> CallFailed | None:
        """Embed a batch; one that fails is split, a text that is too long is cut.

        Returns
        -------
        CallFailed or None
            Why, if not one text has a vector.
        """
        try:
            await self._call(batch)
        except CallFailed as failure:
            return await (self._split if len(batch) > 1 else self._shorten)(batch, failure)
        return None

    async def _split(self, batch: list[bytes], failure: CallFailed) -> CallFailed | None:
        """Try parts of the size that the refusal names, or halves; remember what is taken."""
        dialect, rest = self.run.dialect, deque(batch)
        n = stated_limit(failure.refusal.said, len(batch)) or -(-len(batch) // 2)
        failures: list[CallFailed | None] = []
        size = 0
        while rest:
            size = min(n, dialect.batch_size or n)
            failures.append(await self.embed([rest.popleft() for _ in range(min(size, len(rest)))]))
        if failure.is_final and not any(key in self.cut or key in self.lost for key in batch):
            dialect.batch_size = min(dialect.batch_size or size, size)
        return failures[-1] if all(failures) else None

    async def _shorten(self, batch: list[bytes], failure: CallFailed) -> CallFailed | None:
        """Cut a text that is too long; give up any other."""
        (key,) = batch
        text = self.cut.get(key, self.texts[key])
        if failure.refusal.is_too_large and len(text) > _SHORTEST:
            shorter = int(len(text) * stated_excess(failure.refusal.said))
            self.cut[key] = text[: max(shorter, _SHORTEST)]
            return await self.embed(batch)
        self.cut.pop(key, None)
        self.lost[key] = str(failure)
        self.run.counts[FAULT + failure.kind] += 1
        return failure

    async def _call(self, batch: list[bytes]) -> None:
        asked = [self.cut.get(key, self.texts[key]) for key in batch]
        run, prices = self.run, self.endpoint.prices

        def read(payload: dict[str, Any]) -> None:
            run.pay(Usage.reported(payload, prices, "".join(asked), ""))
            size = next(map(len, self.found.values()), self.size)
            try:
                vectors = dict(zip(batch, read_vectors(payload, len(batch), size), strict=True))
            except Refusal:
                self.keep()
                raise
            self.keep(vectors=vectors)
            self.found.update(vectors)
            run.succeed()

        most = prices.dollars(sum(map(most_tokens, asked)))
        await run.call(
            "/embeddings", lambda: embedding_body(asked, self.endpoint, run.dialect), most, read
        )


def embedding_body(
    texts: Sequence[str], endpoint: EmbeddingEndpoint, dialect: Dialect
) -> dict[str, Any]:
    """Request to embed a batch."""
    body: dict[str, Any] = {"model": dialect.model, "input": [well_formed(text) for text in texts]}
    if dialect.encoding_format:  # base64 is exact, and a quarter of the size of figures
        body["encoding_format"] = dialect.encoding_format
    if endpoint.dimensions is not None:
        body["dimensions"] = endpoint.dimensions
    return {**body, **endpoint.extra}


def text_key(text: str, endpoint: EmbeddingEndpoint, dialect: Dialect) -> bytes:
    """Content key of one text to embed, whatever its batch."""
    asked = [well_formed(text), endpoint.dimensions, endpoint.extra]
    return content_key(endpoint, dialect, asked)


def read_vectors(payload: dict[str, Any], n: int, size: int | None) -> np.ndarray:
    """Read the vectors of a response, in the order of its texts: float32 [n, d].

    Their order is that of their ``index``; where all have the same one, that in which they stand.
    """
    try:
        entries = list(payload["data"])
        places = [int(entry.get("index") or 0) for entry in entries]
        if len(set(places)) > 1:
            numbered = dict(zip(places, entries, strict=True))
            entries = [numbered[place] for place in sorted(numbered)]
        rows = np.stack([_vector(entry["embedding"]) for entry in entries])  # [n, d]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise Refusal("the response does not hold one vector for each text", NO_ANSWER) from error
    if len(rows) != n or not rows.size:
        raise Refusal("the response does not hold one vector for each text", NO_ANSWER)
    if size is not None and rows.shape[1] != size:
        raise Refusal(f"the vectors have {rows.shape[1]} dimensions, not {size}", NO_ANSWER)
    if not rows.any(axis=1).all():  # which stands for a text without a vector
        raise Refusal("a vector is zero everywhere", NO_ANSWER)
    if not (np.abs(rows) <= LARGEST).all():
        raise Refusal(f"the vectors hold values that are not numbers up to {LARGEST:,}", NO_ANSWER)
    return rows


def _vector(entry: Any) -> np.ndarray:
    if isinstance(entry, str):
        return np.frombuffer(base64.b64decode(entry, validate=True), dtype="<f4")
    vector = np.asarray(entry, dtype=np.float32)
    if vector.ndim > 1 and len(vector) > 1:
        raise EndpointError(
            "the embedding server gives a vector for each token of a text: start it with pooling, "
            "such as --pooling mean of llama.cpp"
        )
    return vector.reshape(-1)
