"""The prompts: complete, filled in exactly, and asking for what is read."""

import json

import pytest

from recbole_edt.augment.llm.reading import read_answer
from recbole_edt.augment.prompts import GeneratedItems, Text, imbalance, prompt

PLACEHOLDERS = {
    "system": set(),
    "generate": {
        "attributes", "source_domain", "target_domain", "user", "source_samples",
        "target_samples", "num",
    },
    "summarise": {"attributes", "domain", "samples"},
    "reform": {"domain", "summaries", "imbalance"},
    "analyse": {
        "domain_a", "domain_b", "summaries_a", "summaries_b", "imbalance_a", "imbalance_b",
    },
    "naive": {"attributes", "domain_a", "domain_b", "samples"},
}  # fmt: skip


@pytest.mark.parametrize("name", PLACEHOLDERS)
def test_every_value_is_in_the_prompt(name):
    values = {key: f"<the {key}> {{samples}}" for key in PLACEHOLDERS[name]}
    text = prompt(name, **values)
    assert all(value in text for value in values.values())
    assert "JSON" in text  # without the word, JSON mode is refused


@pytest.mark.parametrize("name", sorted(PLACEHOLDERS.keys() - {"system"}))
def test_the_form_asked_for_is_what_is_read(name):
    form = prompt(name, **dict.fromkeys(PLACEHOLDERS[name], "-")).splitlines()[-1]
    reply = GeneratedItems if name == "generate" else Text
    assert read_answer(form, reply) == json.loads(form)


def test_severe_imbalance_begins_where_the_paper_draws_the_line():
    """19 against 1 is r = 0.9; 18 against 1 is r = 0.895; one third against two thirds is 1 / 3."""
    assert imbalance(1, 19) == imbalance(0, 9) != imbalance(1, 18) == imbalance(1, 2)
    assert imbalance(20, 1) == imbalance(9, 0) != imbalance(18, 1) == imbalance(2, 1)
    assert "smaller" in imbalance(1, 2) and "larger" in imbalance(2, 1)
    assert "half" in imbalance(4, 4)
