"""Servers that speak the API in their own way: each is got along with, or its words are shown."""

import json
import ssl
import subprocess
from contextlib import nullcontext
from itertools import chain, count, cycle
from shutil import which
from threading import Timer
from time import sleep

import numpy as np
import pytest
from llm_server import embedding
from questions import profile, request

from recbole_edt.augment.llm import endpoints, transport
from recbole_edt.augment.llm.transport import EndpointError
from recbole_edt.errors import ConfigError


def item(title):
    about = {"brand": "B", "price": 1.0, "categories": ["c"], "description": "d"}
    return {"title": title, **about}


def completion(content=None, finish="stop", **message):
    message = {"role": "assistant", "content": content, **message}
    return 200, {"choices": [{"message": message, "finish_reason": finish}], "usage": None}


def drafted(good):
    return good.replace('"title": "', '"title": "Draft ')


def events(good):
    thoughts = f"{drafted(good)}\u2028"  # a line's end within a text
    parts = [{"reasoning_content": thoughts}, {"content": good[:9]}, {"content": good[9:]}]
    lines = [json.dumps({"choices": [{"delta": part}]}, ensure_ascii=False) for part in parts]
    return 200, "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])


ANSWERED = {
    "tags": lambda good: completion(f"<thinking>{drafted(good)}</thinking>{good}"),
    "a field of thoughts": lambda good: completion(good, reasoning_content=drafted(good)),
    "an answer in a field of thoughts": lambda good: completion(None, reasoning_content=good),
    "an answer in a fence there": lambda good: completion("", reasoning=f"```json\n{good}\n```\n"),
    "parts": lambda good: completion(
        [{"type": "thinking", "thinking": [{"type": "text", "text": drafted(good)}]},
         {"type": "text", "text": good[:9]}, {"type": "text", "text": good[9:]}]
    ),
    "single quotes": lambda good: completion(repr(json.loads(good))),
    "a fence, a comma, a comment": lambda good: completion(
        f"Here:\n```json\n{good[:-1].replace('{', '{ // mine' + chr(10), 1)},}}\n```\nEnjoy!"
    ),
    "events": events,
    "events after a comment": lambda good: (200, f": wait\n\nevent: message\n{events(good)[1]}"),
    "parts that are texts": lambda good: completion([good[:9], good[9:]]),
    "a byte order mark": lambda good: (200, f"\ufeff{json.dumps(completion(good)[1])}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERED)
def test_an_answer_is_found_and_never_a_draft(llm_servers, llm_client, kind):
    server = llm_servers(chat_as=lambda body, good: ANSWERED[kind](good))
    (answer,) = llm_client(server).chat([request()], "generate")
    titles = [one["title"] for one in answer.value["items"]]
    assert len(titles) == 3 and not any("Draft" in title for title in titles)
    assert len(server.log) == 1


FAULTS = {
    "thoughts": lambda good: completion(None, reasoning_content=f"hm {good}"),
    "thoughts ": lambda good: completion(f"<think>Perhaps {good}", "length"),
    "refusal": lambda good: completion(None, refusal="I cannot help with that."),
    "refusal  ": lambda good: completion(json.dumps({"text": "I'm sorry, I can't do that."})),
    "refusal   ": lambda good: completion("", "content_filter"),
    "refusal    ": lambda good: completion(None, "SAFETY"),
    "empty ": lambda good: completion("", "model_length"),
    "empty": lambda good: completion("", "length"),
    "too short": lambda good: completion(json.dumps({"text": "Shoes."})),
    "unreadable": lambda good: completion("What a fine day."),
    "copy": lambda good: completion(json.dumps({"items": [item("Seen")] * 3})),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_counted_by_its_kind(llm_servers, llm_client, kind):
    said = []

    def chat_as(body, good):
        said.append(body["messages"][-1]["content"])
        return FAULTS[kind](good)

    client = llm_client(llm_servers(chat_as=chat_as), asks=1)
    (answer,) = client.chat([request() if kind == "copy" else profile()], "generate")
    assert answer.value is None
    reason = answer.error.removeprefix("no answer that can be used: ").partition(" (cut off")[0]
    reason, advice, _ = reason.partition(": switch")  # which tells the user what to do
    if kind.strip() in ("thoughts", "empty"):
        assert advice or "(cut off at max_tokens): switch" in answer.error
    assert said[1].startswith(f"This answer cannot be used: {reason}.") and len(said) == 2
    costs = client.costs()["generate"]
    assert costs["faults"][kind.strip()] >= 2 and costs["reasks"] == 1 and costs["calls"] == 2


@pytest.mark.parametrize(
    ("first", "more", "titles", "faults"),
    [
        (["a", "Seen", "b"], ["c", "d"], ["a", "b", "c"], {"copy": 1}),
        (["a"], ["a", "b", "c"], ["a", "b", "c"], {"too few": 1}),
        (["a"], ["b"], ["a", "b"], {"too few": 2}),
        (["a", "b", "c", "d"], [], ["a", "b", "c"], {}),
    ],
)
def test_what_is_missing_is_asked_for_once(llm_servers, llm_client, first, more, titles, faults):
    asked = []

    def chat_as(body, good):
        asked.append(body)
        names = first if len(body["messages"]) == 2 else more
        return completion(json.dumps({"items": [item(name) for name in names]}))

    server = llm_servers(chat_as=chat_as)
    for is_cached in (False, True):
        with llm_client(server) as client:
            (answer,) = client.chat([request()], "generate")
            counted = client.costs()["generate"]["faults"]
        assert [one["title"] for one in answer.value["items"]] == titles
        assert counted == faults and answer.cached == is_cached
    assert len(asked) == (2 if more else 1)
    lacking = 3 - len([name for name in first if name != "Seen"])
    for body, n in zip(asked, (3, lacking), strict=False):
        items = body["response_format"]["json_schema"]["schema"]["properties"]["items"]
        assert (items["minItems"], items["maxItems"]) == (n, n)
    if more:
        assert f"exactly {lacking} more" in asked[1]["messages"][-1]["content"]
        assert '"title": "a"' in asked[1]["messages"][-2]["content"]


# -- refusals -------------------------------------------------------------------------------------

WORDS = "turns must alternate"
BODIES = [
    {"error": {"message": WORDS, "code": "x"}}, {"error": WORDS, "error_type": "Validation"},
    {"detail": WORDS}, {"detail": [{"loc": ["body", "m"], "msg": WORDS}]}, {"message": WORDS},
    {"object": "error", "message": WORDS, "code": 400}, [{"error": {"message": WORDS}}], WORDS,
    f"<html><style>p {{}}</style><p>{WORDS}</p></html>",
]  # fmt: skip


WITHIN = {"error": {"message": WORDS, "code": 400}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, body) for status in (400, 422) for body in BODIES),
        (200, WITHIN), (200, {"message": WORDS, "code": 400}),
        (200, {"choices": [{"message": {"content": ""}, "finish_reason": "error", **WITHIN}]}),
    ],
)  # fmt: skip
def test_a_refusal_shows_the_words_of_the_server_and_is_not_repeated(
    llm_servers, llm_client, body, status
):
    server = llm_servers(chat_as=lambda *_: (status, body))
    client = llm_client(server)
    with pytest.raises(EndpointError, match=f"3 chat requests in a row .*{WORDS}"):
        client.chat([profile(n) for n in range(20)], "summarise")
    assert len(server.log) == 9  # three requests in three forms


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<html><p>Welcome</p></html>", "not JSON: Welcome"), ("[1]", "no JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"status": "ok"}', "has no list 'choices'"), ('{"base_resp": {"status_msg": "x"}}', "x"),
    ],
)  # fmt: skip
def test_another_kind_of_server_is_told_by_its_first_answer(llm_servers, llm_client, page, said):
    server = llm_servers(payload=page, greets=False)
    with pytest.raises(EndpointError, match=f"as an OpenAI API does .*{said}.*/v1"):
        llm_client(server).check(["chat"])


