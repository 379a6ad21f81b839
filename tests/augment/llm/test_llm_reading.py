"""Reading what a model wrote: what is found, what is mended, what is refused."""

import json
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from recbole_edt.augment.llm.reading import Figure, Mismatch, Reply, Several, Words, read_answer
from recbole_edt.augment.prompts import GeneratedItems


class Thing(Reply):
    name: Words = Field(min_length=1)
    price: Figure


class Things(GeneratedItems):
    items: Annotated[list[Thing], Several] = Field(min_length=1)


class Told(Reply):
    said: Words
    price: Figure | None
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
        ('{"others": [{"name": "a", "price": 1}]}', r"lacks items\[0\] name"),
        ('{"items": [{"title": "a", "price": 1}]}', r"lacks items\[0\] name"),
        ('{"items": [{"name": "", "price": 1}]}', "at least 1 character"),
        ('{"items": [{"name": "a", "price": "dear"}]}', "valid number"),
        ('{"items": [{"name": "a", "price": NaN}]}', "valid number"),
        ('{"items": [{"name": "a", "price": 1e999}]}', "finite number"),
        ('{"items": [{"name": "a", "price": true}]}', "must be a number"),
        ('{"items": "a"}', "valid dictionary"),
        ("{" * 5000, "at least 1 item"),
        ("[" * 5000, "at least 1 item"),
        ('{"a":' * 50_000, "at least 1 item"),
    ],
)
def test_what_cannot_be_mended_is_refused_with_a_reason(text, reason):
    with pytest.raises(Mismatch, match=reason):
        read_answer(text, Things)


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
        ("price", None, None), ("price", "$1,299.50", 1299.5),
        ("kinds", "Shoes", ["Shoes"]), ("kinds", "", []),
        *((*wrong, Mismatch) for wrong in (
            ("said", True), ("said", ["a"]), ("price", -1), ("price", 10**400), ("price", False),
            ("kinds", None), ("kinds", [True]))),
    ],
)  # fmt: skip
def test_a_value_is_read_as_it_was_meant_or_refused(field, value, meant):
    text = json.dumps({"said": "a", "price": 1, "kinds": [], field: value})
    if meant is Mismatch:
        with pytest.raises(Mismatch, match=field):
            read_answer(text, Told)
    else:
        assert read_answer(text, Told)[field] == meant
