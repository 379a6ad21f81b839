"""Profiles: what is extracted, what is asked, and who is named when a call fails."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_edt.augment.profile import mean_vectors
from recbole_edt.augment.profilers import Described, UserGroups
from recbole_edt.augment.profilers.endpoint import LLMProfiler
from recbole_edt.augment.profilers.extractive import ExtractiveProfiler
from recbole_edt.augment.prompts import imbalance
from recbole_edt.augment.settings import AugmentSettings

ITEMS = pd.DataFrame(
    {
        "item_id": list("abcdef"),
        "domain": ["art"] * 4 + ["bike"] * 2,
        "title": ["Red brush", "Blue brush", "Oil paint", "", "Bell", "Saddle"],
        "brand": ["Kalo", "Kalo", "Oily", "", "Ding", ""],
        "categories": ["Art | Brushes", "Art | Brushes", "Art | Paint", "Art | Paper", "Parts", ""],
    }
)
VECTORS = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 1], [1, 1], [1, -1]], dtype=float)
ABOUT = Described(ITEMS, ["art", "bike"], VECTORS)


def groups(*sides) -> tuple[list[np.ndarray], list[np.ndarray]]:
    first, second = ([np.array(group) for group in side] for side in sides)
    return first, second


def extractive(profile: str) -> ExtractiveProfiler:
    return ExtractiveProfiler(AugmentSettings(profile=profile), ABOUT)


USERS = [
    UserGroups("ann", groups([[0, 1], [2]], [[4]])),
    UserGroups("bob", groups([], [[5, 4]])),
    UserGroups("cid", groups([], [])),
]


def test_the_domain_with_fewer_clusters_says_more_of_each() -> None:
    """Three clusters of bike leave art's two room for three items: two of the larger, one."""
    art, bike = [[0, 1, 2], [3]], [[4], [5], [4]]
    (text,) = extractive("sra").write([UserGroups("dan", groups(art, bike))]).texts
    of_art, of_bike = text.split(" bike, ")
    assert of_art.endswith(": Blue brush, Red brush, Brushes, Kalo; Paper.")
    assert of_bike.endswith(": Bell, Parts, Ding; Saddle; Bell, Parts, Ding.")
    for profile in ("sra", "naive"):  # the last one has no items
        *texts, nothing = extractive(profile).write(USERS).texts
        assert nothing == "" and all(texts)


@pytest.mark.parametrize(
    ("pipeline", "unreadable", "where"),
    [
        ("sra", "Of all that you bought, bike", "summarise bike"),
        ("sra", "Bring all of it together", "analyse"),
        ("naive", "The items below have caught", "naive"),
    ],
)
def test_a_failure_names_its_stage(llm_server, llm_client, pipeline, unreadable, where) -> None:
    llm_server.unreadable = unreadable
    with llm_client(llm_server, retries=1, asks=1) as client:
        made = LLMProfiler(AugmentSettings(profile=pipeline), ABOUT, client).write(USERS)
    reason = f"{where}: HTTP 400: this cannot be read"
    assert made.failures == {"ann": reason, "bob": reason}


def test_naive_samples_are_half_of_each_domain_and_of_all_clusters() -> None:
    first = [np.arange(0, 20), np.arange(20, 24)]
    user = UserGroups("fay", (first, [np.arange(30, 50)]))
    assert user.sample() == [19, 23, 18, 22, 17, 49, 48, 47, 46, 45]
    lonely = UserGroups("gus", (first, []))
    assert lonely.sample() == [19, 23, 18, 22, 17, 21, 16, 20, 15, 14]
    assert USERS[1].sample() == [4, 5]


@pytest.mark.parametrize(("calls", "per_call"), [("domain", [2, 1, 1]), ("cluster", [1] * 4)])
def test_prompts_carry_the_imbalance_and_the_answers_of_the_stage_before(
    llm_server, llm_client, monkeypatch, calls, per_call
) -> None:
    """ann has two clusters of art and one of bike; bob one of bike; cid nothing to ask about."""
    asked: dict[str, list[tuple[str, dict]]] = {}
    with llm_client(llm_server) as client:
        ask = client.chat

        def chat(requests, stage):
            answers = ask(requests, stage=stage)
            asked[stage] = [(r.user, a.value) for r, a in zip(requests, answers, strict=True)]
            return answers

        monkeypatch.setattr(client, "chat", chat)
        settings = AugmentSettings(profile="sra", profile_calls=calls)
        made = LLMProfiler(settings, ABOUT, client).write(USERS)
    assert all(made.texts[:2]) and made.texts[2] == "" and not made.failures
    assert list(asked) == ["summarise", "analyse"]
    assert [text.count("\nGroup ") for text, _ in asked["summarise"]] == per_call
    assert [len(value["texts"]) for _, value in asked["summarise"]] == per_call
    *arts, bike, _ = (text for text, _ in asked["summarise"])
    assert all(f"art is {imbalance(3, 1)}" in art for art in arts)
    assert f"bike is {imbalance(1, 3)}" in bike
    assert "- Red brush | Kalo | Art > Brushes\n- Blue brush | Kalo | Art > Brushes" in arts[0]
    assert "Group 1, 14 words:" in arts[0]  # 6 + 4 for each of its two items
    analysed = asked["analyse"][0][0]
    for _, value in asked["summarise"][:-1]:
        assert all(f"- {text}" in analysed for text in value["texts"])
    assert analysed.index(imbalance(3, 1)) < analysed.index(imbalance(1, 3))


def test_vectors_that_stand_in_for_profiles_hand_computed() -> None:
    """Three items of one domain in two clusters, (3, 0), (1, 0) and (0, 2); one of the other."""
    vectors = np.array([[3, 0], [1, 0], [0, 2], [0, 5]], dtype=np.float32)
    groups = ([np.array([0, 1]), np.array([2])], [np.array([3])])
    users = [UserGroups("u", groups), UserGroups("nobody", ([], []))]
    # clusters (2, 0) and (0, 2), domains (1, 1) and (0, 5): mean of their unit vectors
    sra = np.array([np.sqrt(0.5), np.sqrt(0.5) + 1])
    naive = np.array([4, 7])  # the sum of all items
    for profile, expected in (("sra", sra), ("naive", naive)):
        found = mean_vectors(users, vectors, profile)
        assert np.allclose(found[0], expected / np.linalg.norm(expected))
        assert not found[1].any()
