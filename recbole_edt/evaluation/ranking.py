"""The ranking of every target among its candidates: one path for every model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.evaluation.metrics import count_not_below


class Ranking:
    """Targets of one phase and the candidates they are ranked among.

    Parameters
    ----------
    dataset : CrossDomainDataset
        Gives targets, domains, histories and candidates.
    phase : {"valid", "test"}
        Which held-out rows are the targets.
    mode : str
        ``full``: all raw items of the target's domain outside the user's raw history up to the
        target; ``uniN``: the N sampled candidates of
        :meth:`~recbole_edt.data.dataset.CrossDomainDataset.sampled_candidates`.
    device : torch.device
        Where the scores lie.
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
            self._exclude(dataset, rows, device)

    def _exclude(self, dataset: CrossDomainDataset, rows: np.ndarray, device) -> None:
        """Collect what a target's domain pool holds but is no candidate: history, the target."""
        offsets, items = dataset.raw_history(rows)
        n_items = dataset.item_num
        owner = np.repeat(np.arange(len(rows)), np.diff(offsets))
        targets = dataset.sequences.items[rows]
        same = dataset.item_domain[items] == self.target_domains[owner]
        keys = np.concatenate(
            [owner[same] * n_items + items[same], np.arange(len(rows)) * n_items + targets]
        )
        keys = np.unique(keys)
        counts = np.bincount(keys // n_items, minlength=len(rows))
        self.excluded_offsets = np.concatenate([[0], np.cumsum(counts)])
        self.excluded = torch.from_numpy(keys % n_items).to(device)

    def ranks(self, scores: Tensor, rows: np.ndarray) -> Tensor:
        """Rank targets by the scores of all items.

        Parameters
        ----------
        scores : Tensor
            [n, n_items]; what ``full_sort_predict`` returns.
        rows : np.ndarray
            int64 [n]; which targets these are.

        Returns
        -------
        Tensor
            int64 [n]; 1 + number of candidates that score at least as high as the target.
        """
        index = torch.from_numpy(rows).to(scores.device)
        target_scores = scores.gather(1, self.targets[index][:, None]).squeeze(1)
        if self.candidates is not None:
            candidates = self.candidates[torch.from_numpy(rows)].to(scores.device).long()
            return 1 + count_not_below(scores.gather(1, candidates), target_scores)
        return 1 + self._count_full(scores, target_scores, rows)

    def with_target(self, rows: np.ndarray) -> Tensor:
        """Return each target and, behind it, its sampled candidates: int64 [n, 1 + n_sampled]."""
        assert self.candidates is not None
        index = torch.from_numpy(rows)
        candidates = self.candidates[index].to(self.targets.device).long()
        return torch.cat([self.targets[index.to(self.targets.device)][:, None], candidates], dim=1)

    @staticmethod
    def ranks_of_candidates(scores: Tensor) -> Tensor:
        """Rank targets by the scores of what :meth:`with_target` returned, int64 [n]."""
        return 1 + count_not_below(scores[:, 1:], scores[:, 0])

    def _count_full(self, scores: Tensor, target_scores: Tensor, rows: np.ndarray) -> Tensor:
        counts = torch.empty(len(rows), dtype=torch.int64, device=scores.device)
        for domain, pool in enumerate(self.pools):
            mine = torch.from_numpy(np.flatnonzero(self.target_domains[rows] == domain))
            mine = mine.to(scores.device)
            if len(mine):
                of_pool = scores[mine].index_select(1, pool)
                counts[mine] = count_not_below(of_pool, target_scores[mine])
        lengths = np.diff(self.excluded_offsets)[rows]
        local = torch.from_numpy(np.repeat(np.arange(len(rows)), lengths)).to(scores.device)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        place = torch.from_numpy(np.repeat(self.excluded_offsets[rows], lengths) + within)
        items = self.excluded[place.to(scores.device)]
        beaten = ~(scores[local, items] < target_scores[local])
        return counts - torch.bincount(local[beaten], minlength=len(rows))
