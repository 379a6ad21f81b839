"""Reading what a model wrote: what is found, what is mended, what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_edt.augment.llm.reading import read_answer
from recbole_edt.augment.llm.schema import Mismatch, conform

NUMBERS = {"type": "array", "items": {"type": "number"}}
THING = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "price": {"type": "number"}},
    "required": ["name", "price"],
}
THINGS = {
    "type": "object",
    "properties": {"things": {"type": "array", "minItems": 1, "items": THING}},
    "required": ["things"],
}
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
    assert read_answer(text, THING) == ONE


def test_a_figure_at_the_end_of_a_cut_text_is_not_trusted():
    """It may have gone on: 1999."""
    with pytest.raises(Mismatch, match="lacks 'price'"):
        read_answer('{"name": "a", "price": 1', THING)


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ('{"things": [{"name": "a", "price": 1}, {"name": "b", "price": 2}', [ONE, TWO]),
        ('{"things": [{"name": "a", "price": 1}, {"name": "b", "price": 2', [ONE]),
        ('{"things": [{"name": "a", "price": 1}, {"name": "b", "pr', [ONE]),
        ('{"things": [{"name": "a", "price": 1}, {"name": "b\\', [ONE]),
        ('{"things": [{"name": "a", "price": 1},', [ONE]),
        ('{"things": [{"name": "a", "price": 1}, {"name": "b", "price": 2},],}', [ONE, TWO]),
        ('[{"name": "a", "price": 1}]', [ONE]),
        ('{"name": "a", "price": 1}', [ONE]),
        ('{"things": {"name": "a", "price": 1}}', [ONE]),
    ],
)
def test_a_list_of_objects_is_mended(text, things):
    assert read_answer(text, THINGS) == {"things": things}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no JSON in the answer"),
        ("I cannot do that.", "there is no JSON in the answer"),
        ('{"things": []}', "'things' in the answer must hold at least 1, not 0"),
        ('{"items": [{"name": "a", "price": 1}]}', "lacks 'name'"),
        ('{"things": [{"title": "a", "price": 1}]}', "element 0 of 'things' .* lacks 'name'"),
        ('{"things": [{"name": "", "price": 1}]}', "must not be empty"),
        ('{"things": [{"name": "a", "price": "dear"}]}', "must be number"),
        ('{"things": [{"name": "a", "price": NaN}]}', "must be number"),
        ('{"things": [{"name": "a", "price": 1e999}]}', "must be number"),
        ('{"things": [{"name": "a", "price": true}]}', "must be number"),
        ('{"things": "a"}', "must be array"),
        ("{" * 5000, "must hold at least 1"),
        ("[" * 5000, "must hold at least 1"),
        ('{"a":' * 50_000, "must hold at least 1"),
    ],
)
def test_what_cannot_be_mended_is_refused_with_a_reason(text, reason):
    with pytest.raises(Mismatch, match=reason):
        read_answer(text, THINGS)


_things = st.lists(
    st.fixed_dictionaries(
        {"name": st.text(min_size=1).filter(str.strip), "price": st.floats(0, 1e6)}
    ),
    min_size=1,
    max_size=4,
)


@given(_things, st.data())
def test_what_is_kept_of_a_text_cut_anywhere_is_its_beginning(things, data):
    text = json.dumps({"things": things}, ensure_ascii=data.draw(st.booleans()))
    cut = data.draw(st.integers(0, len(text)))
    whole = read_answer(text, THINGS)["things"]
    try:
        kept = read_answer(text[:cut], THINGS)["things"]
    except Mismatch:
        kept = []
    assert kept == whole[: len(kept)]


@given(st.text())
def test_no_text_is_worse_than_a_mismatch(text):
    try:
        read_answer(text, THINGS)
    except Mismatch as mismatch:
        assert "\n" not in str(mismatch)


@pytest.mark.parametrize(
    ("value", "schema", "meant"),
    [
        (3, {"type": "string"}, "3"),
        (None, {"type": "string"}, ""),
        (None, {"type": ["number", "null"]}, None),
        ("1,299.50", {"type": ["number", "null"]}, 1299.5),
        ("7", {"type": "integer"}, 7),
        ("Shoes", {"type": "array", "items": {"type": "string"}}, ["Shoes"]),
        ([1, 2, 3], {**NUMBERS, "maxItems": 2}, [1, 2]),
        (True, {"type": "boolean"}, True),
        ("half \ud83d", {"type": "string"}, "half ?"),
        ({"any": "thing"}, {}, {"any": "thing"}),
    ],
)
def test_a_value_is_read_as_it_was_meant(value, schema, meant):
    assert conform(value, schema) == meant


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (1.5, {"type": "integer"}),
        (-1, {"type": "number", "minimum": 0}),
        (None, {"type": "string", "minLength": 1}),
        (10**400, {"type": "number"}),
        (1, {"type": "boolean"}),
        ([], {"type": "object"}),
        ({}, NUMBERS),
    ],
)
def test_a_value_that_means_nothing_is_refused(value, schema):
    with pytest.raises(Mismatch):
        conform(value, schema)
