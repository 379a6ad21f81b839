"""Negative items for training: from the positive's own domain, never one of the user's items.

With ``loss: softmax`` a batch shares them (:meth:`NegativeSampler.shared`). With ``loss: bpr`` a
baseline has one per target (:meth:`NegativeSampler.per_position`); LLM-EDT takes its one from the
whole domain, in its loss (:func:`~recbole_edt.model.losses.sample_hard_negatives`). RecBole's own
models use RecBole's sampler.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGE_POOL = 16  # times the sample: such a pool is sampled, a smaller one is permuted


class NegativeSampler:
    """Draws negatives for whole batches at once, on the device where the batch lies.

    "The user's items" are those of the training rows: to exclude held-out rows as well would tell
    the model which items they are.

    Parameters
    ----------
    item_domain : Tensor
        int64 [n_items]; domain of each item, -1 for the padding item.
    user_offsets, user_items : Tensor
        Training rows of all users in row form, int64 [n_users + 1] and [n_rows].
    """

    def __init__(self, item_domain: Tensor, user_offsets: Tensor, user_items: Tensor) -> None:
        self.item_domain = item_domain
        self.n_items = len(item_domain)
        # items sorted by domain: the pool of domain d is by_domain[first[d]:first[d] + size[d]]
        self.by_domain = torch.argsort(item_domain, stable=True)
        counts = torch.bincount(item_domain + 1)
        self.first, self.size = counts.cumsum(0)[:-1], counts[1:]
        self.pools = self.by_domain[int(counts[0]) :].split(counts[1:].tolist())
        self.user_offsets, self.user_items = user_offsets, user_items
        rows = user_offsets.diff()
        users = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), rows)
        self.keys = torch.unique(users * self.n_items + user_items)  # sorted

    def exhausted(self) -> tuple[int, int] | None:
        """Return a user who has all items of a domain, and the domain; None without such a user.

        No negative can be drawn for this user. Of shared ones all are masked, so that the loss of
        the user's targets in this domain is zero.
        """
        users, items = self.keys // self.n_items, self.keys % self.n_items
        for domain, size in enumerate(self.size.tolist()):
            seen = torch.bincount(users[self.item_domain[items] == domain])
            if len(seen) and size <= int(seen.max()):
                return int(seen.argmax()), domain
        return None

    def _seen(self, users: Tensor, items: Tensor) -> Tensor:
        keys = users * self.n_items + items
        at = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return self.keys[at] == keys

    def _draw(self, domains: Tensor, generator: torch.Generator) -> Tensor:
        share = torch.rand(domains.shape, generator=generator, device=domains.device)
        size = self.size[domains]
        index = (share.double() * size).long().clamp_(max=size - 1)
        return self.by_domain[self.first[domains] + index]

    def per_position(self, users: Tensor, positives: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one negative per positive item [n] of ``users`` [n], uniformly: int64 [n]."""
        domains = self.item_domain[positives]
        negatives = self._draw(domains, generator)
        redo = torch.nonzero(self._seen(users, negatives)).squeeze(-1)
        while len(redo):
            negatives[redo] = self._draw(domains[redo], generator)
            redo = redo[self._seen(users[redo], negatives[redo])]
        return negatives

    def shared(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Draw, per domain, up to ``n`` distinct items that a whole batch shares: int64 [<= n]."""
        return [pool[self._distinct(n, len(pool), generator)] for pool in self.pools]

    def _distinct(self, n: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` distinct numbers below ``size``, or all of them."""
        device = self.by_domain.device
        if size < _LARGE_POOL * n:
            return torch.randperm(size, generator=generator, device=device)[:n]
        drawn = torch.zeros(0, dtype=torch.int64, device=device)
        while len(drawn) < n:  # kept in the order of first draws, so that the cut is unbiased
            more = torch.randint(size, (n,), generator=generator, device=device)
            drawn = torch.cat([drawn, more])
            ordered, place = torch.sort(drawn, stable=True)
            repeated = F.pad(ordered[1:] == ordered[:-1], (1, 0))
            drawn = drawn[torch.sort(place[~repeated]).values]
        return drawn[:n]

    def seen_mask(self, users: Tensor, negatives: Tensor) -> Tensor:
        """Whether each user [B] has each shared negative [n]: bool [B, n]."""
        slot = torch.full((self.n_items,), -1, dtype=torch.int64, device=users.device)
        slot[negatives] = torch.arange(len(negatives), device=users.device)
        first, counts = self.user_offsets[users], self.user_offsets[users + 1]
        counts = counts - first
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), counts)
        step = torch.arange(len(row), device=users.device) - (counts.cumsum(0) - counts)[row]
        place = slot[self.user_items[first[row] + step]]
        mask = torch.zeros(len(users), len(negatives), dtype=torch.bool, device=users.device)
        mask[row[place >= 0], place[place >= 0]] = True
        return mask
