"""A server that speaks the OpenAI chat and embedding API over HTTP, and misbehaves on request.

Good answers depend on nothing but the question (the first system and user message, or the text to
embed), so that two runs can be compared byte for byte.
"""

from __future__ import annotations

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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep

KINDS = (
    "prose", "truncated", "wrong_fields", "plain_text", "no_choices", "rate_limit", "server_error",
    "html", "slow", "cut", "too_few",
)  # fmt: skip
PARTIAL = ("truncated", "too_few")
MENDED = ("good", "prose", *PARTIAL)
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

    ``refuse_making`` refuses to make batches with a status; ``rejects`` is why a batch is invalid;
    ``forgets`` makes it know no batch any more.
    """

    polls: int = 2
    fail: Callable[[int], bool] = lambda n: False
    refuse_making: int = 0
    rejects: str = ""
    forgets: bool = False
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
        if kind != "batches" or self.forgets:
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
        out = ['{"custom_id": "ab', '{"custom_id": null}']  # damaged lines
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
    refused; ``model`` is the one that is listed, and ``unlisted`` the status with which others are
    refused, 0 if they are not; ``retry_after`` is what 429 asks for, in seconds or as a date,
    in the header ``retry_header``; ``unreadable`` texts are refused with 400; ``payload`` replaces
    every response, without ``greets`` those to the first questions, too;
    ``chat_as`` and ``embed_as`` make status and body of a response of a request's body (and the
    good answer), or None for a usual one.
    """

    latency_s: float = 0.0
    slow_s: float = 2.0
    retry_after: str = "0.02"
    retry_header: str = "retry-after"
    refuse: tuple[int, str] | None = None
    refuse_after: int = 0
    unreadable: str | None = None
    payload: str | None = None
    greets: bool = True
    chat_as: Callable[[dict, str], tuple[int, object] | None] = lambda body, good: None
    embed_as: Callable[[dict], tuple[int, object] | None] = lambda body: None
    echo_key: bool = False
    model: str = "m"
    unlisted: int = 404
    size: int = 7  # of the model, as its list says
    offer: dict = field(default_factory=dict)  # what else its list says
    lists: int = 200  # status of the list
    share: float = 0.0
    kinds: Sequence[str] = KINDS
    seed: int = 0
    batches: BatchDesk | None = None
    log: list[Call] = field(default_factory=list)
    arrived: int = 0

    def __post_init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

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

    def start(self) -> LLMServer:
        """Serve from threads."""
        self._http = _HTTPServer(("127.0.0.1", 0), _Handler)
        self._http.llm = self
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.port = self._http.server_port
        return self

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def arrive(self, is_greeting: bool) -> int:
        """Count a call; give its number."""
        with self._lock:
            self.arrived += not is_greeting
            return self.arrived

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


