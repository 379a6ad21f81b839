"""Validation and tests of RecBole's Trainer, under the leak-free protocol."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.utils import set_color
from tqdm import tqdm

from recbole_edt import distributed
from recbole_edt.data.dataloader import EvaluationLoader
from recbole_edt.evaluation.history import HistoryTerm, calibrate
from recbole_edt.evaluation.metrics import RankMetrics
from recbole_edt.evaluation.ranking import Ranking
from recbole_edt.evaluation.scores import all_scores, pair_scores, scores_all
from recbole_edt.evaluation.vectors import has_vectors, vectors_of

if TYPE_CHECKING:  # the mixins precede RecBole's trainer in the MRO
    from recbole.trainer import Trainer as TrainerBehind
else:
    TrainerBehind = object

_SPARSE = 16  # candidates are scored one by one if they are fewer than one item in this many
_SCORES = 2**27  # scores of all items at a time: half a GiB, and as much again to rank them


class EvaluationMixin(TrainerBehind):
    """Evaluates any of RecBole's trainers: model -> scores -> ranks and lists -> metrics.

    Scores are float32 whatever a model trains in, as in RecBole: in half precision many would be
    ties, which count against the target.

    ``reports`` holds the last ``{"overall": {...}, "domains": {name: {...}}}`` of each phase,
    ``last_ranks`` its ranks, int64 [n_eval].
    """

    item_tensor: Any

    def __init__(self, config, model):
        super().__init__(config, model)
        self.rankings: dict[tuple[str, str], Ranking] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.last_ranks: dict[str, np.ndarray] = {}
        self._has_warned = False

    @torch.no_grad()
    def evaluate(
        self, eval_data, load_best_model=True, model_file=None, show_progress=False, mode=None
    ):
        """Metrics overall, and per domain as ``<domain>/<metric>``; arguments are RecBole's.

        ``mode`` is ``full`` or ``uniN``; by default the configured ``eval_args.mode`` of the phase.
        """
        if not eval_data:
            return None
        if load_best_model:
            self.load_best(model_file)
        ranked = self.ranked(eval_data, mode, show_progress)
        ranking = self._ranking(eval_data, mode)
        metrics = RankMetrics(self.config, ranking.mode)
        report = metrics.report(ranked, ranking, eval_data._dataset)
        self.reports[eval_data.phase] = report
        self.last_ranks[eval_data.phase] = ranked[:, 0]
        domains = {f"{name}/": values for name, values in report["domains"].items()}
        result = OrderedDict(
            (prefix + name, values[name])
            for prefix, values in {"": report["overall"], **domains}.items()
            for name in metrics.names
        )
        if ranking.mode == self.config["eval_args"]["mode"][eval_data.phase]:
            self.wandblogger.log_eval_metrics(result, head="eval")
        return result

    def _ranking(self, eval_data, mode: str | None) -> Ranking:
        """Targets and candidates of a loader, which may be of other users than the last one."""
        phase, data = eval_data.phase, eval_data._dataset
        mode = mode or self.config["eval_args"]["mode"][phase]
        length = RankMetrics(self.config, mode).list_length
        found = self.rankings.get((phase, mode))
        if found is None or found.split is not data.split or found.list_length != length:
            found = Ranking(data, phase, mode, self.device, length)
            self.rankings[phase, mode] = found
        return found

    @torch.no_grad()
    def ranked(
        self, eval_data: EvaluationLoader, mode: str | None = None, show_progress=False
    ) -> np.ndarray:
        """Rank of every target, and the list of its user: int64 [n_eval, 1 + list_length].

        Rows are in the order of ``dataset.split.users``.
        """
        self.model.eval()
        ranking = self._ranking(eval_data, mode)
        label = set_color("Evaluate   ", "pink")
        batches = tqdm(
            eval_data.batches(),
            total=len(eval_data),
            ncols=100,
            desc=label,
            disable=not show_progress,
        )
        term = HistoryTerm.of(self.model, eval_data._dataset)
        if ranking.candidates is None and has_vectors(type(self.model)):
            users, items, histories = self._encoded(batches, ranking)
            self._warn_of_nan(users, items)
            further = (lambda domain, at: term.among(histories[at], domain)) if term else None
            return ranking.ranked_by_vectors(users, items, further).cpu().numpy()
        out = np.zeros((len(ranking.targets), 1 + ranking.list_length), dtype=np.int64)
        if self.item_tensor is None:  # features of items
            self.item_tensor = eval_data._dataset.get_item_feature().to(self.device)
        for interaction, rows in batches:
            out[rows] = self._ranked_batch(interaction.to(self.device), rows, ranking, term)
        if distributed.world_size() > 1:  # rows of other processes are zero
            out = distributed.all_reduce_sum(torch.from_numpy(out).to(self.device)).cpu().numpy()
        return out

    def _warn_of_nan(self, *scores: torch.Tensor) -> None:
        # the maximum of NaN and numbers is NaN, and takes a tenth of the time of looking for it
        if not self._has_warned and any(bool(part.max().isnan()) for part in scores):
            self._has_warned = True
            self.logger.warning(
                f"scores of {type(self.model).__name__} are not numbers (NaN) and count against "
                "the target: a lower learning_rate, or its predictions, may be what is wrong"
            )

    def _encoded(self, batches, ranking: Ranking) -> tuple[torch.Tensor, ...]:
        """Vectors of users [n_eval, d] and items [n_items, d], histories int64 [n_eval, L]."""
        vectors: Any = vectors_of(self.model)
        domains = torch.from_numpy(ranking.target_domains)
        shape = len(domains), self.config["MAX_ITEM_LIST_LENGTH"]
        histories = torch.zeros(shape, dtype=torch.int64, device=self.device)
        items = vectors.item_vectors().float()
        users = items.new_zeros(len(domains), items.shape[1])
        for interaction, rows in batches:
            interaction, at = interaction.to(self.device), torch.from_numpy(rows)
            seen = interaction[self.model.ITEM_SEQ]
            histories[at.to(self.device), : seen.shape[1]] = seen
            for domain, own in enumerate(vectors.user_vectors(interaction)):
                chosen = domains[at] == domain
                users[at[chosen].to(self.device)] = own[chosen.to(self.device)].float()
        # rows of other processes are zero
        return distributed.all_reduce_sum(users), items, distributed.all_reduce_sum(histories)

    @torch.no_grad()
    def calibrated(self, valid_data: EvaluationLoader) -> list[float]:
        """Weights of the history term that validation likes best, per domain (mode ``full``)."""
        self.model.eval()
        ranking = self._ranking(valid_data, "full")
        return calibrate(ranking, *self._encoded(valid_data.batches(), ranking))

    def _ranked_batch(self, interaction, rows: np.ndarray, ranking: Ranking, term) -> np.ndarray:
        model, features, score_few = self.model, self.item_tensor, None
        if ranking.candidates is not None:
            few = _SPARSE * ranking.candidates.shape[1] < len(features)
            if few and has_vectors(type(model)):
                score_few = getattr(model, "candidate_scores", None)
            if not scores_all(type(model)):
                score_few = partial(pair_scores, model, features=features)
        if score_few is not None:
            asked = ranking.with_target(rows)
            scores = score_few(interaction, asked)
            self._warn_of_nan(scores)
            if term:
                scores += term.of_each(interaction[model.ITEM_SEQ], asked)
            return ranking.ranked_candidates(scores.float()).cpu().numpy()
        step = max(1, _SCORES // len(features))
        parts = []
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores = all_scores(model, interaction[part], features, term)
            self._warn_of_nan(scores)
            parts.append(ranking.ranked(scores, rows[part]).cpu().numpy())
        return np.concatenate(parts)