def test_answers_that_are_never_of_use_end_the_run(llm_servers, llm_client, monkeypatch):
    monkeypatch.setattr(transport, "LOST_IN_A_ROW", 5)
    server = llm_servers(chat_as=lambda *_: completion(None, "length", reasoning="hm"))
    with pytest.raises(
        EndpointError, match=r"5 chat .* in a row .* no answer .cut.*: switch .* chat.max_tokens"
    ):
        llm_client(server, asks=1, concurrency=1).chat([profile(n) for n in range(9)], "generate")
    assert len(server.log) == 10


def without_system(said, code):
    """Refuse messages of the system."""
    return lambda body, good: completion(good) if len(body["messages"]) == 1 else (code, said)


def refuse(field, said, value=None, code=400):
    """Refuse bodies that have a field (with that value)."""

    def chat_as(body, good):
        has = field in body if value is None else value in str(body.get(field))
        return (code, {"error": {"message": said}}) if has else completion(good)

    return chat_as


@pytest.mark.parametrize(
    ("chat_as", "forms"),
    [
        (refuse("response_format", "'response_format.type' must be 'text'"), 3),
        (refuse("response_format", "failed to parse grammar", "json_schema", 500), 2),
        (refuse("response_format", "Invalid schema: In context=('properties', 'items'), 'minItems' "
                "is not permitted.", "json_schema"), 2),
        (refuse("max_tokens", "Unsupported parameter: use 'max_completion_tokens' instead."), 2),
        (refuse("temperature", "'temperature' does not support 0.0 with this model"), 2),
        *((lambda body, good, said=said: events(good) if body.get("stream") else (400, said), 2)
          for said in ("This model only support stream mode", "not for non-streaming calls")),
        (without_system("System role not supported", 500), 2),
        (without_system("Conversation roles must alternate user/assistant/...", 500), 2),
        (without_system("Developer instruction is not enabled for models/gemma", 400), 2),
        (without_system("'messages[0].role' does not support 'system' with this model", 400), 2),
    ],
)  # fmt: skip
def test_a_form_that_is_refused_is_left_once_for_all(llm_servers, llm_client, chat_as, forms):
    server = llm_servers(chat_as=chat_as)
    answers = llm_client(server).chat([profile(n) for n in range(5)], "summarise")
    assert all(answer.value for answer in answers)
    assert len(server.log) == 5 + forms - 1


