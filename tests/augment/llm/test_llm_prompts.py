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
    values = {key: f"<the {key}>" for key in PLACEHOLDERS[name]}
    text = prompt(name, **values)
    assert all(value in text for value in values.values())
    assert "JSON" in text  # without the word, JSON mode is refused


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"domain": "cloth", "samples": "-"}, "prompt 'summarise' lacks attributes"),
        (
            {"domain": "c", "samples": "-", "attributes": "t", "num": 3},
            "prompt 'summarise' has no num",
        ),
    ],
)
def test_missing_and_unknown_values_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        prompt("summarise", **values)


def test_braces_in_a_value_are_left_alone():
    text = prompt("summarise", domain="{samples}", attributes="{num}", samples="{domain} {}")
    assert "the {samples} domain" in text and "{num}" in text and "{domain} {}" in text


@pytest.mark.parametrize("name", ["summarise", "reform", "analyse", "naive"])
def test_the_form_of_a_text_is_what_is_read(name):
    form = prompt(name, **dict.fromkeys(PLACEHOLDERS[name], "-")).splitlines()[-1]
    assert read_answer(form, Text) == json.loads(form) == {"text": "..."}


def test_the_form_of_items_is_what_is_read():
    form = prompt("generate", **dict.fromkeys(PLACEHOLDERS["generate"], "-")).splitlines()[-1]
    assert read_answer(form, GeneratedItems) == json.loads(form)


def test_each_degree_of_imbalance_has_its_own_text():
    """r = |own - other| / (own + other): 1, 0.5, 0, 0.5, 1."""
    texts = [imbalance(0, 9), imbalance(1, 3), imbalance(4, 4), imbalance(3, 1), imbalance(9, 0)]
    assert len(set(texts)) == 5
    assert "smaller" in texts[1] and "half" in texts[2] and "larger" in texts[3]


def test_severe_imbalance_begins_where_the_paper_draws_the_line():
    """19 against 1 is r = 0.9; 18 against 1 is r = 0.895."""
    assert imbalance(1, 19) == imbalance(0, 9) != imbalance(1, 18)
    assert imbalance(20, 1) == imbalance(9, 0) != imbalance(18, 1)
