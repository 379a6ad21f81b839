"""The prompts: asking for what is read, and the words for an imbalance."""

import json
import re

import pytest

from recbole_edt.augment.llm.reading import read_answer
from recbole_edt.augment.prompts import GeneratedItems, Text, _template, imbalance, prompt


@pytest.mark.parametrize("name", ["generate", "summarise", "reform", "analyse", "naive"])
def test_values_are_filled_in_and_the_form_asked_for_is_what_is_read(name):
    keys = set(re.findall(r"\{([a-z_]+)\}", _template(name)))
    text = prompt(name, **{key: f"<the {key}> {{samples}}" for key in keys})
    assert all(f"<the {key}> {{samples}}" in text for key in keys)
    assert "JSON" in text and "JSON" in prompt("system")  # without the word, JSON mode is refused
    form, reply = text.splitlines()[-1], GeneratedItems if name == "generate" else Text
    assert read_answer(form, reply) == json.loads(form)


def test_severe_imbalance_begins_where_the_paper_draws_the_line():
    """19 against 1 is r = 0.9; 18 against 1 is r = 0.895; one third against two thirds is 1 / 3."""
    assert imbalance(1, 19) == imbalance(0, 9) != imbalance(1, 18) == imbalance(1, 2)
    assert imbalance(20, 1) == imbalance(9, 0) != imbalance(18, 1) == imbalance(2, 1)
    assert "smaller" in imbalance(1, 2) and "larger" in imbalance(2, 1)
    assert "half" in imbalance(4, 4)
