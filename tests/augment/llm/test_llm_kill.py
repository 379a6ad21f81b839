"""Runs that are killed at random moments end like one that was not.

``RECBOLE_EDT_KILLS=20 RECBOLE_EDT_USERS=2000 pytest -s tests/augment/llm/test_llm_kill.py`` is the
whole measurement; the suite runs a small one.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from llm_server import KINDS

from recbole_edt.io.files import read_table
from tools.simulate import simulate, write_atomic

KILLS = int(os.environ.get("RECBOLE_EDT_KILLS", "3"))
USERS = int(os.environ.get("RECBOLE_EDT_USERS", "60"))
REQUESTS = 60 * KILLS
CONCURRENCY = 16
BATCH = 8
KEY = "test-key-0123456789abcdef"
PATIENCE = 600

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")


@pytest.fixture(scope="module")
def runner():
    """The process that starts all runs: see ``llm_runs.py``."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("llm_runs.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "EDT_TEST_KEY": KEY},
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@dataclass
class Runs:
    """One command, which can be run again and again; ``arguments`` as for ``llm_runs.py``."""

    process: subprocess.Popen
    arguments: list[str]

    def begin(self):
        """Start a run; gives its process id."""
        print(json.dumps(self.arguments), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def ended(self):
        """Exit status of the run when it ends."""
        status = int(self.process.stdout.readline())
        print(file=self.process.stdin, flush=True)
        return status

    def whole(self):
        """Do a run to its end, and without an error; gives its seconds."""
        start = time.monotonic()
        self.begin()
        assert self.ended() == 0, Path(self.arguments[1]).read_text()
        return time.monotonic() - start

    def killed(self, is_due):
        """Start a run and kill it when that is due; false if it had ended before."""
        child, deadline = self.begin(), time.monotonic() + PATIENCE
        while not is_due() and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        return self.ended() == -signal.SIGKILL


def after(seconds):
    """Whether so much time has passed since now."""
    due = time.monotonic() + seconds
    return lambda: time.monotonic() >= due


def misbehaving(llm_servers, slow_s=0.7, kinds=KINDS):
    server = llm_servers(latency_s=0.01, slow_s=slow_s)
    server.misbehave(0.2, kinds, seed=7)
    return server


def paid_more_than_once(server):
    tally = server.tally()
    return sum(n - 1 for what in ("questions", "texts") for n in tally[what].values())


def test_killed_runs_of_the_client_end_in_the_same_bytes(llm_servers, runner, tmp_path):
    calm, struck = misbehaving(llm_servers), misbehaving(llm_servers)
    folders = tmp_path / "calm", tmp_path / "struck"
    for folder in folders:
        folder.mkdir()
    undisturbed, killed = (
        Runs(runner, ["client", f"{folder}.log", server.url, str(folder), str(REQUESTS)])
        for server, folder in zip((calm, struck), folders, strict=True)
    )
    undisturbed.whole()

    chance, calls = random.Random(11), REQUESTS // KILLS // 2
    for _ in range(KILLS):
        seen = len(struck.log) + chance.randrange(calls)
        assert killed.killed(lambda: len(struck.log) >= seen)  # noqa: B023 - waited for at once
    assert not (folders[1] / "answers.json").exists()
    killed.whole()

    expected, found = ((folder / "answers.json").read_bytes() for folder in folders)
    assert found == expected
    assert paid_more_than_once(struck) <= KILLS * CONCURRENCY * BATCH  # when it was killed
    calls_made = struck.arrived
    killed.whole()
    assert struck.arrived == calls_made
    assert (folders[1] / "answers.json").read_bytes() == expected


# -- the whole command ----------------------------------------------------------------------------


def some_users():
    """A simulated shop with no more users than wanted."""
    shop = simulate(max(200, USERS))
    rows = shop.interactions
    return replace(shop, interactions=rows[rows["user_id"].isin(rows["user_id"].unique()[:USERS])])


def command(folder, name, server, runner):
    """Runs of ``augment`` in which a model behind an endpoint does all it can."""
    endpoint = {
        "base_url": server.url, "model": "m", "key_env": "EDT_TEST_KEY", "prices": {"prompt": 1.0},
        "timeout_s": server.slow_s * 0.8,
    }  # fmt: skip
    profile = {"chat": endpoint, "embedding": {**endpoint, "batch_size": BATCH}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(profile | {"concurrency": CONCURRENCY, "backoff_s": 0.01}))
    arguments = ["--dataset=shop", f"--data_path={folder}/raw", f"--output_path={folder}/{name}"]
    arguments += [f"--{stage}=openai" for stage in ("encoder", "generator", "profiler")]
    return Runs(runner, ["augment", f"{folder}/{name}.log", f"--llm={path}", *arguments])


def contents(folder):
    """Every file of a folder; of the report, what does not say what this run paid."""
    out = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = json.loads(out.pop("augmentation.json"))
    del report["cost"], report["settings"]["llm"]
    return out | {"augmentation.json": report}


def check_everybody_is_there(folder):
    users = read_table(folder / "shop.user")
    assert len(users) == USERS
    assert (users["profile"] != "").all()
    report = json.loads((folder / "augmentation.json").read_text())
    assert report["failures"] == {"generate": {}, "profile": {}}
    assert report["statistics"]["after"]["augmented_rows"] > USERS / 4


def check_no_key(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_killed_commands_end_in_the_same_bytes(llm_servers, runner, tmp_path, capsys):
    """A fifth of all calls fail, the command is killed at random moments of its whole length.

    Three quarters of the kills fall on random calls out of all that an undisturbed run makes, the
    others on random moments of a run that finds nearly all answers in its cache: reading,
    clustering, writing.
    """
    write_atomic(some_users(), tmp_path / "raw" / "shop", "shop")
    kinds = KINDS if USERS >= 200 else [kind for kind in KINDS if kind != "slow"]  # they take long
    calm, struck = (misbehaving(llm_servers, 10.0, kinds) for _ in range(2))
    undisturbed = command(tmp_path, "calm", calm, runner)
    killed = command(tmp_path, "struck", struck, runner)
    whole_s, calls = undisturbed.whole(), calm.arrived
    assert paid_more_than_once(calm) == 0
    expected = contents(tmp_path / "calm" / "shop")
    check_everybody_is_there(tmp_path / "calm" / "shop")
    cached_s = undisturbed.whole()
    assert calm.arrived == calls

    chance, target, start = random.Random(13), tmp_path / "struck" / "shop", time.monotonic()
    by_time = max(1, KILLS // 4)
    for call in sorted(chance.randrange(calls) for _ in range(KILLS - by_time)):
        assert killed.killed(lambda: struck.arrived >= call)  # noqa: B023 - waited for at once
        assert not target.exists()
    late = ended = 0
    while late < by_time:
        was_killed = killed.killed(after(chance.uniform(0, cached_s)))
        late, ended = late + was_killed, ended + (not was_killed)
        assert not target.exists() or contents(target) == expected
    killed.whole()
    killed_s = time.monotonic() - start
    assert contents(target) == expected
    check_everybody_is_there(target)
    assert not list((tmp_path / "struck" / ".augment" / "shop").glob("writing-*"))

    twice, made = paid_more_than_once(struck), struck.arrived
    assert twice <= KILLS * CONCURRENCY * BATCH  # under way when it was killed
    killed.whole()
    assert struck.arrived == made
    assert contents(target) == expected
    check_no_key(tmp_path)
    with capsys.disabled():
        failed = sum(not call.answers for call in calm.log)
        print(
            f"\n{USERS} users, {KILLS} kills: undisturbed {calls} calls, {failed} of them failed, "
            f"{whole_s:.1f} s, from the cache {cached_s:.1f} s; killed {made} calls, {twice} "
            f"questions or texts paid again, {killed_s:.1f} s ({ended} runs ended before the kill)"
        )
