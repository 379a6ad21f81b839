"""The provider's batch API: cheaper, paid once, found again after a kill."""

import pytest
from llm_server import BatchDesk
from questions import profile, request

from recbole_edt.augment.llm.transport import EndpointError
from recbole_edt.errors import ConfigError

REQUESTS = [*(profile(n) for n in range(12)), request()]


@pytest.fixture
def batching(llm_client):
    """Open a client that asks by batch."""
    return lambda server: llm_client(server, batch=True, poll_s=0.02, retries=1)


def batched(desk):
    return [desk.files[batch["input_file_id"]].count("\n") for batch in desk.made]


def test_requests_go_by_batch_at_half_the_price(llm_servers, batching):
    server = llm_servers(batches=BatchDesk())
    with batching(server) as client:
        answers = client.chat(REQUESTS, "profile")
        costs = client.costs()["profile"]
    assert all(answer.value for answer in answers)
    assert batched(server.batches) == [12] and len(server.log) == 1  # the longest goes directly
    assert costs["calls"] == 13 and costs["faults"] == {}
    whole = (costs["prompt_tokens"] * 1.0 + costs["completion_tokens"] * 2.0) / 1e6
    assert 0.5 * whole < costs["dollars"] < 0.7 * whole
    with batching(server) as client:
        assert all(answer.cached for answer in client.chat(REQUESTS, "profile"))
    assert len(server.batches.made) == 1


def test_what_fails_in_a_batch_is_asked_directly(llm_servers, batching):
    server = llm_servers(batches=BatchDesk(fail=lambda n: n % 4 == 0))
    with batching(server) as client:
        assert all(answer.value for answer in client.chat(REQUESTS, "profile"))
    assert batched(server.batches) == [12] and len(server.log) == 1 + 3


@pytest.mark.parametrize("moment", ["before it is made", "after it is made", "while it works"])
def test_a_killed_run_finds_its_batch_again(llm_servers, batching, monkeypatch, moment):
    """The kill falls before the batch's id is kept, or after."""
    server = llm_servers(batches=BatchDesk(refuse_making=400 if moment[0] == "b" else 0))
    client = batching(server)
    keep = client._cache.keep_batch

    def killed(file, address, stage, batch):
        if moment == "after it is made" and batch:
            raise KeyboardInterrupt
        keep(file, address, stage, batch)
        if moment == "while it works" and batch:
            raise KeyboardInterrupt

    monkeypatch.setattr(client._cache, "keep_batch", killed)
    with client, pytest.raises(EndpointError if moment[0] == "b" else KeyboardInterrupt):
        client.chat(REQUESTS, "profile")
    server.batches.refuse_making = 0
    with batching(server) as client:
        answers = client.chat(REQUESTS, "profile")
        costs = client.costs()["profile"]
    assert all(answer.value for answer in answers)
    assert batched(server.batches) == [12] and len(server.batches.files) == 2
    assert costs["calls"] == 13


def test_a_batch_that_is_gone_is_made_again(llm_servers, batching, monkeypatch, caplog):
    server = llm_servers(batches=BatchDesk())
    with batching(server) as client:
        client._cache.keep_batch("file9", client.settings.chat.address, "profile", "batch9")
        server.batches.forgets = True
        keep = client._cache.store

        def store(*args, file="", **brought):
            server.batches.forgets = server.batches.forgets and file != "file9"
            keep(*args, file=file, **brought)

        monkeypatch.setattr(client._cache, "store", store)
        assert all(answer.value for answer in client.chat(REQUESTS, "profile"))
    assert batched(server.batches) == [12] and "a batch is asked anew" in caplog.text


@pytest.mark.parametrize("batch", ["batch9", None])
def test_a_batch_is_kept_while_the_api_is_away(llm_servers, batching, batch):
    server = llm_servers(batches=BatchDesk())
    server.batches.serve = lambda *_: (404, "default backend")
    with batching(server) as client:
        address = client.settings.chat.address
        client._cache.keep_batch("file9", address, "profile", batch)
        with pytest.raises(EndpointError, match=r"batches are under way.+404.+run again"):
            client.chat(REQUESTS, "profile")
        assert client._cache.batches(address, "profile") == {"file9": batch}


def test_a_batch_that_is_refused_says_why(llm_servers, batching):
    server = llm_servers(batches=BatchDesk(rejects="model 'm' cannot be batched"))
    with batching(server) as client, pytest.raises(EndpointError, match="cannot be batched"):
        client.chat(REQUESTS, "profile")


@pytest.mark.parametrize("status", [404, 200])  # LM Studio answers 200 on any path
def test_an_endpoint_without_the_api_is_named(llm_servers, batching, status):
    server = llm_servers(batches=BatchDesk())
    server.batches.serve = lambda *_: (status, {"error": "Unexpected endpoint"})
    with (
        batching(server) as client,
        pytest.raises(ConfigError, match=r"no batch API: .+endpoint.+leave"),
    ):
        client.chat(REQUESTS, "profile")
