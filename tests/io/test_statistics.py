"""Statistics by hand."""

import pandas as pd

from recbole_edt.io.statistics import dataset_statistics

ITEM = pd.DataFrame({"item_id": ["a", "b", "x", "y"], "domain": ["art", "art", "bike", "bike"]})


def frame(*sequences: str) -> pd.DataFrame:
    """One user per word, one row per letter."""
    rows = [
        (f"u{user}", item, position)
        for user, items in enumerate(sequences)
        for position, item in enumerate(items)
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "position"])


def test_a_small_shop_counted_by_hand():
    found = dataset_statistics(frame("abx", "ab", "xa", "yyyx"), ITEM)
    assert found["users"] == 4
    assert found["users_of_both_domains"] == 2
    assert found["users_per_domain"] == {"art": 3, "bike": 3}
    assert found["items"] == {"art": 2, "bike": 2}
    assert found["rows"] == 11
    assert found["rows_per_domain"] == {"art": 5, "bike": 6}
    assert found["average_length"] == 2.75
    shares = {bucket: share for bucket, share in found["imbalance"].items() if share}
    assert shares == {"0%-10%": 0.25, "30%-40%": 0.25, "90%-100%": 0.5}  # r = 1/3, 1, 0, 1


def test_a_tenth_belongs_to_the_range_that_it_opens():
    nine_tenths = "a" * 19 + "x"  # r = 18/20
    found = dataset_statistics(frame(nine_tenths, "aaaax", "aaax"), ITEM)["imbalance"]
    assert found["90%-100%"] == found["60%-70%"] == found["50%-60%"] == round(1 / 3, 6)


def test_what_augmentation_added_is_counted():
    inter = frame("abx").assign(augmented=["0", "1", "0"])
    item = ITEM.assign(generated=["0", "0", "0", "1"])
    found = dataset_statistics(inter, item)
    assert (found["augmented_rows"], found["generated_items"]) == (1, 1)
    assert dataset_statistics(frame("abx"), ITEM)["augmented_rows"] == 0