class _HTTPServer(ThreadingHTTPServer):
    """A thread for each connection; one that breaks is the client's affair."""

    llm: LLMServer
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    """One kept-alive connection: a request, its response, the next request."""

    server: _HTTPServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args) -> None:
        pass

    def greet(self, raw: bytes) -> None:
        """Say which models there are, or answer the tiny request of a client that has come."""
        server = self.server.llm
        if self.path.endswith("/models"):
            known = {"id": server.model, "created": server.arrived, "meta": {"size": server.size}}
            self.send(server.lists, {"data": [known | server.offer]})
        elif json.loads(raw)["model"] != server.model and server.unlisted:
            self.send(server.unlisted, _error("not this one"))
        elif self.path.endswith("/embeddings"):
            data = [{"index": 0, "embedding": [1.0] * DIMENSIONS}]
            self.send(200, {"data": data, "model": server.model})
        else:
            self.send(200, _completion("OK", raw, "good") | {"model": server.model})

    def do_GET(self) -> None:
        server, due = self.server.llm, monotonic() + self.server.llm.latency_s
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        if server.batches and ("/files" in self.path or "/batches" in self.path):
            return self.send(*server.batches.serve(self.command, self.path, raw))
        is_greeting = self.path.endswith("/models") or b"Reply with OK." in raw
        number = server.arrive(is_greeting)
        is_refused = server.refuse is not None and number >= server.refuse_after
        if is_greeting and server.greets and not is_refused:
            self.greet(raw)
        elif server.refuse is not None and number + is_greeting > server.refuse_after:
            status, message = server.refuse
            said = f"{message} {self.headers.get('authorization', '')}"
            server.log.append(Call())
            self.send(status, _error(said, message))
        elif server.payload is not None:
            server.log.append(Call())
            self.send(200, server.payload)
        elif self.path.endswith("/chat/completions"):
            self.chat(raw, due)
        elif self.path.endswith("/embeddings"):
            self.embed(raw, due)
        else:
            self.send(404, _error("no such path"))

    do_POST = do_GET

    def chat(self, raw: bytes, due: float) -> None:
        server, body = self.server.llm, json.loads(raw)
        asked = body["messages"][: 4 if "are missing" in str(body["messages"][3:4]) else 2]
        question = _digest(json.dumps([body["model"], asked]).encode())
        good = good_answer(asked, question)
        if made := server.chat_as(body, good):
            server.log.append(Call(question, made[0] == 200))
            return self.send(*made)
        if server.unreadable and server.unreadable in body["messages"][-1]["content"]:
            server.log.append(Call(question))
            return self.send(400, _error("this cannot be read"))
        if server.echo_key:
            echo = f"I was sent {self.headers['authorization']}."
            good = json.dumps({"text": echo, "texts": [echo]})
        outcome = server.outcome_of(_digest(raw), question, good)
        said = _completion(_spoiled(good, outcome), raw, outcome)
        self.deliver(outcome, said, due, Call(question, outcome in MENDED))

    def embed(self, raw: bytes, due: float) -> None:
        server, body = self.server.llm, json.loads(raw)
        texts = body["input"]
        if server.unreadable and any(server.unreadable in text for text in texts):
            server.log.append(Call())
            return self.send(400, _error("a text cannot be read"))
        if made := server.embed_as(body):
            server.log.append(Call("", made[0] == 200, texts))
            return self.send(*made)
        outcome = server.outcome_of(_digest(raw), "", "")
        data = [
            {"index": n, "embedding": _base64(embedding(text, body.get("dimensions", DIMENSIONS)))}
            for n, text in enumerate(texts)
        ]
        if outcome in ("no_choices", "plain_text"):
            data = []
        if outcome == "wrong_fields":
            data = data[1:]
        random.Random(len(raw)).shuffle(data)
        payload = {"data": data, "usage": {"prompt_tokens": sum(len(t.split()) for t in texts)}}
        said = json.dumps(payload)
        if outcome == "cut_text":
            said = said[: len(said) // 2]
        self.deliver(outcome, said, due, Call("", outcome in MENDED, texts))

    def deliver(self, outcome: str, said: object, due: float, call: Call) -> None:
        """Send a response when it is due, the way this call goes."""
        slow = self.server.llm.slow_s if outcome == "slow" else 0.0
        sleep(max(due + slow - monotonic(), 0.0))
        self.server.llm.log.append(call)
        if outcome == "rate_limit":
            llm = self.server.llm
            self.send(429, _error("too fast"), {llm.retry_header: llm.retry_after})
        elif outcome == "server_error":
            self.send(random.Random(str(said)).choice((500, 502, 503)), _error("out of order"))
        elif outcome == "html":
            self.send(200, "<html>Please wait.</html>", {"content-type": "text/html"})
        else:
            self.send(200, said, cut=outcome == "cut")

    def send(
        self, status: int, said: object, headers: dict | None = None, cut: bool = False
    ) -> None:
        body = (said if isinstance(said, str) else json.dumps(said)).encode()
        lines = {"content-type": "application/json", "content-length": len(body)} | (headers or {})
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        response = f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body
        self.wfile.write(response[: len(response) // 2] if cut else response)
        self.close_connection = cut


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
        "prose": lambda: f"Here is what you {{asked}} for:\n{good}\nAnything else?",
        "truncated": lambda: good[: good.rindex('"description"') + 5],
        "cut_text": lambda: good[:20],  # in the first item or the text: nothing is left to keep
        "wrong_fields": lambda: re.sub(r'"(title|texts?)"', '"name"', good),
        "plain_text": lambda: "I would rather talk about the weather.",
        "too_few": lambda: json.dumps({"items": json.loads(good)["items"][:1]}),
    }
    return spoiled.get(outcome, lambda: good)()


def _completion(text: str, raw: bytes, outcome: str) -> dict:
    finish = "length" if outcome in ("truncated", "cut_text") else "stop"
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": len(raw) // 4, "completion_tokens": len(text) // 4}
    return {"choices": [] if outcome == "no_choices" else [choice], "usage": usage}


def _error(message: str, code: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "type": "error", "code": code}})


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]
