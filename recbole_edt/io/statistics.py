"""Statistics of a data set, as in table 7 and figure 1 of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

# the ten ranges of r (figure 1); each includes its lower bound, the last one 100% as well
BUCKETS = tuple(f"{10 * tenth}%-{10 * tenth + 10}%" for tenth in range(10))


def dataset_statistics(inter: pd.DataFrame, item: pd.DataFrame) -> dict[str, Any]:
    """Count users, items and rows, and how users share their rows between the domains.

    ``augmented`` in ``inter`` and ``generated`` in ``item`` are 0/1 of any type, or missing.

    Returns
    -------
    dict
        Ready for JSON: ``users``, ``users_of_both_domains``, ``rows``, ``augmented_rows``,
        ``generated_items``, ``average_length`` (rows per user); by domain ``items`` (all that
        ``item`` lists), ``rows_per_domain``, ``users_per_domain``; and ``imbalance``, the share
        of users by r = |nA - nB| / (nA + nB) in tenths, largest r last.
    """
    domain = item["domain"].astype(str)
    domains = sorted(domain.unique())
    row_domain = inter["item_id"].map(dict(zip(item["item_id"], domain, strict=True)))
    rows_of = pd.get_dummies(row_domain.astype(pd.CategoricalDtype(domains)))
    counts = rows_of.groupby(inter["user_id"], sort=False, observed=True).sum()  # [users, domains]

    def count_ones(frame, column) -> int:
        return int((pd.to_numeric(frame[column]) == 1).sum()) if column in frame else 0

    return {
        "users": len(counts),
        "users_of_both_domains": int(((counts > 0).sum(axis=1) > 1).sum()),
        "users_per_domain": (counts > 0).sum().to_dict(),
        "items": domain.value_counts().reindex(domains).to_dict(),
        "generated_items": count_ones(item, "generated"),
        "rows": len(inter),
        "rows_per_domain": counts.sum().to_dict(),
        "augmented_rows": count_ones(inter, "augmented"),
        "average_length": round(len(inter) / len(counts), 4) if len(counts) else 0.0,
        "imbalance": _imbalance(counts.to_numpy()),
    }


def _imbalance(counts: np.ndarray) -> dict[str, float]:
    """Share of users in each tenth of r, counted in whole numbers: 0.9 itself is not below 0.9."""
    rows = counts.sum(axis=1)
    difference = 2 * counts.max(axis=1, initial=0) - rows  # of two domains: |nA - nB|
    tenths = np.minimum(10 * difference // np.maximum(rows, 1), len(BUCKETS) - 1)
    shares = np.bincount(tenths, minlength=len(BUCKETS)) / max(len(rows), 1)
    return {name: round(float(share), 6) for name, share in zip(BUCKETS, shares, strict=True)}


def statistics_lines(name: str, statistics: dict[str, Any]) -> list[str]:
    """Format the statistics of a data set as a few lines, with the rows after each step if any."""
    items, rows = statistics["items"], statistics["rows_per_domain"]
    lines = [
        f"{name}: {statistics['users']:,} users ({statistics['users_of_both_domains']:,} of both "
        f"domains), {statistics['rows']:,} rows, {statistics['average_length']:.2f} per user"
    ]
    lines += [f"  {domain}: {items[domain]:,} items, {rows[domain]:,} rows" for domain in items]
    shares = [f"{bucket} {share:.1%}" for bucket, share in statistics["imbalance"].items() if share]
    lines.append(f"  users by r = |nA - nB| / (nA + nB): {', '.join(shares)}")
    if steps := statistics.get("prepared", {}).get("rows_after"):
        lines.append("  rows: " + ", ".join(f"{count:,} {step}" for step, count in steps.items()))
    return lines
