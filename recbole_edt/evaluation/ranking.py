"""Ranks of every target among its candidates; every model's scores pass here."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.data.sequences import expand_ranges, row_offsets
from recbole_edt.model.kernels import product

_ROWS = 256  # users scored at a time by `ranks_by_vectors`
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
    dataset : CrossDomainDataset
    phase : {"valid", "test"}
    mode : str
        ``full``: all raw items of the target's domain outside the user's raw history up to the
        target; ``uniN``: the N sampled candidates of
        :meth:`~recbole_edt.data.dataset.CrossDomainDataset.sampled_candidates`.
    device : torch.device
    """

    def __init__(
        self, dataset: CrossDomainDataset, phase: str, mode: str, device: torch.device
    ) -> None:
        rows = dataset.split.valid_rows if phase == "valid" else dataset.split.test_rows
        self.mode, self.phase, self.domains = mode, phase, dataset.domains
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

    def ranks(self, scores: Tensor, rows: np.ndarray) -> Tensor:
        """1 + number of candidates that score at least as high as the target, int64 [n].

        ``scores`` [n, n_items] is what ``full_sort_predict`` returns for the targets ``rows`` [n].
        """
        index = torch.from_numpy(rows).to(scores.device)
        if self.candidates is not None:
            target_scores = scores.gather(1, self.targets[index][:, None]).squeeze(1)
            candidates = self.candidates[torch.from_numpy(rows)].to(scores.device).long()
            return 1 + count_not_below(scores.gather(1, candidates), target_scores)
        ranks = torch.empty(len(rows), dtype=torch.int64, device=scores.device)
        for domain, pool in enumerate(self.pools):
            mine = np.flatnonzero(self.target_domains[rows] == domain)
            if len(mine):
                at = torch.from_numpy(mine).to(scores.device)
                ranks[at] = self._ranks_in_pool(scores[at].index_select(1, pool), rows[mine])
        return ranks

    @torch.no_grad()
    def ranks_by_vectors(self, users: Tensor, items: Tensor) -> Tensor:
        """Rank all targets among their whole domains as by products of vectors, int64 [n_eval].

        Only the items of a target's own domain are scored, for a block of users at a time.

        Parameters
        ----------
        users : Tensor
            float32 [n_eval, d]; each for the domain of the user's target.
        items : Tensor
            float32 [n_items, d].
        """
        ranks = torch.empty(len(users), dtype=torch.int64, device=users.device)
        for domain, pool in enumerate(self.pools):
            of_pool = items[pool].T.contiguous().T  # [n_pool, d], as kernels like it
            mine = np.flatnonzero(self.target_domains == domain)
            for start in range(0, len(mine), _ROWS):
                rows = mine[start : start + _ROWS]
                at = torch.from_numpy(rows).to(users.device)
                ranks[at] = self._ranks_in_pool(product(users[at], of_pool), rows)
        return ranks

    def with_target(self, rows: np.ndarray) -> Tensor:
        """Return each target and its sampled candidates: int64 [n, 1 + n_sampled]."""
        assert self.candidates is not None
        index = torch.from_numpy(rows)
        candidates = self.candidates[index].to(self.targets.device).long()
        return torch.cat([self.targets[index.to(self.targets.device)][:, None], candidates], dim=1)

    @staticmethod
    def ranks_of_candidates(scores: Tensor) -> Tensor:
        """Rank targets by the scores of what :meth:`with_target` returned, int64 [n]."""
        return 1 + count_not_below(scores[:, 1:], scores[:, 0])

    def _ranks_in_pool(self, scores: Tensor, rows: np.ndarray) -> Tensor:
        """Rank targets of one domain by the scores [n, n_pool] of its whole pool."""
        device = scores.device
        targets = self.targets[torch.from_numpy(rows).to(device)]
        target_scores = scores.gather(1, self.place[targets][:, None]).squeeze(1)
        counts = count_not_below(scores, target_scores)
        # subtract the target and the items of the history, which were counted above
        offsets = self.excluded_offsets
        owners, places = map(torch.from_numpy, expand_ranges(offsets[rows], offsets[rows + 1]))
        owners, items = owners.to(device), self.excluded[places.to(device)]
        counted = ~(scores[owners, self.place[items]] < target_scores[owners])
        return 1 + counts - torch.bincount(owners[counted], minlength=len(rows))
