"""A process that starts runs, each in a child that can be killed.

A line on stdin, a JSON list, starts a run: ``["client", LOG, URL, FOLDER, REQUESTS]`` of the LLM
client alone, ``["augment", LOG, ARGUMENT, ...]`` of the whole command. Its process id is printed,
then the child's exit status (negative: the signal) when it ends; an empty line then lets go of
the id. What the run itself prints is appended to LOG. The imports are done once, so that a run
starts within milliseconds.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from recbole_edt.augment.llm import ChatRequest, LLMClient, LLMSettings
from recbole_edt.augment.prompts import GeneratedItems, Text, prompt
from recbole_edt.cli import execute
from recbole_edt.io.files import atomic_write


def requests_of(n: int) -> list[ChatRequest]:
    """Half of them for items, half for texts."""
    out = []
    for user in range(n):
        samples = f"- red cotton shirt {user}\n- woollen socks"
        of_items = {"source_domain": "cloth", "target_domain": "sport", "user": user, "num": 3}
        of_items |= {"source_samples": samples, "target_samples": "- yoga mat\n- trail shoes"}
        if user % 2:
            text = prompt("generate", attributes="title", **of_items)
            out.append(ChatRequest(prompt("system"), text, GeneratedItems))
        else:
            text = prompt("summarise", domain="cloth", attributes="title", samples=samples)
            out.append(ChatRequest(prompt("system"), text, Text))
    return out


def run(url: str, folder: Path, n: int) -> None:
    """Ask everything, embed all answers, write both."""
    endpoint = {"base_url": url, "timeout_s": 0.6}
    overrides = {"chat": endpoint, "embedding": {**endpoint, "batch_size": 8}}
    settings = LLMSettings.load("local", overrides | {"concurrency": 16, "backoff_s": 0.01})
    with LLMClient(settings, folder / "llm.sqlite") as client:
        answers = client.chat(requests_of(n), "generate")
        texts = [json.dumps(answer.value, sort_keys=True) for answer in answers]
        vectors, failures = client.embed(texts, "encode")
    said = {"texts": texts, "errors": [answer.error for answer in answers], "failures": failures}
    with atomic_write(folder / "answers.json") as path:
        path.write_text(json.dumps(said, indent=1) + vectors.tobytes().hex(), encoding="utf-8")


def work(what: str, log: str, *arguments: str) -> int:
    """Do one run; its exit status."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if what == "augment":
        status = execute("augment", arguments)
        sys.stdout.flush()
        return status
    url, folder, n = arguments
    run(url, Path(folder), int(n))
    return 0


def main() -> None:
    print("ready", flush=True)
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = work(*json.loads(line))
            finally:
                os._exit(status)
        print(child, flush=True)
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        killed = ended.si_code != os.CLD_EXITED
        print(-ended.si_status if killed else ended.si_status, flush=True)
        sys.stdin.readline()  # until told, the child's id is nobody else's: it is safe to kill
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
