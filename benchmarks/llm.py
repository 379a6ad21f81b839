"""How near does the LLM client come to what its concurrency allows?

A server in a process of its own answers each call after 200 ms; 64 calls at a time could then make
320 a second. The ratio of the rate reached to that one is what counts. The calls go over real HTTP,
each answer is read, checked and committed to the cache. Then the same requests again: all of them
must come from the cache, which shows what a restart costs.

    python benchmarks/llm.py --requests 3200
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time

from recbole_edt.augment.llm import ChatRequest, LLMClient, LLMSettings
from recbole_edt.augment.prompts import generated_items, item_form, prompt

SERVER = Path(__file__).parents[1] / "tests" / "augment" / "llm" / "llm_server.py"
COLUMNS = ["title", "brand", "price"]


@contextmanager
def serving(latency: float) -> Iterator[str]:
    """Run the server for the length of a block; yields its URL."""
    command = [sys.executable, str(SERVER), "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def generation(user: int) -> ChatRequest:
    """A prompt of the usual size."""
    samples = "\n".join(
        f"- Running shirt {user} no. {n}; brand: Acme; price: 12.50" for n in range(10)
    )
    text = prompt(
        "generate",
        user=user,
        num=5,
        source_domain="cloth",
        target_domain="sport",
        attributes="title, brand, price",
        **item_form(COLUMNS),
        source_samples=samples,
        target_samples=samples,
    )
    return ChatRequest(prompt("system"), text, generated_items(COLUMNS))


def measure(url: str, n: int, concurrency: int, latency: float) -> float:
    """Print and return the rate reached as a share of the ideal one."""
    overrides = {"chat.base_url": url, "concurrency": concurrency}
    settings = LLMSettings.load("vllm", overrides)
    requests = [generation(user) for user in range(n)]
    with (
        tempfile.TemporaryDirectory() as folder,
        LLMClient(settings, Path(folder) / "llm.sqlite") as client,
    ):
        client.chat([generation(-1)], "warm-up")
        start, busy = perf_counter(), process_time()
        answers = client.chat(requests, "generate")
        seconds, busy = perf_counter() - start, process_time() - busy
        assert all(answer.error is None for answer in answers)
        start = perf_counter()
        assert all(answer.cached for answer in client.chat(requests, "generate"))
        again = perf_counter() - start
    ratio = (n / seconds) / (concurrency / latency)
    print(
        f"{n:,} requests, {concurrency} at a time, {latency * 1000:.0f} ms each\n"
        f"  rate reached / ideal rate          {ratio:8.3f}"
        f"   ({n / seconds:.0f} of {concurrency / latency:.0f} a second, {seconds:.1f} s)\n"
        f"  share of one core that was busy    {busy / seconds:8.2f}\n"
        f"  the same from the cache            {again:8.2f} s",
        flush=True,
    )
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=3200)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    given = parser.parse_args()
    with serving(given.latency) as url:
        measure(url, given.requests, given.concurrency, given.latency)


if __name__ == "__main__":
    main()
