"""The LLM client against a server over real HTTP that misbehaves."""

import asyncio
import sqlite3
import time
from email.utils import formatdate

import pytest
from questions import mixed, profile

from recbole_edt.augment.llm import LLMClient, LLMSettings, progress
from recbole_edt.augment.llm import transport as transport_room
from recbole_edt.augment.llm.transport import CostLimitError, EndpointError
from recbole_edt.errors import ConfigError, DataError

KEY = "test-key-0123456789abcdef"
TRANSIENT = ["no_choices", "rate_limit", "server_error", "html", "slow", "cut"]


def values(answers):
    assert [answer.error for answer in answers] == [None] * len(answers)
    return [answer.value for answer in answers]


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*TRANSIENT, "wrong_fields", "plain_text", "truncated"])
def test_a_failure_that_passes_is_got_over(llm_server, llm_client, kind):
    requests = [profile(user) for user in range(12)]
    llm_server.misbehave(0.4, [kind], seed=1)
    patience = {} if kind == "slow" else {"chat.timeout_s": 20.0}  # a loaded machine answers late
    assert values(llm_client(llm_server, **patience).chat(requests, "profile"))
    assert len(llm_server.log) > 12
    assert set(llm_server.tally()["questions"].values()) == {1}


@pytest.mark.parametrize(
    "payload",
    [
        "null", '"text"', "{", "", "{}", '{"choices": {}}', '{"choices": [null]}',
        '{"choices": [{"message": null}]}', '{"data": "x"}',
        '{"choices": [{"message": {"content": "\\ud83d"}}], "usage": {"prompt_tokens": 1e99}}',
        '{"data": [null]}', '{"data": [{"index": 0}]}', '{"data": [{"embedding": "???"}]}',
        '{"data": [{"index": Infinity, "embedding": [1]}, {"index": 0}]}',
        '{"data": [{"index": 0, "embedding": []}]}', '{"data": [{"embedding": [1, [2]]}]}',
        '{"data": [{"index": 0, "embedding": [NaN]}]}', '{"error": {"message": "busy"}}',
    ],
)  # fmt: skip
def test_no_response_is_worse_than_a_failed_request(llm_servers, llm_client, payload):
    server = llm_servers(payload=payload)
    client = llm_client(server, asks=1, retries=1)
    (answer,) = client.chat([profile(1)], "profile")
    vectors, failures = client.embed(["shoe"], "encode")
    assert answer.value is None and answer.error and "\n" not in answer.error
    assert list(failures) == [0] and not vectors.any()
    assert client.costs()["profile"]["failed"] == client.costs()["encode"]["failed"] == 1


def test_retry_after_is_waited_for_within_reason(llm_servers, llm_client):
    server = llm_servers(retry_after="0.4")
    server.misbehave(1.0, ["rate_limit"])
    client = llm_client(server, retries=1)
    start = time.monotonic()
    client.chat([profile(1)], "profile")
    assert time.monotonic() - start >= 0.4
    server.retry_header, server.retry_after = "retry-after-ms", "3600000"
    with pytest.raises(EndpointError, match="asks to wait 3600 s"):
        client.chat([profile(2)], "profile")
    server.retry_header, server.retry_after = "retry-after", "Soon"
    assert client.chat([profile(2)], "profile")[0].error
    for far in ("3600", "1h", "60m0s", formatdate(time.time() + 3600, usegmt=True)):
        server.retry_after = far
        with pytest.raises(EndpointError, match=r"asks to wait 3[56]\d\d s, longer than max_wait"):
            client.chat([profile(2)], "profile")


@pytest.mark.parametrize(
    "error",
    [
        {"message": "quota", "details": [{"@type": "RetryInfo", "retryDelay": "3600.5s"}]},
        {"message": "Please retry after 3600 seconds."}, {"message": "Please retry in 3600.7s."},
        {"message": "Limit 6000, Used 6000. Please try again in 59m60.5s."},
        {"message": "try again in 1 hour"}, {"message": "try again in 1h0m3600ms"},
        "an instant, of OpenRouter",
    ],
)  # fmt: skip
def test_a_wait_that_the_body_of_an_error_asks_for_counts(llm_servers, llm_client, error):
    if isinstance(error, str):
        instant = int(time.time() * 1000) + 3_640_000
        error = {"metadata": {"headers": {"X-RateLimit-Reset": str(instant)}}}
    server = llm_servers(chat_as=lambda *_: (429, {"error": error}))
    with pytest.raises(EndpointError, match=r"asks to wait 36\d\d s"):
        llm_client(server).chat([profile(1)], "profile")


