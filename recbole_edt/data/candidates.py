"""Candidates of the evaluation: the same for every model, every seed of training, every run.

Candidates are raw items of the target's own domain. They depend on the tokens of the raw data and
on ``candidate_seed`` alone, not on the model or on augmentation.
"""

from __future__ import annotations

import re

import numpy as np

from recbole_edt.data.sequences import expand_ranges
from recbole_edt.errors import ConfigError, ProtocolError


def sample_size(mode: str) -> int | None:
    """Read an ``eval_args.mode``: None for ``full``, N sampled candidates for ``uniN``."""
    if mode == "full":
        return None
    if not (match := re.fullmatch(r"uni0*([1-9]\d*)", str(mode))):
        raise ConfigError(f"eval_args.mode '{mode}' is not one of full, uni100, uni999 (uniN)")
    return int(match[1])


def sample_candidates(
    target_domains: np.ndarray,
    pools: list[np.ndarray],
    history_offsets: np.ndarray,
    history_items: np.ndarray,
    n_candidates: int,
    rng: np.random.Generator,
    chunk: int = 4096,
) -> np.ndarray:
    """Sample distinct items uniformly from the target's domain, outside the user's raw history.

    Parameters
    ----------
    target_domains : np.ndarray
        int64 [n]; domain of each target.
    pools : list of np.ndarray
        Per domain the ids of its raw items, in an order that depends on the tokens alone.
    history_offsets, history_items : np.ndarray
        Raw items of each target's user, held-out rows included: target ``t`` has
        ``history_items[history_offsets[t]:history_offsets[t + 1]]``.
    n_candidates : int
        Candidates per target.
    rng : np.random.Generator
        Source of the draws.
    chunk : int
        Targets that are drawn for at a time.

    Returns
    -------
    np.ndarray
        int32 [n, n_candidates].

    Raises
    ------
    ProtocolError
        If a domain has too few items outside a user's history.
    """
    out = np.empty((len(target_domains), n_candidates), dtype=np.int32)
    n_items = 1 + int(np.concatenate(pools).max(initial=0))
    for domain, pool in enumerate(pools):
        rows = np.flatnonzero(target_domains == domain)
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            owners, places = expand_ranges(history_offsets[part], history_offsets[part + 1])
            keys = np.unique(owners * n_items + history_items[places])
            keys = np.append(keys, len(part) * n_items)  # larger than every key of a draw
            out[part] = _sample_block(pool, keys, len(part), n_candidates, n_items, rng)
    return out


def _sample_block(
    pool: np.ndarray, history: np.ndarray, n_rows: int, n_candidates: int, n_items: int, rng
) -> np.ndarray:
    """Draw with replacement and keep the first distinct items; permute the pool for short rows.

    ``history`` holds, sorted, the keys ``row * n_items + item`` of the items of the rows' users.
    """
    n_draws = int(n_candidates * 1.2) + 16
    out = np.empty((n_rows, n_candidates), dtype=np.int64)
    short = np.arange(n_rows)
    if n_draws * 2 <= len(pool):  # a small pool is permuted instead
        draws = pool[rng.integers(0, len(pool), size=(n_rows, n_draws))]
        keys = np.arange(n_rows)[:, None] * n_items + draws
        owned = history[np.searchsorted(history, keys)] == keys
        good = ~owned & _first_occurrence(draws)
        rank = np.cumsum(good, axis=1)
        full = rank[:, -1] >= n_candidates
        take = good & (rank <= n_candidates) & full[:, None]
        out[full] = draws[take].reshape(-1, n_candidates)
        short = np.flatnonzero(~full)
    for row in short:
        allowed = pool[~np.isin(row * n_items + pool, history, assume_unique=True)]
        if len(allowed) < n_candidates:
            raise ProtocolError(
                f"uni{n_candidates} needs {n_candidates} items outside a user's history, but a "
                f"domain offers only {len(allowed)}: use a smaller sample or mode full"
            )
        out[row] = rng.permutation(allowed)[:n_candidates]
    return out


def _first_occurrence(draws: np.ndarray) -> np.ndarray:
    """Mark, per row, the first occurrence of each value."""
    order = np.argsort(draws, axis=1, kind="stable")
    ordered = np.take_along_axis(draws, order, axis=1)
    first = np.ones(draws.shape, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    out = np.empty_like(first)
    np.put_along_axis(out, order, first, axis=1)
    return out
