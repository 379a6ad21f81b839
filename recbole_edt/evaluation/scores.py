"""Scores of RecBole's models: of all items at once, or of single pairs where they offer no more."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_edt.errors import ConfigError

_PAIRS = 2**13  # pairs of a user and an item that are scored at a time


def scores_all(model: type) -> bool:
    """Whether a class scores all items at once; DIN, NeuMF and others score pairs alone."""
    return getattr(model, "full_sort_predict", None) is not AbstractRecommender.full_sort_predict


def all_scores(model: Any, rows: Interaction, features: Interaction, term: Any = None) -> Tensor:
    """Scores of all items for the ``rows`` of a batch, float32 [B, n_items].

    ``features`` are those of :func:`pair_scores`; ``term`` is the model's history term, if any.
    """
    items = torch.arange(len(features), device=rows[model.USER_ID].device)
    try:
        scores = model.full_sort_predict(rows).view(len(rows), -1)
    except NotImplementedError:  # as RecBole takes it, also from a class of a user's own
        scores = pair_scores(model, rows, items.expand(len(rows), -1), features)
    if scores.shape[1] < len(items):
        raise ConfigError(
            f"full_sort_predict of {type(model).__name__} gives {scores.shape[1]} scores for a "
            f"user, not one for each of the {len(items)} item ids, of which 0 is padding"
        )
    scores = scores[:, : len(items)]
    if term:
        scores = scores + term.among(rows[model.ITEM_SEQ])
    return scores.float()


def pair_scores(model: Any, rows: Interaction, items: Tensor, features: Interaction) -> Tensor:
    """Scores [B, n] of ``items`` int64 [B, n] for the ``rows`` of a batch, by ``predict``.

    ``features`` holds a row per item: its id, and the columns of ``.item`` that were read.
    """
    asked, out = items.flatten(), []
    for pairs in torch.arange(len(asked), device=asked.device).split(_PAIRS):
        owners = pairs // items.shape[1]
        fields = {name: values[owners] for name, values in rows.interaction.items()}
        fields |= {name: values[asked[pairs]] for name, values in features.interaction.items()}
        out.append(model.predict(Interaction(fields)).view(-1))
    return torch.cat(out).view(items.shape)