def test_calls_at_one_time_leave_a_form_once(llm_servers, llm_client):
    """The first call is lost, so that many find out at the same time what is refused."""
    forms = []

    def chat_as(body, good):
        form = body.get("response_format", {"type": "text"})["type"]
        forms.append(form)
        is_first = len(forms) == 1
        sleep(0.1)
        if is_first:
            return 503, "busy"
        return (400, "no such type") if form == "json_schema" else completion(good)

    client = llm_client(llm_servers(chat_as=chat_as), retries=0, concurrency=8)
    answers = client.chat([profile(n) for n in range(20)], "summarise")
    assert sum(answer.value is None for answer in answers) == 1
    assert set(forms) == {"json_schema", "json_object"} and forms.count("json_object") == 19


def test_one_text_that_moderation_refuses_fails_alone(llm_servers, llm_client):
    def chat_as(body, good):
        is_bad = "user 3 " in body["messages"][-1]["content"]
        return (403, {"error": {"message": "your input was flagged"}}) if is_bad else None

    client = llm_client(llm_servers(chat_as=chat_as))
    answers = client.chat([profile(n) for n in range(6)], "summarise")
    assert [answer.error for answer in answers if answer.error] == [
        "HTTP 403: your input was flagged"
    ]


def test_a_later_run_that_asks_only_for_what_moderation_refused_goes_on(llm_servers, llm_client):
    def chat_as(body, good):
        is_bad = "user 3 " in body["messages"][-1]["content"]
        return (403, {"error": {"message": "your input was flagged"}}) if is_bad else None

    server, asked = llm_servers(chat_as=chat_as), [profile(n) for n in range(6)]
    with llm_client(server) as client:
        client.chat(asked, "summarise")
    with llm_client(server) as client:
        answers = client.chat(asked, "summarise")
    assert [answer.cached for answer in answers] == [n != 3 for n in range(6)]
    assert answers[3].error == "HTTP 403: your input was flagged"


def test_json_that_a_server_could_not_make_is_asked_for_again(llm_servers, llm_client):
    failing = count()

    def chat_as(body, good):
        error = {"message": "Failed to generate JSON.", "code": "json_validate_failed"}
        return (400, {"error": error}) if next(failing) % 2 else None

    client = llm_client(llm_servers(chat_as=chat_as), concurrency=1)
    assert all(answer.value for answer in client.chat([profile(n) for n in range(4)], "summarise"))
    assert client.costs()["summarise"]["retries"] == 3


@pytest.mark.parametrize(
    "said", ["Budget has been exceeded! Current cost: 14, Max budget: 10", "credit balance too low"]
)
def test_a_budget_that_is_used_up_ends_the_run_and_cuts_no_text(llm_servers, llm_client, said):
    server = llm_servers(embed_as=lambda body: (400, {"error": {"message": said}}))
    with pytest.raises(EndpointError, match=f"no credit left at .*{said[:9]}"):
        llm_client(server).embed([f"shoe {number}" for number in range(40)], "encode")
    assert len(server.log) == 1


