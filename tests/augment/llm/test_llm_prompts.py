"""The prompts: asking for what is read, and the words for an imbalance."""

import json
import re

import pytest

from recbole_edt.augment.llm.reading import read_answer
from recbole_edt.augment.prompts import (
    Text,
    Texts,
    _template,
    generated_items,
    imbalance,
    item_form,
    prompt,
)  # fmt: skip

ITEM = {"title": "Pot", "brand": "MSR", "price": "40.00", "categories": "Camp | Cook", "genre": ""}
REPLIES = {
    "generate": generated_items(list(ITEM)),
    "summarise": Texts, "analyse": Text, "naive": Text,
}  # fmt: skip
FORM = item_form(ITEM)


@pytest.mark.parametrize("name", REPLIES)
def test_values_are_filled_in_and_the_form_asked_for_is_what_is_read(name):
    keys = set(re.findall(r"\{([a-z_]+)\}", _template(name)))
    text = prompt(name, **{key: f"<the {key}> {{samples}}" for key in keys} | FORM)
    assert all(f"<the {key}> {{samples}}" in text for key in keys - set(FORM))
    assert "JSON" in text and "JSON" in prompt("system")  # without the word, JSON mode is refused
    (form,) = (line for line in text.splitlines() if line.startswith("{"))
    form = re.sub(
        r'("texts": .*|"text": ".*)', lambda found: found[1].replace("...", "I like it..."), form
    )
    assert read_answer(form, REPLIES[name]) == json.loads(form)


@pytest.mark.parametrize("name", REPLIES)
def test_what_is_the_same_for_all_users_stands_first(name):
    """Between two users, nothing differs before the form of the answer has been said."""
    keys = set(re.findall(r"\{([a-z_]+)\}", _template(name))) - {"attributes", "least", "most"}
    same = {"attributes": "title", "least": 5, "most": 9, **FORM}
    texts = [prompt(name, **{key: f"{user} {key}" for key in keys} | same) for user in "ab"]
    first, second = (re.split(r"(?<=[}])\n\n", text) for text in texts)
    assert first[0] == second[0] and first[1] != second[1] and len(first) == 2


def test_items_are_asked_for_with_the_attributes_that_the_data_have():
    reply = generated_items(["title", "genre"])
    item = {"title": "Ran", "price": "?", "categories": "Film | Drama", "genre": ""}
    told = {"title": "Ran", "price": None, "categories": ["Film", "Drama"], "genre": ""}
    assert json.loads(item_form(item)["form"]) == {"items": [told]}
    said = '{"items": [{"title": "a", "genre": "noir", "brand": "none"}, {"title": "b"}]}'
    found = read_answer(said, reply)["items"]
    assert found == [{"title": "a", "genre": "noir"}, {"title": "b", "genre": ""}]


def test_severe_imbalance_begins_where_the_paper_draws_the_line():
    """19 against 1 is r = 0.9; 18 against 1 is r = 0.895; one third against two thirds is 1 / 3."""
    assert imbalance(1, 19) == imbalance(0, 9) != imbalance(1, 18) == imbalance(1, 2)
    assert imbalance(20, 1) == imbalance(9, 0) != imbalance(18, 1) == imbalance(2, 1)
    assert "smaller" in imbalance(1, 2) and "larger" in imbalance(2, 1)
    assert "half" in imbalance(4, 4)
