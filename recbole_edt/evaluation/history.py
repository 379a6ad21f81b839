"""The history term: a candidate is compared with every item of a user's history.

A user vector sums a history up in one place; the term keeps its items apart. It is no part of the
paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_edt.evaluation.report import ndcg_of
from recbole_edt.evaluation.vectors import vectors_of

POWER = 3
DECAY = 0.8  # weight of each item of the history over that of the next one
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # tried on validation

CUTOFF = 50  # of the NDCG that chooses: at 10 few targets count, and the choice is a guess

_COSINES = 2**22  # at a time, of the items of some histories with candidates


class HistoryTerm:
    """``w sum_i DECAY^(n - i) max(0, cos(v, v_i))^POWER`` over the history ``v_1, ..., v_n``.

    Cosines are those of a model's item vectors, less their mean; ``w`` is the weight of the domain
    of the candidate ``v``.

    Parameters
    ----------
    items : Tensor
        float32 [n_items, d]; the first one is padding.
    pools : sequence of array
        int64; raw items of each domain.
    weights : sequence of float
        One of each domain.
    known : array, optional
        int64; the items whose mean is subtracted, by default all of ``pools``.
    """

    def __init__(
        self, items: Tensor, pools: Sequence[Any], weights: Sequence[float], known: Any = None
    ) -> None:
        raw = [torch.as_tensor(pool, device=items.device) for pool in pools]
        known = torch.cat(raw) if known is None else torch.as_tensor(known, device=items.device)
        self.unit = F.normalize(items - items[known].mean(0))
        self.unit[0] = 0
        self.weight = items.new_zeros(len(items))  # of each item
        self.of_pools = []
        for pool, weight in zip(raw, weights, strict=True):
            self.weight[pool] = weight
            self.of_pools.append((self.unit[pool], weight))

    @classmethod
    @torch.no_grad()
    def of(cls, model, dataset) -> HistoryTerm | None:
        """Return the term that a model was given after its training, if any."""
        weights, vectors = getattr(model, "history_weights", None) or [], vectors_of(model)
        if vectors is None or not any(weights):
            return None
        pools, known = dataset.candidate_pools(), None
        if dataset.serves:  # new items leave the other scores as they are
            raw = np.concatenate(pools)
            names = dataset.id2token(dataset.iid_field, raw).astype(str)
            known = raw[np.isin(names, dataset.known.items)]
        return cls(vectors.item_vectors().float(), pools, weights, known)

    def among(self, histories: Tensor, domain: int | None = None) -> Tensor:
        """Terms of a domain's pool for all histories int64 [n, L], [n, n_pool]; or of all items.

        Histories are oldest first, and padded with zeros behind.
        """
        units, weight = (self.unit, self.weight) if domain is None else self.of_pools[domain]
        present, decay = _decay(histories)
        distinct, rows = torch.unique(histories[present], return_inverse=True)
        counts = present.sum(1)
        bags = counts.cumsum(0) - counts
        known, parts = self.unit[distinct], []
        for block in units.split(max(1, _COSINES // max(1, len(known)))):
            cosines = (known @ block.T).clamp_(min=0).pow_(POWER)
            parts.append(
                F.embedding_bag(rows, cosines, bags, mode="sum", per_sample_weights=decay[present])
            )
        return torch.cat(parts, dim=1).mul_(weight)

    def of_each(self, histories: Tensor, candidates: Tensor) -> Tensor:
        """Terms of each history's own candidates int64 [n, m], [n, m]."""
        cosines = torch.einsum("nmd,nld->nml", self.unit[candidates], self.unit[histories])
        terms = torch.einsum("nml,nl->nm", cosines.clamp_(min=0).pow_(POWER), _decay(histories)[1])
        return terms.mul_(self.weight[candidates])


def _decay(histories: Tensor) -> tuple[Tensor, Tensor]:
    """Which entries are items, and the weight of each, [n, L]."""
    present = histories > 0
    age = present.sum(1, keepdim=True) - 1 - torch.arange(histories.shape[1]).to(histories)
    return present, torch.where(present, DECAY ** age.clamp(min=0).float(), 0.0)


@torch.no_grad()
def calibrate(ranking, users: Tensor, items: Tensor, histories: Tensor) -> list[float]:
    """Weight of each domain, of :data:`WEIGHTS`, that gives its targets the highest NDCG@50.

    The smallest of equal ones. ``ranking`` is of the validation targets, in mode ``full``; the
    model's vectors ``users`` are float32 [n_eval, d], ``items`` [n_items, d], ``histories`` int64
    [n_eval, L].
    """
    term = HistoryTerm(items, ranking.pools, [1.0] * len(ranking.pools))
    gains = np.zeros((len(ranking.pools), len(WEIGHTS)))
    for domain, rows, scores in ranking.scored_by_vectors(users, items):
        seen = histories[torch.from_numpy(rows).to(users.device)]
        terms = term.among(seen, domain)
        for place, weight in enumerate(WEIGHTS):
            ranks = ranking.ranked_in(domain, scores + weight * terms, rows)[:, 0]
            gains[domain, place] += ndcg_of(ranks.cpu().numpy(), CUTOFF).sum()
    return [WEIGHTS[place] for place in gains.argmax(1)]