def test_equal_requests_are_asked_once(llm_server, llm_client):
    answers = llm_client(llm_server).chat([profile(1), profile(2), profile(1)], "profile")
    assert len(llm_server.log) == 2
    assert answers[0] == answers[2] != answers[1]


def test_it_works_inside_a_running_event_loop(llm_server, llm_client):
    client = llm_client(llm_server)

    async def notebook():
        return client.chat([profile(1)], "profile")

    assert values(asyncio.run(notebook()))


# -- what ends a run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, ConfigError, "refuses the key in EDT_TEST_KEY"),
        (404, ConfigError, "knows no model 'm' or has no API for chat"),
        (402, EndpointError, "no credit left"),
        (429, EndpointError, "no credit left"),
    ],
)
def test_what_no_request_can_get_past_ends_the_run(
    llm_servers, llm_client, monkeypatch, status, error, said
):
    monkeypatch.setenv("EDT_TEST_KEY", KEY)
    server = llm_servers(refuse=(status, "insufficient_quota"))
    client = llm_client(server, **{"chat.key_env": "EDT_TEST_KEY", "concurrency": 4})
    with pytest.raises(error, match=said) as caught:
        client.chat(mixed(100), "generate")
    said = str(caught.value)
    assert f"(HTTP {status}: insufficient_quota" in said  # the server's words
    assert KEY not in said and "\n" not in said  # the server says it back
    assert len(server.log) <= 4


def test_a_run_that_ends_keeps_the_answers_under_way(llm_servers, llm_client):
    """The key is withdrawn while other calls are still under way: what they bring is kept."""
    server = llm_servers(refuse=(401, "withdrawn"), refuse_after=20, latency_s=0.1)
    requests = mixed(60)
    with llm_client(server, concurrency=12) as client:
        with pytest.raises(ConfigError):
            client.chat(requests, "generate")
        assert client.costs()["generate"]["answered"] == 20
    server.refuse = None
    with llm_client(server) as client:
        answers = client.chat(requests, "generate")
    assert sum(answer.cached for answer in answers) == 20
    assert values(answers)
    assert set(server.tally()["questions"].values()) == {1}


def test_a_server_that_dies_ends_the_run(llm_servers, llm_client, monkeypatch):
    monkeypatch.setattr(transport_room, "LOST_IN_A_ROW", 5)
    server = llm_servers(refuse=(500, "out of order"), refuse_after=9)
    with pytest.raises(EndpointError, match="5 chat requests in a row were lost"):
        llm_client(server, retries=1).chat(mixed(40), "generate")


def test_a_server_that_is_gone_ends_the_run_soon(llm_servers, llm_client):
    server = llm_servers()
    client = llm_client(server, retries=1, concurrency=1)
    client.check(["chat"])
    server.stop()
    with pytest.raises(EndpointError, match=r"3 chat requests in a row were lost.*the connection"):
        client.chat(mixed(20), "generate")


def test_without_a_terminal_lines_tell_how_far_a_stage_is(
    llm_servers, llm_client, monkeypatch, capsys
):
    monkeypatch.setattr(progress, "EVERY_S", 0.05)
    client = llm_client(llm_servers(latency_s=0.1), concurrency=2)
    client.chat(mixed(8), "generate")
    lines = [line for line in capsys.readouterr().err.splitlines() if " of 8 after " in line]
    assert lines and all(line.startswith("generate: ") for line in lines)
    assert 0.5 < client.costs()["generate"]["in_flight"] <= 2


# -- the cache ------------------------------------------------------------------------------------


def test_a_second_client_pays_nothing(llm_server, llm_client):
    llm_server.misbehave(0.3, seed=2)
    requests, texts = mixed(60), [f"shoe {n}" for n in range(50)]
    with llm_client(llm_server) as client:
        first, (vectors, _) = client.chat(requests, "generate"), client.embed(texts, "encode")
        paid = client.costs()
    calls = llm_server.arrived
    with llm_client(llm_server) as client:
        second, (again, _) = client.chat(requests, "generate"), client.embed(texts, "encode")
        costs = client.costs()
    assert llm_server.arrived == calls
    assert values(second) == values(first)
    assert all(answer.cached for answer in second)
    assert again.tobytes() == vectors.tobytes()
    for stage, n in (("generate", 60), ("encode", 50)):
        assert costs[stage]["from_cache"] == costs[stage]["answered"] == n
        assert costs[stage]["dollars"] == pytest.approx(paid[stage]["dollars"]) != 0


