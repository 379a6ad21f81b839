"""Representatives, what is proposed for whom, and when a described item is a known one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from histories import history

from recbole_edt.augment.clusters import ItemSpace
from recbole_edt.augment.generators import Generated, Task
from recbole_edt.augment.generators.endpoint import LLMGenerator
from recbole_edt.augment.generators.retrieval import RetrievalGenerator
from recbole_edt.augment.items import Catalogue, Titles, names_product
from recbole_edt.augment.pipeline import leave_out
from recbole_edt.augment.settings import AugmentSettings


def test_one_representative_for_each_cluster_a_user_touched() -> None:
    # Domain A has two clusters on the axes: items 0, 1, 2 near x and 3 near y; B is item 4.
    vectors = np.array([[1, 0], [1, 0.1], [1, -0.1], [0, 1], [1, 1]], dtype=float)
    domain = np.array([0, 0, 0, 0, 1])
    space = ItemSpace.of(history([[1, 0, 3, 4], [2]], domain), vectors, 2)
    label, medoids = space.label, space.medoids
    assert len(set(label[:3])) == 1
    assert label[3] != label[0]
    assert sorted(medoids[0]) == [0, 3]
    assert space.representatives(0, 0).tolist() == [0, 3]  # 0 is nearer the centroid than 1
    assert space.representatives(0, 1).tolist() == [4]
    assert space.representatives(1, 0).tolist() == [2]
    assert len(space.chosen(1, 1)) == 0
    assert space.representatives(1, 1).tolist() == medoids[1].tolist()


# Retrieval


def test_retrieval_stays_near_what_the_user_has_in_the_target_domain() -> None:
    # The user has 0 (domain A, on the x axis) and 1 (domain B, on the y axis); of B's items 2 is
    # nearest to 0, and 4, then 3 to 1.  Another user has 0 alone.
    domain = np.array([0, 1, 1, 1, 1])
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8], [0.28, 0.96]])
    space = ItemSpace.of(history([[0, 1], [0]], domain), vectors, 1)
    made = RetrievalGenerator(AugmentSettings(num=2), space).generate([Task(0, 1), Task(1, 1)])
    assert made.items[0].tolist() == [4, 3]  # cosines with 1: 0.96, 0.8
    assert made.items[1].tolist() == [2, 3]  # cosines with 0: 1, 0.6


def test_retrieval_looks_past_what_the_user_has() -> None:
    """A user who has an item's nearest neighbours is offered the next ones: a slow reference."""
    draw = np.random.default_rng(0)
    domain = np.arange(40) % 2
    vectors = draw.normal(size=(40, 8))
    sequences = [draw.permutation(40)[:size].tolist() for size in (3, 10, 25)]
    tasks = [Task(user, target) for user in range(3) for target in (0, 1)]
    space = ItemSpace.of(history(sequences, domain), vectors, 3)
    made = RetrievalGenerator(AugmentSettings(num=4), space).generate(tasks)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for task, items in zip(tasks, made.items, strict=True):
        owned = sequences[task.user]
        own = [item for item in owned if domain[item] == task.target]
        new = [item for item in range(40) if domain[item] == task.target and item not in owned]
        new.sort(key=lambda item: -max(units[item] @ units[other] for other in own))
        assert items.tolist() == new[:4]


# What a model describes


def test_a_described_item_becomes_the_catalogue_item_of_its_name() -> None:
    items = pd.DataFrame({"domain": ["art"], "title": ["Red Brush, 2 in."], "brand": ["Ka-Lo"]})
    catalogue = Catalogue(items, ["art", "bike"])
    same = {"title": "red  brush 2 IN", "brand": "KA LO", "price": 3, "categories": [],
            "description": ""}  # fmt: skip
    assert catalogue.line(same, 0) == 0
    assert catalogue.line({**same, "brand": ""}, 0) == 0
    assert catalogue.line({**same, "brand": "Other"}, 0) == 1
    assert catalogue.line(same, 1) == 2  # the other domain
    assert catalogue.line({**same, "brand": "other "}, 0) == 1  # shared between users
    assert catalogue.new_items[0]["price"] == "3.00"


