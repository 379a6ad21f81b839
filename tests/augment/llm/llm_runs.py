"""A process that starts runs of the client, each in a child that can be killed.

    python llm_runs.py URL FOLDER REQUESTS

A line on stdin starts a run; its process id is printed, then the child's exit status (negative: the
signal) when it ends. The imports are done once, so that a run starts within milliseconds.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from recbole_edt.augment.llm import ChatRequest, LLMClient, LLMSettings
from recbole_edt.augment.prompts import GENERATED_ITEMS_SCHEMA, TEXT_SCHEMA, prompt
from recbole_edt.files import replacing


def requests_of(n: int) -> list[ChatRequest]:
    """Half of them for items, half for texts."""
    out = []
    for user in range(n):
        samples = f"- red cotton shirt {user}\n- woollen socks"
        of_items = {"source_domain": "cloth", "target_domain": "sport", "user": user, "num": 3}
        of_items |= {"source_samples": samples, "target_samples": "- yoga mat\n- trail shoes"}
        if user % 2:
            text = prompt("generate", attributes="title", **of_items)
            out.append(ChatRequest(prompt("system"), text, GENERATED_ITEMS_SCHEMA))
        else:
            text = prompt("summarise", domain="cloth", attributes="title", samples=samples)
            out.append(ChatRequest(prompt("system"), text, TEXT_SCHEMA))
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
    with replacing(folder / "answers.json") as path:
        path.write_text(json.dumps(said, indent=1) + vectors.tobytes().hex(), encoding="utf-8")


def main() -> None:
    url, folder, n = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            sys.stdin.close()
            run(url, folder, n)
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
