"""A server that speaks the OpenAI chat and embedding API over HTTP, and misbehaves on request.

Good answers depend on nothing but the question (the first system and user message, or the text to
embed), so that two runs can be compared byte for byte. In a process of its own:

    python tests/augment/llm/llm_server.py --latency 0.2

prints its URL.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import math
import random
import re
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

KINDS = (
    "fence", "prose", "trailing_comma", "truncated", "wrong_fields", "plain_text", "no_choices",
    "rate_limit", "server_error", "html", "slow", "cut", "thoughts", "no_opening_tag", "parts",
    "single_quotes", "refusal", "error_within", "too_few",
)  # fmt: skip
MENDED = (
    "good", "fence", "prose", "trailing_comma", "truncated", "no_opening_tag", "parts",
    "single_quotes", "too_few",
)  # fmt: skip
PARTIAL = ("truncated", "too_few")
"""Outcomes that answer a question; the others have to be asked again."""
DIMENSIONS = 64


@dataclass
class Call:
    """A question, or texts to embed, and whether it was answered well."""

    question: str = ""
    answers: bool = False
    texts: Sequence[str] = ()


@dataclass
class BatchDesk:
    """The batch API. A batch is done at its ``polls``-th poll; ``fail`` says which requests fail.

    ``refuse_making`` refuses to make batches with a status; ``rejects`` is why a batch is invalid.
    """

    polls: int = 2
    fail: Callable[[int], bool] = lambda n: False
    refuse_making: int = 0
    rejects: str = ""
    files: dict[str, str] = field(default_factory=dict)
    made: list[dict] = field(default_factory=list)

    def serve(self, method: str, path: str, raw: bytes) -> tuple[int, object]:
        *_, kind, name = path.split("?")[0].split("/")
        if method == "POST" and name == "files":
            part = raw.split(b"filename=", 1)[1].split(b"\r\n\r\n", 1)[1]
            self.files[f"file{len(self.files)}"] = part.split(b"\r\n--")[0].decode()
            return 200, {"id": f"file{len(self.files) - 1}"}
        if name == "content":
            return 200, self.files[kind]
        if method == "POST" and name == "batches":
            if self.refuse_making:
                return self.refuse_making, {"error": {"message": "no batch today"}}
            asked = json.loads(raw)
            self.made.append({"id": f"batch{len(self.made)}", "status": "in_progress", "polls": 0,
                              "input_file_id": asked["input_file_id"]})  # fmt: skip
            return 200, self.made[-1]
        if name == "batches":
            return 200, {"object": "list", "data": self.made}
        if kind != "batches":
            return 404, {"error": {"message": "no such path"}}
        batch = self.made[int(name.removeprefix("batch"))]
        batch["polls"] += 1
        if batch["polls"] == self.polls:
            self.work(batch)
        return 200, batch

    def work(self, batch: dict) -> None:
        if self.rejects:
            batch |= {"status": "failed", "errors": {"data": [{"message": self.rejects}]}}
            return
        out = []
        for n, line in enumerate(self.files[batch["input_file_id"]].splitlines()):
            asked = json.loads(line)
            good = good_answer(asked["body"]["messages"], _digest(line.encode()))
            body = _completion(good, line.encode(), "good")
            response = {"status_code": 500 if self.fail(n) else 200, "body": body}
            out.append(json.dumps({"custom_id": asked["custom_id"], "response": response}))
        self.files[f"{batch['id']}-out"] = "\n".join(out)
        batch |= {"status": "completed", "output_file_id": f"{batch['id']}-out"}


@dataclass
class LLMServer:
    """The server and its moods; all of them can be changed while it runs.

    ``refuse`` is a status and a message with which every call but the first ``refuse_after`` is
    refused; ``model`` is the one that is listed; ``retry_after`` is what 429 asks for, in seconds
    or as a date; ``unreadable`` texts are refused with 400; ``payload`` replaces every response,
    without ``greets`` those to the first questions, too;
    ``chat_as`` and ``embed_as`` make status and body of a response of a request's body (and the
    good answer), or None for a usual one.
    """

    latency_s: float = 0.0
    slow_s: float = 2.0
    retry_after: str = "0.02"
    refuse: tuple[int, str] | None = None
    refuse_after: int = 0
    unreadable: str | None = None
    payload: str | None = None
    greets: bool = True
    chat_as: Callable[[dict, str], tuple[int, object] | None] = lambda body, good: None
    embed_as: Callable[[dict], tuple[int, object] | None] = lambda body: None
    echo_key: bool = False
    model: str = "m"
    size: int = 7  # of the model, as its list says
    share: float = 0.0
    kinds: Sequence[str] = KINDS
    seed: int = 0
    port: int = 0
    batches: BatchDesk | None = None
    log: list[Call] = field(default_factory=list)
    arrived: int = 0

    def __post_init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def misbehave(self, share: float, kinds: Sequence[str] = KINDS, seed: int = 0) -> None:
        """Let this share of all calls fail, in one of these ways each."""
        self.share, self.kinds, self.seed = share, tuple(kinds), seed

    def tally(self) -> dict:
        """Answers per question and per text."""
        answered = [call for call in self.log if call.answers]
        return {
            "questions": Counter(call.question for call in answered if call.question),
            "texts": Counter(text for call in answered for text in call.texts),
        }

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> LLMServer:
        """Serve from a thread."""

        async def listen() -> None:
            self._server = await self._loop.create_server(
                lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024
            )

        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def stop(self) -> None:
        if self._loop.is_closed():
            return

        async def end() -> None:
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # -- answers ------------------------------------------------------------------------------

    def outcome_of(self, body: str, question: str, good: str) -> str:
        """Decide how this call goes; the same calls in the same order go the same way.

        A list that is cut or too short stays so for a question, whichever call asks it: the client
        keeps what is whole, and that must not depend on which of its calls got through.
        """
        lasting = random.Random(f"{self.seed}:{question}")
        if lasting.random() < self.share and (kind := lasting.choice(self.kinds)) in PARTIAL:
            if question and len(json.loads(good).get("items", ())) > 1:
                return kind
        self._seen[body] += 1
        mood = random.Random(f"{self.seed}:{body}:{self._seen[body]}")
        if mood.random() >= self.share:
            return "good"
        kind = mood.choice(self.kinds)
        return {"truncated": "cut_text", "too_few": "good"}.get(kind, kind)


class _Connection(asyncio.Protocol):
    """One kept-alive connection: a request, its response, the next request."""

    def __init__(self, server: LLMServer) -> None:
        self.server = server
        self.buffer = b""
        self.closed = False

    def connection_made(self, transport) -> None:
        self.transport = transport

    def connection_lost(self, exc) -> None:
        self.closed = True

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        method, path, _ = lines[0].split(" ", 2)
        if self.server.batches and ("/files" in path or "/batches" in path):
            status, said = self.server.batches.serve(method, path, rest[:length])
            self.send(status, said if isinstance(said, str) else json.dumps(said))
            return
        self.task = asyncio.ensure_future(self.serve(path, headers, rest[:length]))

    def greet(self, path: str, raw: bytes) -> None:
        """Say which models there are, or answer the tiny request of a client that has come."""
        server = self.server
        if path.endswith("/models"):
            known = {"id": server.model, "created": server.arrived, "meta": {"size": server.size}}
            self.send(200, json.dumps({"data": [known]}))
        elif path.endswith("/embeddings"):
            data = [{"index": 0, "embedding": [1.0] * DIMENSIONS}]
            self.send(200, json.dumps({"data": data, "model": server.model}))
        else:
            self.send(200, json.dumps(_completion("OK", raw, "good") | {"model": server.model}))

    async def serve(self, path: str, headers: dict, raw: bytes) -> None:
        server = self.server
        is_greeting = path.endswith("/models") or b"Reply with OK." in raw
        server.arrived += not is_greeting
        if (
            is_greeting
            and server.greets
            and (server.refuse is None or server.arrived < server.refuse_after)
        ):
            return self.greet(path, raw)
        due = asyncio.get_running_loop().time() + server.latency_s
        if server.refuse is not None and server.arrived + is_greeting > server.refuse_after:
            status, message = server.refuse
            said = f"{message} {headers.get('authorization', '')}"
            self.send(status, _error(said, message))
            server.log.append(Call())
        elif server.payload is not None:
            self.send(200, server.payload)
            server.log.append(Call())
        elif path.endswith("/chat/completions"):
            await self.chat(raw, headers, due)
        elif path.endswith("/embeddings"):
            await self.embed(raw, due)
        else:
            self.send(404, _error("no such path"))

    async def chat(self, raw: bytes, headers: dict, due: float) -> None:
        server, body = self.server, json.loads(raw)
        asked = body["messages"][: 4 if "are missing" in str(body["messages"][3:4]) else 2]
        question = _digest(json.dumps([body["model"], asked]).encode())
        good = good_answer(asked, question)
        if made := server.chat_as(body, good):
            server.log.append(Call(question, made[0] == 200))
            return self.send(made[0], made[1] if isinstance(made[1], str) else json.dumps(made[1]))
        if server.unreadable and server.unreadable in body["messages"][-1]["content"]:
            self.send(400, _error("this cannot be read"))
            server.log.append(Call(question))
            return
        if server.echo_key:
            echo = f"I was sent {headers['authorization']}."
            good = json.dumps({"text": echo, "texts": [echo]})
        outcome = server.outcome_of(_digest(raw), question, good)
        said = json.dumps(_completion(_spoiled(good, outcome), raw, outcome))
        if outcome == "error_within":
            said = _error("the provider is busy")
        delivered = await self.deliver(outcome, said, due)
        server.log.append(Call(question, delivered and outcome in MENDED))

    async def embed(self, raw: bytes, due: float) -> None:
        server, body = self.server, json.loads(raw)
        texts = body["input"]
        if server.unreadable and any(server.unreadable in text for text in texts):
            self.send(400, _error("a text cannot be read"))
            server.log.append(Call())
            return
        if made := server.embed_as(body):
            server.log.append(Call("", made[0] == 200, texts))
            return self.send(made[0], made[1] if isinstance(made[1], str) else json.dumps(made[1]))
        outcome = server.outcome_of(_digest(raw), "", "")
        data = [
            {"index": n, "embedding": _base64(embedding(text, body.get("dimensions", DIMENSIONS)))}
            for n, text in enumerate(texts)
        ]
        if outcome in ("no_choices", "plain_text", "error_within"):
            data = []
        if outcome == "wrong_fields":
            data = data[1:]
        random.Random(len(raw)).shuffle(data)
        payload = {"data": data, "usage": {"prompt_tokens": sum(len(t.split()) for t in texts)}}
        said = json.dumps(payload)
        if outcome == "cut_text":
            said = said[: len(said) // 2]
        delivered = await self.deliver(outcome, said, due)
        server.log.append(Call("", delivered and outcome in MENDED, texts))

    async def deliver(self, outcome: str, said: str, due: float) -> bool:
        """Send a response when it is due, the way this call goes; false if it did not arrive."""
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        if outcome == "rate_limit":
            self.send(429, _error("too fast"), {"retry-after": self.server.retry_after})
        elif outcome == "server_error":
            self.send(random.Random(said).choice((500, 502, 503)), _error("out of order"))
        elif outcome == "html":
            self.send(200, "<html>Please wait.</html>", {"content-type": "text/html"})
        elif outcome == "cut":
            self.send(200, said, cut=True)
        else:
            if outcome == "slow":
                await asyncio.sleep(self.server.slow_s)
            self.send(200, said)
        return not self.closed

    def send(self, status: int, text: str, headers: dict | None = None, cut: bool = False) -> None:
        if self.closed:
            return
        body = text.encode()
        lines = {"content-type": "application/json", "content-length": len(body)} | (headers or {})
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        response = f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body
        self.transport.write(response[: len(response) // 2] if cut else response)
        if cut:
            self.transport.close()


# -- what a good model would say ----------------------------------------------------------------


def good_answer(messages: Sequence[dict], question: str) -> str:
    """JSON for a prompt: items made of words of its samples, or a text about them."""
    prompt = messages[:2][-1]["content"]
    words = _sample_words(prompt)
    chance = random.Random(question)
    if '"items"' not in prompt:
        more = re.search(r"exactly (\d+) more", messages[-1]["content"])
        n = int(more[1]) if more else prompt.count("\nGroup ")
        texts = [
            f"I like {', '.join(chance.choice(words) for _ in range(6))}, and whatever goes with "
            "them." for _ in range(n or 1)
        ]  # fmt: skip
        return json.dumps({"texts": texts} if n else {"text": texts[0]})
    wanted = re.search(r"exactly (\d+) (?:new|more)", messages[-1]["content"])
    n = int(wanted[1]) if wanted else 3
    return json.dumps({"items": [_item(words, chance) for _ in range(n)]})


def _item(words: Sequence[str], chance: random.Random) -> dict:
    some = [chance.choice(words) for _ in range(9)]
    return {
        "title": " ".join(some[:4]).title(),
        "brand": some[4].title(),
        "price": round(chance.uniform(5, 90), 2),
        "categories": [some[5].title(), some[6].title()],
        "description": f"A {some[7]} {some[8]} to go with {some[0]}.",
    }


def _sample_words(prompt: str) -> list[str]:
    """Words of the blocks that follow a line ending in a colon: there the samples are."""
    blocks = re.findall(r":\n((?:[^{\n].*\n?)+)", prompt)
    words = re.findall(r"[^\W\d_]{4,}", " ".join(blocks).lower())
    if len(set(words)) < 4:  # too few to tell one item from another
        words += re.findall(r"[^\W\d_]{4,}", prompt.lower())
    return words or ["thing"]


def embedding(text: str, size: int = DIMENSIONS) -> list[float]:
    """A hashed bag of words of length 1: texts that share words are similar."""
    out = [0.0] * size
    for word in re.findall(r"\w+", text.lower()):
        place = zlib.crc32(word.encode())
        out[place % size] += 1.0 if place & 0x40000000 else -1.0
    norm = math.sqrt(sum(value * value for value in out))
    return [value / norm for value in out] if norm else [1.0, *out[1:]]


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _spoiled(good: str, outcome: str) -> str:
    """Text in place of the good answer."""
    spoiled = {
        "fence": lambda: f"```json\n{good}\n```",
        "prose": lambda: f"Here is what you {{asked}} for:\n{good}\nAnything else?",
        "trailing_comma": lambda: f"{good[:-2]}{good[-2]},}}",
        "truncated": lambda: good[: good.rindex('"description"') + 5],
        "cut_text": lambda: good[:20],  # in the first item or the text: nothing is left to keep
        "wrong_fields": lambda: re.sub(r'"(title|texts?)"', '"name"', good),
        "plain_text": lambda: "I would rather talk about the weather.",
        "thoughts": lambda: f"<think>Perhaps {_draft(good)}, or",
        "no_opening_tag": lambda: f"Perhaps {_draft(good)}. No.\n</think>\n{good}",
        "single_quotes": lambda: repr(json.loads(good)),
        "too_few": lambda: json.dumps({"items": json.loads(good)["items"][:1]}),
    }
    return spoiled.get(outcome, lambda: good)()


def _draft(good: str) -> str:
    """An answer that is thought of and not given."""
    return re.sub(r'"(title|text)": "', r'"\1": "Draft of ', good)


def _completion(text: str, raw: bytes, outcome: str) -> dict:
    finish = "length" if outcome in ("truncated", "cut_text", "thoughts") else "stop"
    message: dict = {"role": "assistant", "content": text}
    if outcome == "parts":
        thought = {"type": "thinking", "thinking": [{"type": "text", "text": _draft(text)}]}
        message["content"] = [thought, {"type": "text", "text": text}]
    if outcome == "refusal":
        message |= {"content": None, "refusal": "I cannot talk about that."}
    choice = {"message": message, "finish_reason": finish}
    usage = {"prompt_tokens": len(raw) // 4, "completion_tokens": len(text) // 4}
    return {"choices": [] if outcome == "no_choices" else [choice], "usage": usage}


def _error(message: str, code: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "type": "error", "code": code}})


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per answer")
    server = LLMServer(latency_s=parser.parse_args().latency).start()
    print(server.url, flush=True)
    threading.Event().wait()