@pytest.mark.parametrize(
    ("title", "brand", "same"),
    [
        ("Ka-Lo Red Brush", "Ka-Lo", True),  # the brand is in the title, too
        ("Ka-Lo Red Brush", "", True),
        ("Red Brush", "Ka-Lo", True),
        ("Red Brush", "Other", False),
        ("Ka-Lo Red Brush", "Other", False),
        ("Kalossi Red Brush", "Ka", False),  # the brand must be a whole word
    ],
)
@pytest.mark.parametrize("known", [("Red Brush", "Ka-Lo"), ("Ka-Lo Red Brush", "Ka-Lo")])
def test_a_brand_counts_once_wherever_it_is_said(known, title, brand, same) -> None:
    items = pd.DataFrame({"domain": ["art"], "title": [known[0]], "brand": [known[1]]})
    described = {"title": title, "brand": brand, "categories": [], "description": ""}
    assert (Catalogue(items, ["art", "bike"]).line(described, 0) == 0) == same


# Failures


def test_the_form_is_filled_in_with_the_best_told_item_whose_return_is_a_copy() -> None:
    rows = history([[0], [1]], np.array([0, 0, 1, 1]))
    rows.items["title"] = ["cap", "red scarf", "old tent", "mug"]
    rows.items["brand"] = ["", "", "", "MSR"]
    space = ItemSpace.of(replace(rows, text_columns=["title", "brand"]), np.eye(4), 2)
    request = LLMGenerator(AugmentSettings(num=3), space)._request(Task(0, 1))
    form = json.loads(next(line for line in request.user.splitlines() if line.startswith("{")))
    assert (form["items"][0]["title"], form["items"][0]["brand"]) == ("mug", "MSR")
    assert request.fault_of is not None and request.fault_of(form["items"][0]) == "copy"


def test_items_without_a_vector_are_left_out_and_failed_users_get_nothing() -> None:
    users = np.array(["u0", "u1", "u2"])
    tasks = [Task(0, 0), Task(0, 1), Task(1, 1), Task(2, 0), Task(2, 1)]
    proposed = [[1], [], [2, 3], [8], [1]]
    generated = Generated([np.array(one, dtype=int) for one in proposed], [], {"u0": "why"})
    leave_out(generated, tasks, {3: "bad", 8: "worse"}, users)
    assert [items.tolist() for items in generated.items] == [[], [], [2], [], []]
    assert generated.failures == {"u0": "why", "u2": "encode: worse"}


@pytest.mark.parametrize(
    ("title", "brand", "is_copy"),
    [
        ("ACME trail tent", "Acme", True),
        ("Trail Tent", "Other", True),
        ("Trail Tent's", "", False),
        ("Men\u2019s Boots", "", True),  # "Mens Boots" is shown
        ("Other Trail Tent", "Other", True),
        ("Long red rope of 30 m, new", "", True),  # six of its seven words
        ("Long blue rope of 20 m", "", False),
        ("Tent", "Acme", False),
        ("", "Acme", False),
    ],
)
def test_a_copy_is_told_by_its_title_whatever_its_brand(title, brand, is_copy) -> None:
    own = [{"title": "Acme Trail Tent", "brand": "Acme"}, {"title": "Long red rope of 30 m"}]
    assert (
        Titles([*own, {"title": "Mens Boots"}, {"title": ""}]).hold(
            {"title": title, "brand": brand}
        )
        == is_copy
    )


@pytest.mark.parametrize(
    ("is_product", "titles"),
    [
        (True, ["Trail Tent 2", "Acme Tent", "1984 Road Bike", "зимний чехол", "x" * 200]),
        (False, ["...", "", "-- ?", "Item 1", "title", "string", "N/A", "The Product", "1984",
                 "Acme", "Art", "Outdoor > Camping Gear", "Acme Camping", "x" * 201,
                 "https://shop.example/Trail Tent"]),
    ],
)  # fmt: skip
def test_placeholders_brands_and_categories_are_no_products(is_product, titles) -> None:
    about = {"brand": "Acme", "categories": ["Outdoor", "Camping Gear"]}
    found = [names_product({"title": title, **about}, ["art", "bike"]) for title in titles]
    assert found == [is_product] * len(titles)
