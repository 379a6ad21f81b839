"""Rank of every target among its candidates, and the best ones; all scores pass here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.data.sequences import expand_ranges, row_offsets
from recbole_edt.errors import ProtocolError
from recbole_edt.model.kernels import product

_ROWS = 256  # users scored at a time by `scored_by_vectors`
_COUNTED = 2**18  # scores counted at a time on a CPU: their marks fit its cache


def count_not_below(scores: Tensor, target_scores: Tensor) -> Tensor:
    """Count, per row, the candidates that do not score below the target, int64 [n].

    Of scores [n, n_candidates] and target scores [n], ties and NaN count against the target.
    """
    n, n_candidates = scores.shape
    step = max(_COUNTED // max(n_candidates, 1), 1) if scores.device.type == "cpu" else max(n, 1)
    exact = torch.float32 if n_candidates < 2**24 else torch.float64
    # floats: a CPU marks and sums them several times as fast as booleans
    marks = torch.empty(min(step, n), n_candidates, dtype=exact, device=scores.device)
    below = torch.empty(n, dtype=exact, device=scores.device)
    for start in range(0, n, step):
        part = slice(start, start + step)
        few = scores[part]
        marked = torch.lt(few, target_scores[part, None], out=marks[: len(few)])
        torch.sum(marked, dim=1, out=below[part])
    return n_candidates - below.long()


class Ranking:
    """Targets of one phase and the candidates they are ranked among.

    Histories are not masked in a matrix of scores: their items are counted with all candidates,
    and subtracted afterwards.

    Parameters
    ----------
    phase : {"valid", "test"}
    mode : str
        ``full``: all raw items of the target's domain outside the user's raw history up to the
        target; ``uniN``: the N sampled candidates of
        :meth:`~recbole_edt.data.dataset.CrossDomainDataset.sampled_candidates`.
    list_length : int
        Candidates that score highest, to be listed for each user under ``full``.

    Attributes
    ----------
    target_domains, n_candidates : np.ndarray
        int64 [n_eval]; domain of each target, and its number of candidates, itself included.
    split : LeaveOneOut
        Of the dataset.

    Raises
    ------
    ProtocolError
        If a domain has too few candidates for a user.
    """

    def __init__(
        self,
        dataset: CrossDomainDataset,
        phase: str,
        mode: str,
        device: torch.device,
        list_length: int = 0,
    ) -> None:
        rows = dataset.split.valid_rows if phase == "valid" else dataset.split.test_rows
        self.mode, self.phase, self.domains = mode, phase, dataset.domains
        self.split, self.list_length = dataset.split, list_length
        self.targets = torch.from_numpy(dataset.sequences.items[rows]).to(device)
        self.target_domains = dataset.item_domain[dataset.sequences.items[rows]]
        candidates = dataset.sampled_candidates(phase, mode)
        self.candidates = None if candidates is None else torch.from_numpy(candidates)
        if self.candidates is None:
            self.pools = [torch.from_numpy(pool).to(device) for pool in dataset.candidate_pools()]
            self.place = torch.zeros(dataset.item_num, dtype=torch.int64, device=device)
            for pool in self.pools:  # column of each item among the scores of its domain's pool
                self.place[pool] = torch.arange(len(pool), device=device)
            self._exclude(dataset, rows, device)
            sizes = np.array([len(pool) for pool in self.pools])
            self.n_candidates = 1 + sizes[self.target_domains] - np.diff(self.excluded_offsets)
        else:
            self.n_candidates = np.full(len(rows), 1 + self.candidates.shape[1])
        if list_length > (fewest := self.n_candidates.min()):
            raise ProtocolError(
                f"a list of {list_length} items needs as many candidates, but a user has {fewest}: "
                "use a smaller topk"
            )

    def _exclude(self, dataset: CrossDomainDataset, rows: np.ndarray, device) -> None:
        """Collect the items of a target's pool that are no candidates: history and target."""
        offsets, items = dataset.raw_history(dataset.split.users, rows)
        users = np.arange(len(rows))
        owners = np.concatenate([np.repeat(users, np.diff(offsets)), users])
        items = np.concatenate([items, dataset.sequences.items[rows]])
        same = dataset.item_domain[items] == self.target_domains[owners]
        keys = np.unique(owners[same] * dataset.item_num + items[same])
        owners, items = np.divmod(keys, dataset.item_num)
        self.excluded_offsets = row_offsets(np.bincount(owners, minlength=len(rows)))
        self.excluded = torch.from_numpy(items).to(device)

    def ranked(self, scores: Tensor, rows: np.ndarray) -> Tensor:
        """Rank targets, and list the best candidates: int64 [n, 1 + list_length].

        A rank is 1 + the number of candidates that score at least as high as the target. The list
        after it holds the items that score highest. ``scores`` are float [n, n_items], of the
        targets ``rows``, int64 [n].
        """
        if self.candidates is not None:
            return self.ranked_candidates(scores.gather(1, self.with_target(rows)))
        out = torch.empty(len(rows), 1 + self.list_length, dtype=torch.int64, device=scores.device)
        for domain, pool in enumerate(self.pools):
            mine = np.flatnonzero(self.target_domains[rows] == domain)
            if len(mine):
                at = torch.from_numpy(mine).to(scores.device)
                out[at] = self.ranked_in(domain, scores[at].index_select(1, pool), rows[mine])
        return out

    @torch.no_grad()
    def ranked_by_vectors(
        self, users: Tensor, items: Tensor, further: Callable[[int, Tensor], Any] | None = None
    ) -> Tensor:
        """Do as :meth:`ranked` for all targets, by products of vectors: int64 [n_eval, ...].

        ``users`` are float32 [n_eval, d], each for the domain of the user's target, ``items``
        float32 [n_items, d]. ``further`` gives for a domain and some of its targets, int64 [n],
        what is added to their scores [n, n_pool].
        """
        out = torch.empty(len(users), 1 + self.list_length, dtype=torch.int64, device=users.device)
        for domain, rows, scores in self.scored_by_vectors(users, items):
            at = torch.from_numpy(rows).to(users.device)
            if further is not None:
                scores += further(domain, at)
            out[at] = self.ranked_in(domain, scores, rows)
        return out

    def scored_by_vectors(
        self, users: Tensor, items: Tensor
    ) -> Iterator[tuple[int, np.ndarray, Tensor]]:
        """Yield domains, some of their targets int64 [n], and scores [n, n_pool] of ``pools``.

        Only the items of a target's own domain are scored, for a block of users at a time.
        """
        for domain, pool in enumerate(self.pools):
            of_pool = items[pool].T.contiguous().T  # [n_pool, d], as kernels like it
            mine = np.flatnonzero(self.target_domains == domain)
            for start in range(0, len(mine), _ROWS):
                rows = mine[start : start + _ROWS]
                yield domain, rows, product(users[torch.from_numpy(rows).to(users.device)], of_pool)

    def with_target(self, rows: np.ndarray) -> Tensor:
        """Return each target and its sampled candidates: int64 [n, 1 + n_sampled]."""
        assert self.candidates is not None
        index = torch.from_numpy(rows)
        candidates = self.candidates[index].to(self.targets.device).long()
        return torch.cat([self.targets[index.to(self.targets.device)][:, None], candidates], dim=1)

    @staticmethod
    def ranked_candidates(scores: Tensor) -> Tensor:
        """Rank targets by the scores of what :meth:`with_target` returned, int64 [n, 1]."""
        return 1 + count_not_below(scores[:, 1:], scores[:, 0])[:, None]

    def ranked_in(self, domain: int, scores: Tensor, rows: np.ndarray) -> Tensor:
        """Do as :meth:`ranked` in one domain, by scores [n, n_pool] of its pool; changes them."""
        device, pool = scores.device, self.pools[domain]
        targets = self.place[self.targets[torch.from_numpy(rows).to(device)]][:, None]
        target_scores = scores.gather(1, targets)
        counts = count_not_below(scores, target_scores.squeeze(1))
        # subtract the target and the items of the history, which were counted above
        offsets = self.excluded_offsets
        owners, places = map(torch.from_numpy, expand_ranges(offsets[rows], offsets[rows + 1]))
        owners, excluded = owners.to(device), self.place[self.excluded[places.to(device)]]
        counted = ~(scores[owners, excluded] < target_scores.squeeze(1)[owners])
        ranks = 1 + counts - torch.bincount(owners[counted], minlength=len(rows))
        if not self.list_length:
            return ranks[:, None]
        scores[owners, excluded] = -torch.inf
        scores.scatter_(1, targets, target_scores)
        return torch.cat([ranks[:, None], pool[scores.topk(self.list_length).indices]], dim=1)
