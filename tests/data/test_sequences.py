"""Sequences, the leave-one-out split, windows and prefixes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recbole_edt.data.sequences import Sequences, domain_rows, leave_one_out, training_windows

LENGTHS = st.lists(st.integers(0, 14), min_size=1, max_size=8)


def of_lengths(lengths: list[int], augmented: list[bool] | None = None) -> Sequences:
    """Sequences whose every row has an item of its own: the number of the row, from 1."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n = int(offsets[-1])
    flags = np.zeros(n, dtype=bool) if augmented is None else np.array(augmented, dtype=bool)
    return Sequences(offsets, np.arange(1, n + 1), flags, np.zeros(n))


def test_users_with_fewer_than_three_raw_rows_train_only():
    rows = of_lengths([2, 4, 1], [False, False, False, True, False, True, False])
    split = leave_one_out(rows)  # user 1 has two raw rows and two inserted ones
    assert not len(split.users)
    assert split.training(rows).items.tolist() == [1, 2, 3, 4, 5, 6, 7]


@given(LENGTHS, st.randoms())
def test_the_split_is_that_of_the_raw_rows(lengths, random):
    """Insert rows anywhere before the validation row: targets and raw training rows stay."""
    augmented, raw_users = [], []
    for user, length in enumerate(lengths):
        held_out = 2 if length >= 3 else 0
        for place in range(length):
            if place <= length - held_out:  # may also stand right before the validation row
                extra = random.randint(0, 2)
                augmented += [True] * extra
                raw_users += [user] * extra
            augmented.append(False)
            raw_users.append(user)
    counts = np.bincount(raw_users, minlength=len(lengths)).tolist() if raw_users else lengths
    rows = of_lengths(counts, augmented)
    raw = rows.keep(~rows.augmented)
    assert np.diff(raw.offsets).tolist() == lengths

    split, plain = leave_one_out(rows), leave_one_out(raw)
    assert split.users.tolist() == plain.users.tolist()
    assert rows.items[split.test_rows].tolist() == raw.items[plain.test_rows].tolist()
    assert rows.items[split.valid_rows].tolist() == raw.items[plain.valid_rows].tolist()
    training = split.training(rows)
    assert training.items[~training.augmented].tolist() == plain.training(raw).items.tolist()


def test_windows_of_a_hand_computed_case():
    # rows 0..5 of user 0, row 6 of user 1; the longest input is 2
    windows = training_windows(of_lengths([6, 1]), 2)
    assert windows.users.tolist() == [0, 0, 0]
    assert list(zip(windows.starts, windows.stops, strict=True)) == [(0, 1), (1, 3), (3, 5)]
    assert len(training_windows(of_lengths([1, 0, 1]), 5)) == 0


@given(LENGTHS, st.integers(1, 6))
def test_every_row_but_the_first_is_a_target_exactly_once(lengths, max_length):
    rows = of_lengths(lengths)
    windows = training_windows(rows, max_length)
    targets: list[int] = []
    for user, start, stop in zip(windows.users, windows.starts, windows.stops, strict=True):
        assert 1 <= stop - start <= max_length
        assert rows.offsets[user] <= start and stop < rows.offsets[user + 1]  # one user's rows
        targets += range(start + 1, stop + 1)
    expected = [r for u in range(rows.n_users) for r in range(*rows.offsets[u : u + 2])[1:]]
    assert sorted(targets) == expected
    later = windows.users[1:] == windows.users[:-1]  # only a user's oldest window is shorter
    assert ((windows.stops - windows.starts)[1:][later] == max_length).all()


@given(LENGTHS, st.randoms())
def test_the_domain_index_cuts_out_the_sub_sequence(lengths, random):
    rows = of_lengths(lengths)
    item_domain = np.array([-1] + [random.randint(0, 1) for _ in rows.items])
    for domain in (0, 1):
        own = domain_rows(rows, item_domain, domain)
        start = random.randint(0, len(rows.items))
        stop = random.randint(start, len(rows.items))
        expected = [item for item in rows.items[start:stop] if item_domain[item] == domain]
        assert own.items[own.index[start] : own.index[stop]].tolist() == expected