def test_a_context_that_is_too_small_ends_the_run_at_once(llm_servers, llm_client):
    said = "the request exceeds the available context size, try increasing it"
    server = llm_servers(chat_as=lambda *_: (400, {"error": {"message": said, "code": 400}}))
    with pytest.raises(EndpointError, match=f"longest prompt of stage generate .*{said}"):
        llm_client(server).chat([profile(n) for n in range(20)], "generate")
    assert len(server.log) == 1


def test_another_model_behind_the_name_is_noticed(llm_servers, llm_client, caplog):
    server = llm_servers()
    requests = [profile(n) for n in range(3)]
    for size, asked in ((7, 3), (7, 3), (8, 6), (7, 6)):
        server.size = size
        with llm_client(server) as client:
            client.chat(requests, "summarise")
        assert len(server.log) == asked
    assert caplog.text.count("another chat model answers") == 2


@pytest.mark.parametrize(
    "change", [{"offer": {"pricing": "2e-7"}}, {"lists": 503}, {"refuse": (503, "overloaded")}]
)
def test_another_offer_or_a_server_in_trouble_is_no_other_model(llm_servers, llm_client, change):
    server = llm_servers(offer={"pricing": "1e-7"})
    assert run(llm_client, server, 3) == 0
    vars(server).update(change)
    assert run(llm_client, server, 3) == 3
    assert set(server.tally()["questions"].values()) == {1}


def test_a_model_that_is_still_loaded_is_waited_for(llm_servers, llm_client, monkeypatch):
    monkeypatch.setattr(endpoints, "LOOK_S", 0.01)
    server = llm_servers(offer={"owned_by": "llamacpp", "meta": None})
    Timer(0.1, server.offer.clear).start()
    assert run(llm_client, server, 2) == 0 and not server.offer
    assert run(llm_client, server, 2) == 2


def test_only_llama_cpp_is_waited_for(llm_servers, llm_client, monkeypatch):
    monkeypatch.setattr(endpoints, "LOOK_S", 60.0)
    assert run(llm_client, llm_servers(offer={"owned_by": "system", "meta": None}), 2) == 0


LOADED = {"meta": {"size": 7, "n_embd": 64}, "source": "cache"}


@pytest.mark.parametrize("first, then", [({"meta": None}, LOADED), (LOADED, {"meta": None})])
def test_a_router_that_has_loaded_its_model_has_no_other_one(
    llm_servers, llm_client, caplog, first, then
):
    server = llm_servers(offer=first)
    assert run(llm_client, server, 3) == 0
    server.offer = then
    assert run(llm_client, server, 3) == 3
    server.offer = LOADED | {"id": server.model + "-2"}
    assert run(llm_client, server, 3) == 0
    assert caplog.text.count("another chat model answers") == 1


def naming(names):
    """A server whose answers name these models, one after the other."""
    answered = []

    def chat_as(body, good):
        answered.append(next(names))
        return 200, completion(good)[1] | {"model": answered[-1]}

    return answered, chat_as


def run(llm_client, server, n):
    """Ask ``n`` questions; give the number of answers that were cached."""
    with llm_client(server, concurrency=1) as client:
        answers = client.chat([profile(user) for user in range(n)], "summarise")
        assert all(answer.value for answer in answers)
    return sum(answer.cached for answer in answers)


ROUTERS = {"new each time": lambda: map(str, count()), "two": lambda: cycle("ab"),
           "one seldom": lambda: cycle("mmmb")}  # fmt: skip


@pytest.mark.parametrize("is_listed", [True, False])
@pytest.mark.parametrize("kind", ROUTERS)
def test_a_router_counts_as_one_model(llm_servers, llm_client, caplog, kind, is_listed):
    answered, chat_as = naming(ROUTERS[kind]())
    server = llm_servers(chat_as=chat_as, greets=is_listed)
    run(llm_client, server, 12)
    paid, greeting = len(answered), int(not is_listed)
    assert paid <= 12 + 2 + greeting and caplog.text.count("several chat models in turn") == 1
    assert run(llm_client, server, 12) == 12 and len(answered) == paid + greeting
    assert run(llm_client, server, 14) == 12 and len(answered) == paid + 2 * greeting + 2
    assert caplog.text.count("another chat model") <= 2 and caplog.text.count("in turn") == 1


