"""LLM-ESR (Liu et al., NeurIPS '24): two views of every item, and similar users as teachers.

Parts of the paper (its section 3):

* dual-view modelling: :class:`LLMESR`. The semantic view is the frozen LLM embedding through an
  adapter of two linear layers; the collaborative view is an id embedding that starts as the PCA of
  the LLM embeddings. One sequence encoder serves both views.
* sequence-level fusion by cross-attention, both ways: :class:`DualViewEncoder`;
  logit-level fusion: item and user vectors are the views side by side, which sums their scores.
* retrieval-augmented self-distillation: :func:`similar_users`, :meth:`LLMESR.teachers`,
  :meth:`LLMESR.distillation_loss`.
* the loss: :meth:`LLMESR.calculate_loss`.

The sequence is the mixed one of both domains: the paper knows of one domain.

Departures:

* All attention is causal (except with ``backbone: bert4rec``). The public code leaves it unmasked
  while it trains all positions, which shows each position its own target.
* Inputs of the cross-attention are layer-normed, where the public code scales embeddings by the
  root of their size: text embeddings and their PCA have the text model's scale.
* ``fusion: residual`` adds the inputs of the cross-attention to its output. ``paper`` does not.
* Users without a profile file are embedded by the mean of the text embeddings of their training
  items, where the paper has an LLM embed a prompt that lists them.
* Negatives are of the positive's domain; ``loss: softmax`` shares many of them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from recbole_edt.data.dataloader import SEQUENCE
from recbole_edt.data.sequences import Sequences, gather_padded
from recbole_edt.model.backbones import multi_head_attention
from recbole_edt.model.base import CrossDomainModel, add_constants
from recbole_edt.model.baselines.settings import BaselineSettings
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.item_embedding import ItemEmbedding, id_table, start_unit_
from recbole_edt.model.lookup import ItemLookup
from recbole_edt.model.packing import Packing
from recbole_edt.model.text import ItemPairs, frozen_text, start_components
from recbole_edt.settings import Count, NonNegative, Probability

_TEACHERS = 256  # similar users encoded per block


class LLMESRSettings(BaselineSettings):
    """Keys of LLM-ESR."""

    backbone: str = Field("sasrec", description="sequence encoder; the paper has all three")
    dropout: Probability = Field(0.3, description="dropout in the encoder; public code: 0.5")
    collaborative_start: Literal["principal", "canonical"] = Field(
        "canonical", description="ids start as a PCA of the text (principal, paper), or canonical"
    )
    fusion: Literal["paper", "residual"] = Field(
        "residual", description="output of the cross-attention alone (paper), or plus its input"
    )
    distill_weight: NonNegative = Field(0.1, description="alpha of self-distillation; 0 = none")
    similar_users: Count = Field(2, description="N, similar users that teach each user; paper: 10")


class CrossAttention(nn.Module):
    """Attention of one view's steps over the other view's, on packed steps."""

    def __init__(self, hidden_size: int, n_heads: int, causal: bool) -> None:
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, asking: Tensor, asked: Tensor, packing: Packing, valid: Tensor) -> Tensor:
        """Queries from ``asking``, keys and values from ``asked``, all [n_real, d]."""
        qkv = torch.cat([self.query(asking), self.key_value(asked)], dim=-1)
        return self.out(multi_head_attention(qkv, packing, valid, self.n_heads, self.causal))


class DualViewEncoder(SequenceEncoder):
    """Cross-attention between the views of a sequence, then one encoder for both.

    Item vectors [..., 2 d] are the semantic view and the collaborative view side by side, and so
    are the states.
    """

    def __init__(self, config, max_length: int) -> None:
        super().__init__(config, max_length)
        self.residual = config["fusion"] == "residual"
        size, n_heads = config["hidden_size"], config["n_heads"]
        self.semantic_norm = nn.LayerNorm(size)
        self.collaborative_norm = nn.LayerNorm(size)
        self.to_semantic = CrossAttention(size, n_heads, self.causal)
        self.to_collaborative = CrossAttention(size, n_heads, self.causal)

    @property
    def mask_vector(self) -> Tensor | None:
        """Vector of a hidden item: the same in both views."""
        vector = super().mask_vector
        return None if vector is None else vector.repeat(2)

    def encode(self, vectors: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Map item vectors [B, L, 2 d] to states [B, L, 2 d]."""
        views = torch.cat(self.fuse(vectors, positions, valid))  # [2 B, L, d]
        states = self.backbone(views, positions, valid.repeat(2, 1))
        return torch.cat(states.chunk(2), dim=-1)

    def fuse(self, vectors: Tensor, positions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-attention: keys and values from each view, queries from the other one.

        Parameters as of :meth:`encode`; returns both views, [B, L, d] each, zero on padding.
        """
        packing = Packing(valid)
        semantic, collaborative = packing.pack(vectors).chunk(2, dim=-1)
        place = positions[packing.steps]
        first = self.semantic_norm(semantic + place)
        second = self.collaborative_norm(collaborative + place)
        to_first = self.to_semantic(second, first, packing, valid)
        to_second = self.to_collaborative(first, second, packing, valid)
        if self.residual:
            to_first, to_second = to_first + first, to_second + second
        return packing.pad(to_first), packing.pad(to_second)


def mean_text(sequences: Sequences, text: np.ndarray) -> np.ndarray:
    """Mean text [n_items, d_L] of each user's items: float32 [n_users, d_L], zero without rows."""
    ones = np.ones(len(sequences.items), dtype=np.float32)
    rows = csr_matrix((ones, sequences.items, sequences.offsets), (sequences.n_users, len(text)))
    return (rows @ text) / np.maximum(np.diff(sequences.offsets), 1)[:, None].astype(np.float32)


def similar_users(embeddings: np.ndarray, eligible: np.ndarray, n: int) -> np.ndarray:
    """The n users with the most similar embeddings [n_users, d_L], by cosine, for each user.

    Only ``eligible`` users (bool [n_users]) whose embedding is not zero are compared. Most similar
    first, without the user themself: int64 [n_users, n], 0 where there is none.
    """
    from sklearn.neighbors import NearestNeighbors  # every look-up of a model imports this file

    users = np.flatnonzero(eligible & embeddings.any(1))
    found = np.zeros((len(embeddings), n), dtype=np.int64)
    n = min(n, len(users) - 1)
    if n > 0:
        index = NearestNeighbors(n_neighbors=n, metric="cosine").fit(embeddings[users])
        found[users, :n] = users[index.kneighbors(return_distance=False)]
    return found


class LLMESR(CrossDomainModel):
    """LLM-ESR on the mixed sequence of both domains."""

    settings = LLMESRSettings
    reads_augmentation = True
    similar: Tensor  # int64 [n_users, N]
    histories: Tensor  # int32 [n_users, L]; training rows without the last target

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.distill_weight = config["distill_weight"]
        size = config["hidden_size"]
        text = frozen_text(dataset.item_table())
        self.semantic = ItemEmbedding("text", self.n_items, size, text)
        self.collaborative = id_table(self.n_items, size)
        raw = torch.from_numpy((dataset.item_domain >= 0) & ~dataset.item_generated)
        pairs = ItemPairs(dataset.train_sequences, dataset.item_domain)
        start, weight = config["collaborative_start"], self.collaborative.weight.data
        components = start_components(start, text, raw, size, pairs)  # [n_items, <= d]
        if start == "canonical":  # coordinates have no scale of their own, a PCA has the text's
            start_unit_(weight, components, raw)
        else:
            weight[:, : components.shape[1]] = components
        self.encoder = DualViewEncoder(config, self.max_seq_length)
        if self.distill_weight:
            self._retrieve(config, dataset)

    def _retrieve(self, config, dataset) -> None:
        rows: Sequences = dataset.train_sequences
        profiles = dataset.user_table()
        if profiles is None:
            embeddings = mean_text(rows, dataset.item_table().whole())
        else:
            embeddings = profiles.whole()
        trained = np.diff(rows.offsets) >= 2
        similar = similar_users(embeddings, trained, config["similar_users"])
        stops = np.maximum(rows.offsets[1:] - 1, rows.offsets[:-1])  # all but the last target
        starts = np.maximum(rows.offsets[:-1], stops - self.max_seq_length)
        histories = gather_padded(rows.items, starts, stops, self.max_seq_length).astype(np.int32)
        add_constants(self, similar=similar, histories=histories)

    def embed(self, items: Tensor) -> Tensor:
        """Both views of items side by side, [...] -> [..., 2 d]."""
        return torch.cat([self.semantic(items), self.collaborative(items)], dim=-1)

    # -- losses ---------------------------------------------------------------------------------

    @torch.no_grad()
    def teachers(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Mean state [n, 2 d] of each user's similar users, and who has some (bool [n]).

        A similar user's state is the one that predicts their last training target, as the
        student's is, without dropout. Each similar user of the batch is encoded once, beside others
        with histories about as long.
        """
        similar = self.similar[users]
        distinct, slots = torch.unique(similar, return_inverse=True)
        histories = self.histories[distinct].long()
        lengths = (histories > 0).sum(1)
        lookup = ItemLookup(self.embed, self.n_items, histories)
        states = lookup.vectors.new_empty(len(distinct), lookup.vectors.shape[1])
        training = self.encoder.training
        self.encoder.eval()
        for alike in lengths.argsort().split(_TEACHERS):
            states[alike] = self.encoder.last(lookup, histories[alike], lengths[alike])
        self.encoder.train(training)
        real = similar > 0
        total = (states[slots] * real[..., None]).sum(1)
        return total / real.sum(1, keepdim=True).clamp(min=1), real.any(1)

    def distillation_loss(self, users: Tensor, user_vectors: Tensor) -> Tensor:
        """Mean squared difference, over entries too, of last states [n, 2 d] and teachers."""
        means, taught = self.teachers(users)
        if not taught.any():
            return user_vectors.sum() * 0.0
        return F.mse_loss(user_vectors[taught], means[taught])

    def calculate_loss(self, interaction) -> Tensor:
        """Ranking loss over all positions plus alpha times the distillation loss."""
        batch, sequence = interaction, interaction[SEQUENCE]
        lookup = self.batch_lookup(batch)
        target_mask = self.encoder.choose_targets(sequence)
        states = self.encoder.before_targets(lookup, sequence, target_mask)
        loss = self.next_item_loss(batch, lookup, states, target_mask[:, 1:])
        if self.distill_weight:
            users, vectors = self.states_before_last_target(batch, states)
            loss = loss + self.distill_weight * self.distillation_loss(users, vectors)
        return loss
