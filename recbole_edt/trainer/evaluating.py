"""Validation and tests of RecBole's Trainer, under the leak-free protocol."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.utils import set_color
from tqdm import tqdm

from recbole_edt import distributed
from recbole_edt.data.dataloader import EvaluationLoader
from recbole_edt.evaluation.metrics import metric_names, summarise
from recbole_edt.evaluation.ranking import Ranking
from recbole_edt.evaluation.vectors import Vectors, vectors_of

if TYPE_CHECKING:  # the mixins stand before one of RecBole's trainers
    from recbole.trainer import Trainer as TrainerBehind
else:
    TrainerBehind = object

_SPARSE = 16
"""Candidates are scored one by one where they are fewer than one item in this many."""

_SCORES = 2**27
"""Scores of all items that exist at a time: half a GiB, and as much again while they are ranked."""


class EvaluationMixin(TrainerBehind):
    """Evaluates any of RecBole's trainers: model -> scores -> ranks -> metrics.

    Attributes
    ----------
    reports : dict
        Phase -> its last report, ``{"overall": {...}, "domains": {name: {...}}}``.
    last_ranks : dict
        Phase -> int64 [n_eval], the ranks behind that report.
    """

    item_tensor: Any

    def __init__(self, config, model):
        super().__init__(config, model)
        self.metric_names = metric_names(config["metrics"], config["topk"])
        if self.valid_metric not in self.metric_names:
            self.metric_names.append(self.valid_metric)
        self.rankings: dict[tuple[str, str], Ranking] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.last_ranks: dict[str, np.ndarray] = {}

    def load_best(self, model_file=None) -> None:
        """Load the parameters of the best epoch, or of a given checkpoint."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(
        self, eval_data, load_best_model=True, model_file=None, show_progress=False, mode=None
    ):
        """Rank every target among its candidates; arguments are RecBole's.

        Parameters
        ----------
        mode : str, optional
            ``full`` or ``uniN``; by default the configured ``eval_args.mode`` of the phase.

        Returns
        -------
        OrderedDict
            Metrics overall, and per domain as ``<domain>/<metric>``.
        """
        if not eval_data:
            return None
        if load_best_model:
            self.load_best(model_file)
        ranks = self.ranks(eval_data, mode, show_progress)
        ranking = self._ranking(eval_data, mode)
        report: dict[str, Any] = {"overall": summarise(ranks, self.metric_names), "domains": {}}
        for domain, name in enumerate(ranking.domains):
            own = ranks[ranking.target_domains == domain]
            report["domains"][name] = summarise(own, self.metric_names)
        self.reports[eval_data.phase] = report
        self.last_ranks[eval_data.phase] = ranks
        parts = [("", report["overall"])]
        parts += [(f"{name}/", values) for name, values in report["domains"].items()]
        return OrderedDict(
            (prefix + metric, values[metric])
            for prefix, values in parts
            for metric in self.metric_names
        )

    def _ranking(self, eval_data, mode: str | None) -> Ranking:
        phase = eval_data.phase
        mode = mode or self.config["eval_args"]["mode"][phase]
        if (phase, mode) not in self.rankings:
            self.rankings[phase, mode] = Ranking(eval_data._dataset, phase, mode, self.device)
        return self.rankings[phase, mode]

    @torch.no_grad()
    def ranks(
        self, eval_data: EvaluationLoader, mode: str | None = None, show_progress=False
    ) -> np.ndarray:
        """Rank of every target, int64 [n_eval], in the order of ``dataset.split.users``.

        Of several processes each ranks a part.
        """
        self.model.eval()
        ranking = self._ranking(eval_data, mode)
        batches: Iterable[Any] = eval_data
        if show_progress:
            label = set_color("Evaluate   ", "pink")
            batches = tqdm(eval_data, total=len(eval_data), ncols=100, desc=label)
        vectors = vectors_of(self.model) if ranking.candidates is None else None
        if vectors is not None:
            return self._ranks_by_vectors(batches, vectors, ranking)
        out = np.zeros(len(ranking.targets), dtype=np.int64)
        self.tot_item_num = eval_data._dataset.item_num
        if self.item_tensor is None:  # RecBole asks for it when a model only scores single items
            self.item_tensor = eval_data._dataset.get_item_feature().to(self.device)
        for interaction, rows in batches:
            with self._autocast():
                out[rows] = self._batch_ranks(interaction.to(self.device), rows, ranking)
        if distributed.world_size() > 1:  # rows of other processes are zero
            out = distributed.all_reduce_sum(torch.from_numpy(out).to(self.device)).cpu().numpy()
        return out

    def _autocast(self) -> torch.autocast:
        return torch.autocast(device_type=self.device.type, enabled=self.enable_amp)

    def _ranks_by_vectors(self, batches, vectors: Vectors, ranking: Ranking) -> np.ndarray:
        """Encode every user once, then rank; scores are float32 in half precision, too."""
        domains = torch.from_numpy(ranking.target_domains)
        with self._autocast():
            items = vectors.item_vectors().float()
            users = items.new_zeros(len(domains), items.shape[1])  # [n_eval, d]
            for interaction, rows in batches:
                at = torch.from_numpy(rows)
                for domain, own in enumerate(vectors.user_vectors(interaction.to(self.device))):
                    chosen = domains[at] == domain
                    users[at[chosen].to(self.device)] = own[chosen.to(self.device)].float()
        users = distributed.all_reduce_sum(users)  # rows of other processes are zero
        return ranking.ranks_by_vectors(users, items).cpu().numpy()

    def _batch_ranks(self, interaction, rows: np.ndarray, ranking: Ranking) -> np.ndarray:
        few = ranking.candidates is not None and (
            _SPARSE * ranking.candidates.shape[1] < self.tot_item_num
        )
        if few and hasattr(self.model, "candidate_scores"):
            scores = self.model.candidate_scores(interaction, ranking.with_target(rows))
            return ranking.ranks_of_candidates(scores.float()).cpu().numpy()
        step = max(1, _SCORES // self.tot_item_num)
        parts = [slice(start, start + step) for start in range(0, len(rows), step)]
        return np.concatenate([self._full_ranks(interaction[p], rows[p], ranking) for p in parts])

    def _full_ranks(self, interaction, rows: np.ndarray, ranking: Ranking) -> np.ndarray:
        _, scores, _, _ = self._full_sort_batch_eval((interaction, None, None, None))
        return ranking.ranks(scores.float(), rows).cpu().numpy()
