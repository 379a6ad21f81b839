"""Reading what a model wrote: what is found, what is mended, what is refused."""

import json
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from recbole_edt.augment.llm.reading import (
    Figure,
    Mismatch,
    Reply,
    Several,
    Words,
    read_answer,
    read_message,
)
from recbole_edt.augment.prompts import GeneratedItems, Texts, generated_items


class Thing(Reply):
    name: Words = Field(min_length=1)
    price: Figure


class Things(GeneratedItems):
    items: Annotated[list[Thing], Several] = Field(min_length=1)


class Told(Reply):
    said: Words
    price: Figure
    kinds: Annotated[list[Words], Several]


ONE = {"name": "a", "price": 1.0}
TWO = {"name": "b", "price": 2.0}


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "a", "price": 1}',
        '```json\n{"name": "a", "price": 1}\n```',
        '```\n{"name": "a", "price": 1}',
        'As {you} asked in [1]: {"name": "a", "price": 1}. Is it {good}?',
        '<think>{"name": "draft", "price": 9}</think>\n{"name": "a", "price": 1}',
        '{"name": "a", "price": 1,}',
        '{"name": "a", "price": "$1.00"}',
        '{"name": "a", "price": 1, "colour": "red"}',
        '{"price": 1, "name": "a"',
        '[{"wrong": 1}] {"name": "a", "price": 1}',
    ],
)
def test_one_object_is_found(text):
    assert read_answer(text, Thing) == ONE


def test_a_figure_at_the_end_of_a_cut_text_is_not_trusted():
    """It may have gone on: 1999."""
    with pytest.raises(Mismatch, match="lacks price"):
        read_answer('{"name": "a", "price": 1', Thing)


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ('{"items": [{"name": "a", "price": 1}, {"name": "b", "price": 2}', [ONE, TWO]),
        ('{"items": [{"name": "a", "price": 1}, {"name": "b", "price": 2', [ONE]),
        ('{"items": [{"name": "a", "price": 1}, {"name": "b", "pr', [ONE]),
        ('{"items": [{"name": "a", "price": 1}, {"name": "b\\', [ONE]),
        ('{"items": [{"name": "a", "price": 1},', [ONE]),
        ('{"items": [{"name": "a", "price": 1}, {"name": "b", "price": 2},],}', [ONE, TWO]),
        ('[{"name": "a", "price": 1}]', [ONE]),
        ('{"name": "a", "price": 1}', [ONE]),
        ('{"items": {"name": "a", "price": 1}}', [ONE]),
    ],
)
def test_a_list_of_objects_is_mended(text, things):
    assert read_answer(text, Things) == {"items": things}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no JSON in the answer"),
        ("I like that.", "there is no JSON in the answer"),
        ("I'm sorry, I cannot help.", "the model refused: I'm sorry"),
        ('{"items": []}', "items: list should have at least 1 item"),
        ('{"others": [{"title": "a", "price": 1}]}', r"lacks items\[0\] name"),
        ('{"items": [{"title": "a", "price": 1}]}', r"lacks items\[0\] name"),
        ('{"items": [{"name": "", "price": 1}]}', "at least 1 character"),
        ('{"items": "a"}', "valid dictionary"),
        ("{" * 5000, "at least 1 item"),
        ("[" * 5000, "at least 1 item"),
        ('{"a":' * 50_000, "at least 1 item"),
    ],
)
def test_what_cannot_be_mended_is_refused_with_a_reason(text, reason):
    with pytest.raises(Mismatch, match=reason):
        read_answer(text, Things)


def shoe(*names):
    return ", ".join(f'{{"title": "{name}"}}' for name in names)