@pytest.mark.parametrize(
    "change",
    [
        {"chat.model": "other"}, {"chat.temperature": 0.7}, {"chat.max_tokens": 77},
        {"chat.json_mode": False}, {"chat.extra": {"seed": 1}},
    ],
)  # fmt: skip
def test_another_setting_is_another_request(llm_server, llm_client, change):
    with llm_client(llm_server) as client:
        client.chat([profile(1)], "profile")
    llm_server.model = change.get("chat.model", "m")
    with llm_client(llm_server, **change) as client:
        (answer,) = client.chat([profile(1)], "profile")
    assert not answer.cached
    assert len(llm_server.log) == 2


def test_one_run_at_a_time_holds_the_cache(llm_server, llm_client):
    with llm_client(llm_server), pytest.raises(DataError, match="in use by another run"):
        llm_client(llm_server)


@pytest.mark.parametrize("content", [b"no database at all, " * 200, None])
def test_a_file_that_is_no_cache_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "llm.sqlite"
    if content is None:
        base = sqlite3.connect(path)
        base.execute("CREATE TABLE mine (x)")
        base.commit()
        base.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"llm\.sqlite"):
        LLMClient(LLMSettings.load("vllm"), path)
    assert content is None or path.read_bytes() == before


# -- embeddings -----------------------------------------------------------------------------------


def test_a_text_that_is_refused_fails_alone(llm_servers, llm_client):
    server = llm_servers(unreadable="poison")
    texts = [f"shoe {n}" for n in range(40)]
    texts[13] = "poison"
    texts[21] = "  "
    vectors, failures = llm_client(server).embed(texts, "encode")
    assert failures == {13: "HTTP 400: a text cannot be read", 21: "the text is empty"}
    assert [n for n, row in enumerate(vectors) if not row.any()] == [13, 21]


def test_vectors_of_another_size_are_not_mixed_in(llm_servers, llm_client):
    """A local server that was restarted with another model under the same name."""
    small = '{"data": [{"embedding": [1, 2]}]}'
    server = llm_servers(payload=small)
    with llm_client(server, retries=0) as client:
        client.embed(["a"], "encode")
        server.payload = '{"data": [{"embedding": [1, 2, 3]}]}'
        vectors, failures = client.embed(["a", "b"], "encode")
        assert vectors.tolist() == [[1, 2], [0, 0]]
        assert failures == {1: "the vectors have 3 dimensions, not 2"}
        assert client.embed(["b"], "more")[1] == {0: failures[1]}
    with llm_client(server, retries=0) as client:
        client.embed(["b"], "encode")
        with pytest.raises(DataError, match="vectors of several sizes under the name"):
            client.embed(["a", "b"], "encode")


# -- costs ----------------------------------------------------------------------------------------


def test_max_cost_stops_before_the_request_that_could_pass_it(llm_server, llm_client):
    requests, patient = mixed(200), {"chat.timeout_s": 20.0}  # a loaded machine answers late
    with llm_client(llm_server, max_cost=0.02, concurrency=16, **patient) as client:
        client.chat([profile(user) for user in range(300, 304)], "earlier")
        with pytest.raises(CostLimitError, match=r"of 0\.0200 dollars.*raise max_cost to go on"):
            client.chat(requests, "generate")
        costs = client.costs()
    assert costs["earlier"]["dollars"] > 0 and costs["generate"]["dollars"] > 0
    assert sum(stage["dollars"] for stage in costs.values()) <= 0.02
    answered = costs["generate"]["answered"]
    assert 0 < answered == len(llm_server.log) - 4 < 196
    with llm_client(llm_server, **patient) as client:
        assert sum(answer.cached for answer in client.chat(requests, "generate")) == answered
    assert set(llm_server.tally()["questions"].values()) == {1}


def test_costs_are_what_the_server_reports(llm_server, llm_client):
    client = llm_client(llm_server)
    client.chat([profile(1), profile(2)], "profile")
    client.embed(["one two", "three"], "encode")
    costs = client.costs()
    chat = costs["profile"]
    assert chat["dollars"] == pytest.approx(
        (chat["prompt_tokens"] * 1.0 + chat["completion_tokens"] * 2.0) / 1e6
    )
    assert (chat["requests"], chat["answered"], chat["failed"]) == (2, 2, 0)
    assert costs["encode"]["prompt_tokens"] == 3
    assert costs["encode"]["dollars"] == pytest.approx(3 * 0.5 / 1e6)


# -- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["two words", "ключ", "line\nbreak"])
def test_what_cannot_be_a_key_is_refused_without_showing_it(
    llm_server, llm_client, monkeypatch, key
):
    monkeypatch.setenv("EDT_TEST_KEY", key)
    client = llm_client(llm_server, **{"chat.key_env": "EDT_TEST_KEY"})
    with pytest.raises(ConfigError, match="EDT_TEST_KEY holds is no key") as caught:
        client.chat([profile(1)], "profile")
    assert key not in str(caught.value)
