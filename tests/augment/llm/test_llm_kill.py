"""Runs that are killed at random moments end like one that was not.

``RECBOLE_EDT_KILLS=20 RECBOLE_EDT_USERS=2000`` makes it a large one.
"""

import json
import os
import random
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from llm_server import KINDS, LLMServer

from recbole_edt.io.files import read_table
from tools.simulate import simulate, write_atomic

KILLS = int(os.environ.get("RECBOLE_EDT_KILLS", "3"))
USERS = int(os.environ.get("RECBOLE_EDT_USERS", "60"))
CONCURRENCY, BATCH = 16, 8

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")


@dataclass
class Augment:
    """The command with a model behind an endpoint in every stage, to be run again and again."""

    commands: object
    folder: Path
    name: str
    server: LLMServer

    def __post_init__(self):
        endpoint = {"base_url": self.server.url, "model": "m", "prices": {"prompt": 1.0},
                    "timeout_s": self.server.slow_s * 0.8}  # fmt: skip
        profile = {"chat": endpoint, "embedding": {**endpoint, "batch_size": BATCH},
                   "concurrency": CONCURRENCY, "backoff_s": 0.01}  # fmt: skip
        path = self.folder / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(profile))
        self.arguments = ["augment", "--dataset=shop", "--data_path=raw", f"--llm={path}",
                          f"--output_path={self.name}"]  # fmt: skip
        self.arguments += [f"--{stage}=openai" for stage in ("encoder", "generator", "profiler")]
        self.target = self.folder / self.name / "shop"

    def whole(self):
        """Run it to its end; gives its seconds."""
        start = time.monotonic()
        done = self.commands.run(self.folder, self.arguments)
        assert done.code == 0, done.err
        return time.monotonic() - start

    def killed(self, is_due):
        """Start it and kill it when that is due; false if it had ended before."""
        running = self.commands.begin(self.folder, self.arguments)
        if running.until(is_due):
            running.signal(signal.SIGKILL)
        return running.wait().code == -signal.SIGKILL

    def contents(self):
        """Every file that it wrote; of the report, what does not say what this run paid."""
        out = {path.name: path.read_bytes() for path in self.target.iterdir()}
        report = json.loads(out.pop("augmentation.json"))
        del report["cost"], report["settings"]["llm"]
        return out | {"augmentation.json": report}

    def paid_more_than_once(self):
        tally = self.server.tally()
        return sum(n - 1 for what in ("questions", "texts") for n in tally[what].values())


def check_everybody_is_there(folder):
    users = read_table(folder / "shop.user")
    assert len(users) == USERS
    assert (users["profile"] != "").all()
    report = json.loads((folder / "augmentation.json").read_text())
    assert report["failures"] == {"generate": {}, "profile": {}}
    assert report["statistics"]["after"]["augmented_rows"] > USERS / 4


def test_killed_commands_end_in_the_same_bytes(llm_servers, commands, tmp_path):
    """A fifth of all calls fail. Three quarters of the kills fall on random calls, the others on
    random moments of a run that finds nearly all answers in its cache: reading, writing.
    """
    shop = simulate(max(200, USERS))
    rows = shop.interactions
    some = replace(shop, interactions=rows[rows["user_id"].isin(rows["user_id"].unique()[:USERS])])
    write_atomic(some, tmp_path / "raw" / "shop", "shop")
    kinds = KINDS if USERS >= 200 else [kind for kind in KINDS if kind != "slow"]  # they take long
    servers = [llm_servers(latency_s=0.01, slow_s=10.0) for _ in range(2)]
    for server in servers:
        server.misbehave(0.2, kinds, seed=7)
    calm, struck = (Augment(commands, tmp_path, name, server)
                    for name, server in zip(("calm", "struck"), servers, strict=True))  # fmt: skip
    calm.whole()
    calls = calm.server.arrived
    assert calm.paid_more_than_once() == 0
    expected = calm.contents()
    check_everybody_is_there(calm.target)
    cached_s = calm.whole()
    assert calm.server.arrived == calls

    chance = random.Random(13)
    by_time = max(1, KILLS // 4)
    for call in sorted(chance.randrange(calls) for _ in range(KILLS - by_time)):
        assert struck.killed(lambda: struck.server.arrived >= call)  # noqa: B023 - waited for
        assert not struck.target.exists()
    for _ in range(by_time):
        due = time.monotonic() + chance.uniform(0, cached_s)
        struck.killed(lambda: time.monotonic() >= due)  # noqa: B023 - waited for at once
        assert not struck.target.exists() or struck.contents() == expected
    struck.whole()
    assert struck.contents() == expected
    check_everybody_is_there(struck.target)
    assert {path.name for path in struck.target.parent.iterdir()} == {".augment", "shop"}

    twice, made = struck.paid_more_than_once(), struck.server.arrived
    assert twice <= KILLS * CONCURRENCY * BATCH  # under way when it was killed
    struck.whole()
    assert struck.server.arrived == made
    assert struck.contents() == expected