LIST = f'{{"items": [{shoe("a", "b")}]}}'


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        (f"{LIST}\n\nI left out {shoe('x')} and [{shoe('y')}].", "ab"),
        (f"{LIST} I left out {shoe('x', 'y', 'z')}, as [you] asked.", "ab"),
        (f'Say {{"items": [{shoe("x")}]}}, or better {LIST}', "ab"),
        (f'Say {{"items": [{shoe("x")},]}}, or better {LIST}', "ab"),
        (f'Such as {shoe("x")}:\n{LIST[:-2]}, {{"tit', "ab"),
        (f"[{shoe('a', 'b')}] but not {shoe('x')}", "ab"),
        (f"{shoe('a')}\n{shoe('b')}\n{shoe('c')}\nbut neither {shoe('x')} nor {shoe('y')}", "abc"),
        ("\n".join(f"Item {n}:\n```json\n{shoe(n)}\n```" for n in "123"), "123"),
        ("\n".join(f'{{"item": {shoe(name)}}}' for name in "ab"), "ab"),
        ("".join(map(shoe, "abcdefghijklmnopqrstuvwxyz")), "abcdefghijklmnopqrstuvwxyz"),
        (f'{shoe("a")}\n{shoe("b")}\n{{"title": "', "ab"),
        (f'{{"items": [{shoe("a")} {shoe("b")}]}}', "ab"),
        (f"{{\"items\": [{shoe('a')}, {{'title': 'b'}}, {shoe('c')}]}} not {shoe('x')}", "abc"),
        (f"Say {shoe('x')}. No: {shoe('a')}", "a"),
        (
            f'{{"items": [null, {shoe("a")}, {{"price": 1}}, "x", {{"title": []}}, {shoe("b")}]}}',
            "ab",
        ),
    ],
)
def test_the_list_counts_and_no_remark_or_draft(text, titles):
    read = read_answer(text, generated_items(["title", "price"]))["items"]
    assert "".join(item["title"] for item in read) == titles


@pytest.mark.parametrize(
    "text",
    [
        '{"Items": [{"Title": "Tent", "BRAND": "Tarnavel"}]}',
        '[{"TITLE": "Tent", "Brand": "Tarnavel"}]',
        '{"Item": {"title": "Tent", "brand": "Tarnavel"}}',
        '{"recommendations": [{"title": "Tent", "brand": "Tarnavel"}]}',
        '{"status": "ok", "result": {"items": [{"title": "Tent", "brand": "Tarnavel"}]}}',
        '{"items": [{"name": "Tent", "brand": "Tarnavel"}]}',
        '{"products": [{"product_name": "Tent", "brand": "Tarnavel"}]}',
        '{"items": {"1": {"title": "Tent", "brand": "Tarnavel"}}}',
        '{"item1": {"title": "Tent", "brand": "Tarnavel"}}',
        '<tool_call>{"name": "answer", "arguments": '
        '{"items": [{"title": "Tent", "brand": "Tarnavel"}]}}</tool_call>',
    ],
)
def test_fields_count_in_any_case_and_under_another_name_of_the_list(text):
    reply = generated_items(["title", "brand"])
    assert read_answer(text, reply) == {"items": [{"title": "Tent", "brand": "Tarnavel"}]}


@pytest.mark.parametrize("around", ['{"items": %s}', "%s"])
def test_numbered_elements_are_all_of_the_list(around):
    numbered = json.dumps({f"item {n}": {"title": f"Tent {n}"} for n in range(3)})
    found = read_answer(around % numbered, generated_items(["title"]))
    assert found == {"items": [{"title": f"Tent {n}"} for n in range(3)]}


def test_a_column_of_the_data_called_name_is_no_title():
    reply = generated_items(["title", "name"])
    found = read_answer('{"items": [{"title": "Tent", "name": "T-1"}]}', reply)
    assert found == {"items": [{"title": "Tent", "name": "T-1"}]}
    with pytest.raises(Mismatch, match="lacks items\\[0\\] title"):
        read_answer('{"items": [{"name": "T-1"}]}', reply)


def test_columns_keep_the_case_of_the_data():
    found = read_answer(
        '{"items": [{"title": "Dune", "author": "H"}]}', generated_items(["title", "Author"])
    )
    assert found == {"items": [{"title": "Dune", "Author": "H"}]}


def test_what_is_inside_an_object_counts_only_where_nothing_else_does():
    told = '{"Texts": ["Buys tents and boots for long walks."]}'
    assert read_answer(told, Texts) == {"texts": ["Buys tents and boots for long walks."]}
    draft = '{"plan": ["First I look at all of the tents."]}\n' + told
    assert read_answer(draft, Texts)["texts"] == ["Buys tents and boots for long walks."]


def test_texts_are_a_list_too_and_none_of_them_is_left_out():
    said = [f"They like {what} very much." for what in ("boots", "socks")]
    lines = "\n".join(json.dumps({"text": text}) for text in said)
    assert read_answer(lines, Texts) == {"texts": said}
    with pytest.raises(Mismatch, match=r"texts\[0\]"):  # each belongs to a group
        read_answer(json.dumps({"texts": [None, *said]}), Texts)


def test_an_optional_field_that_cannot_be_read_is_empty():
    odd = {"title": "a", "price": "tba", "brand": ["B"], "categories": {"x": [1]}, "colour": {}}
    reply = generated_items([column for column in odd if column != "colour"])
    (item,) = read_answer(json.dumps({"items": [odd]}), reply)["items"]
    assert item == {"title": "a", "price": None, "brand": "", "categories": []}


