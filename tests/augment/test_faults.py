"""``recbole-edt augment`` when something is wrong: keys, costs, failed calls, a second run."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from recbole_edt.cli import execute
from recbole_edt.experiment.variants import Variants
from recbole_edt.io.files import read_table
from recbole_edt.io.lock import run_lock
from tools.simulate import simulate, write_atomic

NAME = "shop"
KEY = "test-key-0123456789abcdef"
PART = "some-gateways-have-a-key-here"  # of an address
LLM = ("--encoder=openai", "--generator=openai", "--profiler=openai")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """The 16 users of a simulated shop who buy most, and the items they buy."""
    folder = tmp_path_factory.mktemp("raw")
    shop = simulate(200)
    users = shop.interactions["user_id"].value_counts().index[:16]
    rows = shop.interactions[shop.interactions["user_id"].isin(users)]
    items = shop.items[shop.items["item_id"].isin(rows["item_id"])]
    write_atomic(replace(shop, items=items, interactions=rows), folder / NAME, NAME)
    return folder


@pytest.fixture
def command(raw, tmp_path, monkeypatch):
    """Run the command against a server: ``command(server, "--k=3", retries=0)``; its exit code."""
    monkeypatch.setenv("EDT_TEST_KEY", KEY)

    def run(server, *arguments: str, address: str = "", **settings) -> int:
        endpoint = {
            "base_url": address or server.url, "model": "m", "key_env": "EDT_TEST_KEY",
            "timeout_s": 20, "prices": {"prompt": 1.0, "completion": 2.0},
        }  # fmt: skip
        profile = {"chat": endpoint, "embedding": endpoint, "backoff_s": 0.01, **settings}
        path = tmp_path / "llm.yaml"
        path.write_text(yaml.safe_dump(profile))
        given = [f"--dataset={NAME}", f"--data_path={raw}", f"--output_path={tmp_path / 'out'}"]
        given += ["--clusters=2", "--num=2", "--tau_quantile=0", "--min_ratio=0.3"]
        given += [f"--llm={path}", *LLM, *arguments]
        return execute("augment", list({a.split("=")[0]: a for a in given}.values()))

    return run


def written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "llm.yaml"]


# Keys


@pytest.mark.parametrize(
    ("moods", "code"),
    [
        ({}, 0),
        ({"echo_key": True}, 1),  # no item can be read, every profile repeats what it was sent
        ({"refuse": (400, f"you sent {KEY} and"), "refuse_after": 30}, 2),
        ({"refuse": (400, f"you sent {KEY} to /{PART}/v1")}, 2),
        ({"refuse": (401, f"wrong key {KEY}"), "refuse_after": 9}, 2),
        ({"refuse": (500, f"trace: {KEY}")}, 2),
        ({"payload": json.dumps({"error": {"message": f"key {KEY}"}})}, 2),
    ],
)
def test_key_and_path_of_an_endpoint_are_in_nothing_that_is_written_or_said(
    llm_servers, command, tmp_path, capsys, caplog, moods, code
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        caplog.set_level(logging.DEBUG, logger=name)
    server = llm_servers(**moods)
    assert command(server, address=f"{server.url}/{PART}/v1", retries=1, asks=1) == code
    said = capsys.readouterr()
    shown = said.out + said.err + caplog.text
    assert KEY not in shown and PART not in shown
    assert not said.err or code
    files = written(tmp_path)
    assert tmp_path / "out" / ".augment" / NAME / "llm.sqlite" in files
    assert (tmp_path / "out" / NAME / "augmentation.json" in files) == (code < 2)
    written_bytes = b"".join(path.read_bytes() for path in files)
    assert KEY.encode() not in written_bytes and PART.encode() not in written_bytes


@pytest.mark.parametrize("address", [f"https://me:{KEY}@h/v1", f"https://h/v1?api_key={KEY}"])
def test_a_key_in_the_address_is_refused_unseen(command, tmp_path, capsys, address) -> None:
    assert command(None, address=address) == 2
    assert command(None, f"--llm={address}", address="http://h") == 2
    said = capsys.readouterr()
    assert said.err.count("error: ") == 2
    assert KEY not in said.out + said.err
    assert not written(tmp_path)


# Costs


def stages(out: str) -> list[list[str]]:
    """Stage, requests, from cache, calls, tokens, dollars, sent."""
    rows = [line.replace(",", "").split() for line in out.splitlines()]
    return [row for row in rows if row and row[-1] in ("exact", "estimate")]


def test_an_estimate_is_near_what_is_paid_and_calls_nobody(
    llm_server, command, tmp_path, capsys
) -> None:
    keys = ["--chat.temperature=0.5", "--embedding.batch_size=5"]
    assert command(llm_server, "--dry-run", *keys) == 0
    out = capsys.readouterr().out
    assert llm_server.arrived == 0 and not (tmp_path / "out").exists()
    rows = stages(out)
    order = ["encode", "generate", "encode", "summarise", "analyse", "encode"]
    assert [row[0] for row in rows] == order
    assert [row[-1] for row in rows] == ["exact", *["estimate"] * 5]
    assert all(int(row[3]) > 0 and float(row[7]) > 0 for row in rows)
    total = float(out.split("about ")[1].split()[0])
    assert total == pytest.approx(sum(float(row[7]) for row in rows), abs=1e-3)

    assert command(llm_server, *keys) == 0
    assert max(len(call.texts) for call in llm_server.log) == 5
    table = capsys.readouterr().out.split("-- models behind endpoints")[1]
    assert all(stage in table for stage in ("encode", "generate", "summarise", "total"))
    cost = json.loads((tmp_path / "out" / NAME / "augmentation.json").read_text())["cost"]
    for row in (rows[1], *rows[3:5]):
        assert int(row[1]) == pytest.approx(cost[row[0]]["requests"], rel=0.4), row
        assert int(row[4]) == pytest.approx(cost[row[0]]["prompt_tokens"], rel=0.5), row

    calls = llm_server.arrived
    assert command(llm_server, "--dry_run", *keys) == 0
    again = stages(capsys.readouterr().out)
    assert llm_server.arrived == calls
    assert all(row[-1] == "exact" for row in again[:2])
    assert [row[3] for row in again[:3]] == ["0"] * 3


def test_variants_of_augmented_data_pay_for_no_answer_twice(llm_server, command, tmp_path) -> None:
    assert command(llm_server) == 0
    variants, calls = Variants(NAME, tmp_path / "out", tmp_path / "more"), llm_server.arrived
    items = [variants.make({"profiler": "none", key: value})
             for key, value in (("filter", "none"), ("insert", "end"))]  # fmt: skip
    assert llm_server.arrived == calls and len(set(items)) == 2
    for insert in ("anchor", "end"):  # other profiles, of the same items
        variants.make({"profile": "naive", "insert": insert})
    assert llm_server.arrived > calls
    assert {*llm_server.tally()["questions"].values()} == {1}


def test_max_cost_is_compared_with_the_estimate_and_ends_the_run(
    llm_server, command, capsys
) -> None:
    for keys, profile in ((["--max-cost=0.01"], {}), ([], {"max_cost": 0.01})):
        assert command(llm_server, "--dry_run", *keys, **profile) == 0
        assert "more than max_cost (0.01)" in capsys.readouterr().out
    assert command(llm_server, "--dry_run", "--max-cost=9") == 0
    assert "more than max_cost" not in capsys.readouterr().out
    assert command(llm_server, "--max-cost=0.01") == 2
    assert "of 0.0100 dollars" in capsys.readouterr().err


# Keys of an endpoint


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("--chat.model=n", "serves no model 'n': set chat.model to one of m"),
        ("--chat.base_url=http://127.0.0.1:9/v1", "http://127.0.0.1:9 does not answer"),
        ("--embedding.batch_size=no", "embedding.batch_size must be a whole number"),
    ],
)
def test_keys_of_an_endpoint_are_checked_before_anything_is_paid(
    llm_server, command, capsys, key, said
) -> None:
    assert command(llm_server, key) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert llm_server.arrived == 0


def test_a_key_of_the_command_counts_over_the_profile_even_if_it_is_the_default(
    llm_server, command
) -> None:
    assert command(llm_server, "--batch=False", "--max_cost=None", batch=True, max_cost=0.001) == 0


def test_a_profile_without_an_endpoint_that_nobody_asks_is_enough(llm_server, command) -> None:
    assert command(llm_server, "--encoder=lsa", embedding=None) == 0
    assert llm_server.log and not any(call.texts for call in llm_server.log)


# Failed calls


def test_users_whose_call_failed_are_named_and_the_others_are_served(
    llm_servers, command, tmp_path, capsys
) -> None:
    assert command(llm_servers()) == 0
    inter, users = (read_table(tmp_path / "out" / NAME / f"{NAME}.{n}") for n in ("inter", "user"))
    unlucky = inter["user_id"][inter["augmented"] == "1"].iloc[0]
    capsys.readouterr()
    server = llm_servers(unreadable=f"User {unlucky}, source")
    assert command(server, f"--output_path={tmp_path / 'other'}") == 0
    reason = f"(such as {unlucky}: HTTP 400: this cannot be read)"
    said = f"generate: calls failed for 1 users, served without them {reason}"
    assert said in capsys.readouterr().out
    inter = read_table(tmp_path / "other" / NAME / f"{NAME}.inter")
    inserted = set(inter["user_id"][inter["augmented"] == "1"])
    assert len(inserted) >= 2 and unlucky not in inserted
    assert (read_table(tmp_path / "other" / NAME / f"{NAME}.user")["profile"] != "").all()

    server = llm_servers(unreadable=users["profile"].iloc[2])  # it cannot be embedded
    assert command(server, f"--output_path={tmp_path / 'third'}") == 0
    folder = tmp_path / "third" / NAME
    report = json.loads((folder / "augmentation.json").read_text())
    why = "encode: HTTP 400: a text cannot be read"
    assert report["failures"]["profile"] == {users["user_id"].iloc[2]: why}
    profiles = read_table(folder / f"{NAME}.user")["profile"]
    assert [place for place, text in enumerate(profiles) if not text] == [2]
    vectors = np.load(folder / f"{NAME}.user_emb.npy")
    assert np.flatnonzero(~vectors.any(axis=1)).tolist() == [2]


def test_when_no_generated_item_has_a_vector_the_raw_rows_remain(
    llm_servers, command, tmp_path
) -> None:
    assert command(llm_servers(unreadable="to go with")) == 1  # what each of their texts ends with
    inter = read_table(tmp_path / "out" / NAME / f"{NAME}.inter")
    assert set(inter["augmented"]) == {"0"}
    report = json.loads((tmp_path / "out" / NAME / "augmentation.json").read_text())
    assert len(report["failures"]["generate"]) >= 2


# A second run, and what a killed one left


def test_a_second_run_into_the_folder_is_refused(command, llm_server, tmp_path, capsys) -> None:
    with run_lock(tmp_path / "out" / ".augment" / NAME):
        assert command(llm_server) == 2
    assert llm_server.arrived == 0
    assert capsys.readouterr().err.startswith("error: another run is using ")
    assert not (tmp_path / "out" / NAME).exists()


def test_what_a_killed_run_left_is_cleared_away(command, llm_server, tmp_path) -> None:
    half = tmp_path / "out" / f".{NAME}.partial"
    half.mkdir(parents=True)
    (half / f"{NAME}.inter").write_text("half")
    assert command(llm_server) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".augment", NAME}