def test_what_was_paid_under_any_name_of_a_router_is_found(llm_servers, llm_client):
    answered, chat_as = naming(chain("mm", "bbbbb", cycle("mb")))
    server = llm_servers(chat_as=chat_as)
    assert run(llm_client, server, 2) == 0
    assert run(llm_client, server, 4) == 0  # another model: all anew
    # it changes back and forth: two of each count, of which one was asked again to find that out
    assert run(llm_client, server, 6) == 4
    assert len(answered) == 2 + 5 + 4 and run(llm_client, server, 6) == 6


def test_a_model_that_is_started_again_finds_its_own_answers(llm_servers, llm_client, caplog):
    answered, chat_as = naming(chain("mm", "bbbb", "mmm"))
    server = llm_servers(chat_as=chat_as)
    assert [run(llm_client, server, n) for n in (2, 3, 3, 4)] == [0, 0, 3, 2]
    assert len(answered) == 9 and "in turn" not in caplog.text


def test_vectors_of_a_router_are_kept(llm_servers, llm_client, caplog):
    names = cycle("ab")
    server = llm_servers(
        embed_as=lambda body: (200, vectors(body["input"])[1] | {"model": next(names)})
    )
    texts = [f"shoe {number}" for number in range(9)]
    for n in (6, 9):
        with llm_client(server, **{"embedding.batch_size": 1, "concurrency": 1}) as client:
            assert client.embed(texts[:n], "encode")[0].any(axis=1).all()
    assert len(server.log) == 9 + 2 and caplog.text.count("embedding models in turn") == 1


def test_a_server_on_this_machine_is_asked_without_the_proxy(llm_servers, llm_client, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    assert run(llm_client, llm_servers(), 1) == 0


@pytest.mark.skipif(not which("openssl"), reason="makes a certificate")
def test_a_certificate_of_ones_own_is_named_by_the_environment(
    llm_servers, llm_client, monkeypatch, tmp_path
):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    made = "req -x509 -newkey rsa:2048 -nodes -subj /CN=me -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        ["openssl", *made.split(), "-keyout", "key.pem", "-out", "certificate.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    plain, server = llm_servers(), llm_servers()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    server._http.socket = context.wrap_socket(server._http.socket, server_side=True)

    def ask(one):
        url = f"https://127.0.0.1:{one.port}/v1"
        with llm_client(one, **{"chat.base_url": url, "retries": 0}) as client:
            return client.chat([profile(1)], "summarise")

    with pytest.raises(EndpointError, match=r"self-signed cert.*: name a file .*SSL_CERT_"):
        ask(server)
    with pytest.raises(EndpointError, match="speaks http and not https, correct the address"):
        ask(plain)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    assert ask(server)[0].value


def test_a_proxy_that_cannot_be_used_is_told(llm_servers, llm_client, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"the proxy or certificates .* Unknown scheme"):
        llm_client(llm_servers(), **{"chat.base_url": "https://example.org/v1"}).check(["chat"])


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, None),
        *((code, r"set chat.model to one of \* \(.*not this one") for code in (400, 404, 503)),
        (401, "refuses a call without a key"),
    ],
)
def test_a_model_that_the_list_lacks_is_tried(llm_servers, llm_client, status, said):
    client = llm_client(llm_servers(model="*", unlisted=status), retries=0)
    with pytest.raises(ConfigError, match=said) if said else nullcontext():
        client.check(["chat"])


def test_an_endpoint_that_is_away_is_not_needed_for_known_answers(llm_servers, llm_client):
    server = llm_servers()
    with llm_client(server) as client:
        client.chat([profile(1)], "summarise")
    server.stop()
    with llm_client(server) as client:
        assert client.chat([profile(1)], "summarise")[0].cached
        with pytest.raises(EndpointError, match="does not answer"):
            client.chat([profile(2)], "summarise")


# -- embeddings -----------------------------------------------------------------------------------


def vectors(texts, **fields):
    return 200, {"data": [{"embedding": embedding(text), **fields} for text in texts]}


def limited(n, said, code=400):
    return lambda body: (code, said) if len(body["input"]) > n else vectors(body["input"])


def longest(said, code):
    return lambda body: (
        (code, said) if any(len(text) > 400 for text in body["input"]) else vectors(body["input"])
    )