THOUGHTS = [
    ("<think>", "</think>"), ("<Thinking>", "</Thinking>"), ("<seed:think>", "</seed:think>"),
    ("<reasoning>", "</reasoning>"), ("<thought effort='high'>", "</thought>"),
    ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<|think|>", "<|/think|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"), ("<|channel>thought\n", "<channel|>"),
    ("<|start|>assistant<|channel|>analysis<|message|>",
     "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
    ("analysisWe need shoes.", "assistantfinal"),
    ("Here is my thought process:", "\nHere is my response:"),
    ("Here are my reasoning steps:", "\n[BEGIN FINAL RESPONSE]"),
]  # fmt: skip


@pytest.mark.parametrize(("start", "end"), THOUGHTS, ids=lambda mark: mark[:20])
def test_a_draft_among_thoughts_is_no_answer(start, end):
    def said(content):
        return read_message({"choices": [{"message": {"content": content}}]})

    draft = LIST.replace("a", "draft")
    assert said(f"{start} Say {draft}").text == ""
    for text in (f"{start} Say {draft}, but no.{end} {LIST}", f"Say {draft} {end}{LIST}"):
        assert json.loads(said(text).text) == json.loads(LIST) and said(text).thought
    if not start.startswith("analysis"):
        assert said(f"{LIST}\n{start} Or {draft}?").text == LIST


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "tool_calls": [{"type": "function", "function": {"arguments": LIST}}]},
        {"content": "", "tool_calls": [{"function": {"arguments": json.loads(LIST)}}]},
        {"content": " ", "function_call": {"name": "answer", "arguments": LIST}},
        {"tool_calls": [{"function": {"arguments": shoe(name)}} for name in "ab"]},
        {"content": LIST, "tool_calls": [{"function": {"arguments": shoe("x")}}]},
    ],
)
def test_an_answer_may_be_what_a_tool_is_called_with(message):
    said = read_message({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    read = read_answer(said.text, generated_items(["title"]))["items"]
    assert [item["title"] for item in read] == ["a", "b"]


@pytest.mark.parametrize("calls", [3, [None], [{}], [{"function": 1}], [{"function": {}}], {}])
def test_calls_that_hold_no_answer_are_none(calls):
    assert read_message({"choices": [{"message": {"tool_calls": calls}}]}).text == ""


_name = st.text(min_size=1).filter(str.strip)
_thing = st.fixed_dictionaries({"name": _name, "price": st.floats(0, 1e6)})


@given(st.lists(_thing, min_size=1, max_size=4), st.data())
def test_what_is_kept_of_a_text_cut_anywhere_is_its_beginning(things, data):
    text = json.dumps({"items": things}, ensure_ascii=data.draw(st.booleans()))
    cut = data.draw(st.integers(0, len(text)))
    whole = read_answer(text, Things)["items"]
    try:
        kept = read_answer(text[:cut], Things)["items"]
    except Mismatch:
        kept = []
    assert kept == whole[: len(kept)]


@given(st.text())
def test_no_text_is_worse_than_a_mismatch(text):
    try:
        read_answer(text, Things)
    except Mismatch as mismatch:
        assert "\n" not in str(mismatch)


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("said", 3, "3"), ("said", None, ""), ("said", " half \ud83d", "half ?"),
        *(("price", *pair) for pair in (
            (None, None), (-1, None), (10**400, None), (False, None), (float("nan"), None),
            ("", None), ("N/A", None), ("dear", None), ("1.2.3", None), (7, 7.0), ("7", 7.0),
            ("$1,299.50", 1299.5), ("US$ 20", 20.0), ("€12.50", 12.5), ("12.50 USD", 12.5),
            ("1.299,50", 1299.5), ("12,5 €", 12.5), ("1 299,00", 1299.0), ("1,299", 1299.0),
            ("$10 - $20", 10.0), ("10–20 euros", 10.0), ("10 to 20", 10.0))),
        ("kinds", "Shoes", ["Shoes"]), ("kinds", "", []),
        *((*wrong, Mismatch) for wrong in (
            ("said", True), ("said", ["a"]), ("kinds", None), ("kinds", [True]))),
    ],
)  # fmt: skip
def test_a_value_is_read_as_it_was_meant_or_refused(field, value, meant):
    text = json.dumps({"said": "a", "price": 1, "kinds": [], field: value})
    if meant is Mismatch:
        with pytest.raises(Mismatch, match=field):
            read_answer(text, Told)
    else:
        assert read_answer(text, Told)[field] == meant