@pytest.mark.parametrize(
    ("n", "said", "code", "calls"),
    [
        # 600 texts, 256 at a time: one refusal, then as many calls as the limit needs
        (10, "batch size is invalid, it should not be larger than 10.", 400, 1 + 26 + 35),
        (64, {"error": "batch size 256 > maximum allowed batch size 64"}, 422, 1 + 4 + 6),
        (2048, "array too long, at most 2048", 400, 3),
        # 256, 128, 64, 32, 16 are refused, 8 is taken
        (10, "input is too large to process", 500, 5 + 32 + 43),
    ],
)
def test_the_batch_size_that_is_taken_is_found_once(llm_servers, llm_client, n, said, code, calls):
    server = llm_servers(embed_as=limited(n, said, code))
    texts = [f"shoe {number}" for number in range(600)]
    settings = {"embedding.batch_size": 256, "concurrency": 8, "embedding.timeout_s": 20.0}
    with llm_client(server, **settings) as client:
        made, failures = client.embed(texts, "encode")
    assert not failures and np.array_equal(made, np.float32([embedding(text) for text in texts]))
    assert len(server.log) == calls
    with llm_client(server, **settings) as client:  # kept for the next run
        client.embed([f"boot {number}" for number in range(64)], "encode")
    assert len(server.log) == calls + -(-64 // {10: 8 if calls > 62 else 10}.get(n, 64))


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("input (612 tokens) is too large to process. increase the physical batch size (current "
         "batch size: 512)", 500),
        ("This model's maximum context length is 8192 tokens", 400),
        ("InternalError.Algo.InvalidParameter: Range of input length should be [1, 8192]", 400),
    ],
)  # fmt: skip
def test_a_text_that_is_too_long_is_cut_and_named(llm_servers, llm_client, caplog, said, code):
    server = llm_servers(embed_as=longest(said, code))
    texts = [f"shoe {number}" for number in range(20)]
    texts[7] = "boot " * 300
    made, failures = llm_client(server).embed(texts, "encode")
    assert not failures and made.any(axis=1).all()
    assert "1 texts are longer than the model takes and were cut, such as 'boot" in caplog.text
    sent = [text for call in server.log if call.answers for text in call.texts]
    (cut,) = (text for text in sent if text.startswith("boot"))
    assert 200 < len(cut) <= 400
    assert len(server.log) < 20  # it is looked for in halves


@pytest.mark.parametrize(
    "embed_as",
    [
        lambda body: vectors(body["input"], index=0),
        lambda body: (200, {"data": [{"embedding": embedding(text), "index": str(n)} for n, text
                                     in reversed([*enumerate(body["input"], start=1)])]}),
        lambda body: vectors(body["input"]),
        lambda body: None if body["encoding_format"] == "float" else (400, "only 'float' is taken"
                                                                      " as encoding_format"),
        *(lambda body, said=said: vectors(body["input"]) if "encoding_format" not in body else
          (400, said) for said in ('Unknown name "encoding_format"', "PROXY_READ_ERROR")),
    ],
)  # fmt: skip
def test_vectors_are_read_as_they_come(llm_servers, llm_client, embed_as):
    texts = [f"shoe {number}" for number in range(40)]
    made, failures = llm_client(llm_servers(embed_as=embed_as)).embed(texts, "encode")
    assert not failures
    np.testing.assert_allclose(made, [embedding(text) for text in texts], atol=1e-6)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([1.0, 7e4], "the vectors hold values that are not numbers up to 65,504"),
        ([1.0, None], "the vectors hold values that are not numbers up to 65,504"),
        ([0.0, 0.0], "a vector is zero everywhere"),
    ],
)
def test_vectors_that_are_none_are_no_answer(llm_servers, llm_client, bad, said):
    def embed_as(body):
        data = [{"embedding": bad if "big" in text else [1.0, 2.0]} for text in body["input"]]
        return 200, {"data": data}

    client = llm_client(llm_servers(embed_as=embed_as), retries=0)
    made, failures = client.embed(["a shoe", "a big shoe"], "encode")
    assert made.tolist() == [[1, 2], [0, 0]]
    assert failures == {1: said}


def test_vectors_of_tokens_are_none_of_texts(llm_servers, llm_client):
    def embed_as(body):
        data = [{"embedding": [embedding(word) for word in text.split()]} for text in body["input"]]
        return 200, {"data": data}

    server = llm_servers(embed_as=embed_as)
    with pytest.raises(EndpointError, match="for each token of a text: start it with pooling"):
        llm_client(server).embed(["red shoe", "old hat"], "encode")
    assert len(server.log) == 1
