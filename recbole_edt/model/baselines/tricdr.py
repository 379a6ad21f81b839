"""Tri-CDR: triple sequence learning for cross-domain recommendation (Ma et al., TOIS 2024).

Where the parts of the paper are:

* triple sequence encoding (source, target and mixed sequence): :meth:`TriCDR.encode`;
* triple cross-domain attention (TCA): :class:`TripleAttention`, :meth:`TriCDR.attend`;
* triple contrastive learning (TCL): :class:`TripleContrast`, of which :func:`nt_xent_loss` is the
  coarse-grained part and the triplet margin the fine-grained one;
* prediction: :class:`Fusion`, :meth:`TriCDR.user_vectors`;
* intra-domain pre-training of the encoders, then joint training: :meth:`TriCDR.calculate_loss`.

The form of each part (inputs and layer sizes of the attention, the losses and the points that they
are taken at) is that of the model which the authors published, not checked against the printed
equations. Departures, and why:

* Both domains are served. The paper trains one model per target domain; here one has three
  encoders, one per domain and one for the mixed sequence, which both directions share: each domain
  is the target of one direction and the source of the other. Attention, fusion and projections are
  each direction's own, and the losses of both are averaged over all their targets.
* All positions are trained at once. The query is the last state of the target's own sequence; all
  three sequences show only items that stand before the target in the mixed order.
* A target may lack history in its own or in the other domain, unlike in the paper: an empty
  sequence gives zero. Users who have all three sequences are contrasted.
* One pre-training serves all encoders, stopped by one validation score, that of the summed scores
  of mixed and domain encoder; the paper chooses each encoder's epoch by itself.
* ``loss: bpr`` is the pairwise form of the paper's binary cross-entropy over the same pair of a
  target and one negative of its domain.
* ``item_tables: shared`` and ``score: dot`` are choices beside the paper's.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recbole_edt.data.dataloader import SEQUENCE, domain_sequence_fields
from recbole_edt.data.dataset import domain_fields
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.model.baselines.settings import RivalSettings
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.settings import Amount, Count, NonNegative, Positive, Probability

_ATTENTION_SIZES = (80, 40)
"""Hidden units of the attention's scoring network."""

_SCORE_SCALE = 5.0
"""What cosines are multiplied with (authors' code)."""

_TEMPERATURE = 0.1
"""Of coarse-grained TCL (authors' code)."""

_PAIR_WEIGHT = 1 / 3
"""Of mixed-source, mixed-target and source-target in coarse-grained TCL."""


class TriCDRSettings(RivalSettings):
    """Keys of Tri-CDR."""

    inner_size: Count = Field(256, description="hidden units of feed-forward layers")
    dropout: Probability = Field(0.3, description="dropout in the encoders")
    item_tables: Literal["separate", "shared"] = Field(
        "shared", description="separate: mixed and domain encoders have their own items (paper)"
    )
    score: Literal["cosine", "dot"] = Field("dot", description="cosine (paper), dot")
    finetune_epochs: Amount = Field(200, description="epochs of joint training, at most")
    finetune_learning_rate: Positive = Field(0.0003, description="learning rate of joint training")
    coarse_weight: NonNegative = Field(0.1, description="weight of coarse-grained TCL")
    fine_weight: NonNegative = Field(0.1, description="weight of fine-grained TCL")
    fine_margin: NonNegative = Field(1.0, description="margin of fine-grained TCL")


def visible_counts(items: Tensor, sequence_length: Tensor, in_domain: Tensor) -> Tensor:
    """Count the items of a sub-sequence that stand before each target of a window.

    The sub-sequence ends with the window's last target: it has shown a target all of its items but
    those that the window still holds from the target on.

    Parameters
    ----------
    items : Tensor
        int64 [B, L + 1]; the window, padding is 0.
    sequence_length : Tensor
        int64 [B]; items of the sub-sequence.
    in_domain : Tensor
        bool [B, L + 1]; which of ``items`` belong to it.

    Returns
    -------
    Tensor
        int64 [B, L]; entry t belongs to the target ``items[:, t + 1]``, zero on padding.
    """
    inside = in_domain[:, 1:].long()
    behind = inside.flip(1).cumsum(1).flip(1)  # the target and what follows it
    return (sequence_length[:, None] - behind) * (items[:, 1:] > 0)


def prefix_means(states: Tensor, counts: Tensor) -> Tensor:
    """Means [B, T, d] of the first ``counts`` [B, T] of the states [B, K, d]; zero without any.

    They are the global preference that TCA is shown.
    """
    sums = F.pad(states.cumsum(1), (0, 0, 1, 0))  # [B, K + 1, d]
    rows = torch.arange(len(states), device=states.device)[:, None]
    return sums[rows, counts] / counts.clamp(min=1)[..., None]


def last_visible(states: Tensor, counts: Tensor) -> Tensor:
    """States [B, T, d] at the ends of prefixes with ``counts`` [B, T] items; zero without any."""
    rows = torch.arange(len(states), device=states.device)[:, None]
    return states[rows, (counts - 1).clamp(min=0)] * (counts > 0)[..., None]


class TripleAttention(nn.Module):
    """TCA of one direction: a target-domain query pools a sequence in view of global preference.

    The weight of a state is a softmax over ``MLP([k, q, k * q, q - k, g])`` of the state k, the
    query q (the target-domain state) and g (the mean of the mixed states). One network scores all
    three sequences.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        first, second = _ATTENTION_SIZES
        self.compare = nn.Linear(5 * size, first)
        self.rest = nn.Sequential(
            nn.PReLU(), nn.Linear(first, second), nn.PReLU(), nn.Linear(second, 1)
        )

    def forward(self, queries: Tensor, context: Tensor, states: Tensor, counts: Tensor) -> Tensor:
        """Pool the visible part of a sequence for each query: [B, T, d], zero without any.

        Parameters
        ----------
        queries, context : Tensor
            [B, T, d]; q and g.
        states : Tensor
            [B, K, d]; k.
        counts : Tensor
            int64 [B, T]; how many states from the first on each query may see.
        """
        visible = torch.arange(states.shape[1], device=counts.device) < counts[..., None]
        pairs = torch.nonzero(visible, as_tuple=True)
        lowest = torch.finfo(states.dtype).min
        scores = states.new_full(visible.shape, lowest)
        scores = scores.index_put(pairs, self._score(queries, context, states, pairs))
        return (scores.softmax(-1) * visible) @ states

    def _score(self, queries: Tensor, context: Tensor, states: Tensor, pairs) -> Tensor:
        """Score the visible pairs alone; what depends on one side of a pair is computed once."""
        row, query, key = pairs
        query_index = row * queries.shape[1] + query
        key_index = row * states.shape[1] + key
        of_key, of_query, of_product, of_gap, of_context = self.compare.weight.chunk(5, dim=1)
        keys, asked = states.flatten(0, 1), queries.flatten(0, 1)
        from_keys = F.linear(keys, of_key - of_gap)
        from_queries = F.linear(asked, of_query + of_gap, self.compare.bias)
        from_queries = from_queries + F.linear(context.flatten(0, 1), of_context)
        product = keys.index_select(0, key_index) * asked.index_select(0, query_index)
        hidden = F.linear(product, of_product)
        hidden = hidden + from_keys.index_select(0, key_index)
        hidden = hidden + from_queries.index_select(0, query_index)
        return self.rest(hidden).squeeze(-1).to(states.dtype)


class Fusion(nn.Sequential):
    """User vector from the three pooled sequences: two layers, LeakyReLU between them."""

    def __init__(self, size: int) -> None:
        super().__init__(nn.Linear(3 * size, size), nn.LeakyReLU(), nn.Linear(size, size))


def nt_xent_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy between two views [n, d] of the same users.

    Each of the 2n vectors has its user's other view as the positive and all other vectors, of
    both views, as negatives; the mean over them.
    """
    n = len(first)
    vectors = F.normalize(torch.cat([first, second]).float(), dim=-1)
    itself = torch.eye(2 * n, dtype=torch.bool, device=vectors.device)
    logits = (vectors @ vectors.T / temperature).masked_fill(itself, -torch.inf)
    partner = torch.arange(2 * n, device=vectors.device).roll(n)
    return F.cross_entropy(logits, partner)


class TripleContrast(nn.Module):
    """TCL of one direction, on projections of the three pooled sequences.

    Coarse-grained: the three views of a user are alike (NT-Xent of each pair of views).
    Fine-grained: the source view is nearer to the mixed than to the target view, by a margin.
    """

    def __init__(self, config) -> None:
        super().__init__()
        size, self.margin = config["hidden_size"], config["fine_margin"]
        self.coarse_weight, self.fine_weight = config["coarse_weight"], config["fine_weight"]
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size)) for _ in range(3)
        )

    def forward(self, mixed: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Weighted sum of both losses of users' pooled sequences, [n, d] each; 0 without users."""
        if not len(mixed):
            return mixed.sum() * 0.0
        views = zip(self.projections, (mixed, source, target), strict=True)
        mixed, source, target = (project(view) for project, view in views)
        coarse = mixed.new_zeros(())
        for pair in ((mixed, source), (mixed, target), (source, target)):
            coarse = coarse + _PAIR_WEIGHT * nt_xent_loss(*pair, _TEMPERATURE)
        fine = F.triplet_margin_loss(source, mixed, target, self.margin)
        return self.coarse_weight * coarse + self.fine_weight * fine


class TriCDR(CrossDomainModel):
    """Tri-CDR in both directions: its encoders alone until :meth:`begin_finetuning`, then joint."""

    settings = TriCDRSettings
    trainer = "recbole_edt.trainer.stages:TwoStageTrainer"
    stages = (("epochs", "learning_rate"), ("finetune_epochs", "finetune_learning_rate"))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        size, self.cosine = config["hidden_size"], config["score"] == "cosine"
        self.joint = False
        self.domain_items = self._make_table(size)
        self.mixed_items = self.domain_items
        if config["item_tables"] == "separate":
            self.mixed_items = self._make_table(size)

        def one_per_domain(make):
            return nn.ModuleList(make() for _ in range(self.n_domains))

        self.mixed_encoder = SequenceEncoder(config, self.max_seq_length)
        self.domain_encoders = one_per_domain(lambda: SequenceEncoder(config, self.max_seq_length))
        self.attentions = one_per_domain(lambda: TripleAttention(size))
        self.fusions = one_per_domain(lambda: Fusion(size))
        self.contrasts = one_per_domain(lambda: TripleContrast(config))

    def _make_table(self, size: int) -> nn.Embedding:
        table = nn.Embedding(self.n_items, size)
        nn.init.normal_(table.weight, std=0.02)
        return table

    def begin_finetuning(self) -> None:
        """Enter joint training; all parameters go on being trained."""
        self.joint = True
        self._item_vectors = None

    # -- scores ---------------------------------------------------------------------------------

    def embed(self, items: Tensor) -> Tensor:
        """Vectors that user vectors are multiplied with, [...] -> [..., d].

        During pre-training with separate tables they hold both tables' vectors, [..., 2 d].
        """
        vectors = self._scored(self.domain_items(items))
        if self.joint or self.mixed_items is self.domain_items:
            return vectors
        return torch.cat([self._scored(self.mixed_items(items)), vectors], dim=-1)

    def _scored(self, vectors: Tensor) -> Tensor:
        """Item vectors as scores see them: of unit length where scores are cosines."""
        return F.normalize(vectors, dim=-1) if self.cosine else vectors

    def _scoring(self, vectors: Tensor) -> Tensor:
        """User vectors as scores see them: of one length where scores are cosines."""
        return F.normalize(vectors, dim=-1) * _SCORE_SCALE if self.cosine else vectors

    # -- triple sequence encoding and TCA -------------------------------------------------------

    def encode(self, encoder: SequenceEncoder, table: nn.Module, sequence: Tensor) -> Tensor:
        """States after each item of right-padded sequences [B, K]: [B, K, d]."""
        nothing = torch.zeros((), dtype=torch.bool, device=sequence.device)
        return encoder.before_targets(table, F.pad(sequence, (0, 1)), nothing)

    def encode_all(self, mixed: Tensor, by_domain: list[Tensor]) -> list[Tensor]:
        """States [B, K, d] of each domain's sub-sequences [B, K], and last of the mixed ones."""
        encoders = zip(self.domain_encoders, by_domain, strict=True)
        states = [self.encode(encoder, self.domain_items, own) for encoder, own in encoders]
        return [*states, self.encode(self.mixed_encoder, self.mixed_items, mixed)]

    def attend(
        self, target: int, states: list[Tensor], counts: list[Tensor], asked: Tensor
    ) -> list[Tensor]:
        """TCA towards one target domain; the other one is the source.

        Parameters
        ----------
        states, counts : list of Tensor
            As :meth:`encode_all` returns them, and how many of them may be seen, int64 [B, T].
        asked : Tensor
            bool [B, T]; where there is a target of this direction, n places in all.

        Returns
        -------
        list of Tensor
            Pooled mixed, source and target sequence, [n, d] each.
        """
        query = last_visible(states[target], counts[target])
        context = prefix_means(states[-1], counts[-1])
        attention = self.attentions[target]
        return [
            attention(query, context, states[which], counts[which] * asked)[asked]
            for which in (-1, 1 - target, target)
        ]

    def user_states(self, target: int, views: list[Tensor]) -> Tensor:
        """User vectors [n, d] from the three pooled sequences, [n, d] each."""
        return self._scoring(self.fusions[target](torch.cat(views, dim=-1)))

    # -- losses ---------------------------------------------------------------------------------

    def calculate_loss(self, interaction) -> Tensor:
        """Loss of the current stage over all positions of a batch of sequences."""
        return (self.joint_loss if self.joint else self.pretraining_loss)(interaction)

    def pretraining_loss(self, batch) -> Tensor:
        """Next-item losses of the mixed encoder and of each target's own domain encoder.

        With separate item tables the three encoders share no parameter: each is trained alone.
        """
        sequence = batch[SEQUENCE]
        real = sequence[:, 1:] > 0
        lookup = self.batch_lookup(batch, lambda items: self._scored(self.domain_items(items)))

        def encode(domain, own, masked):
            encoder = self.domain_encoders[domain]
            return self._scoring(encoder.before_targets(self.domain_items, own, masked))

        states, has = self.states_in_own_domain(batch, encode)
        loss = self.next_item_loss(batch, lookup, states, has & real)
        if self.mixed_items is not self.domain_items:
            lookup = self.batch_lookup(batch, lambda items: self._scored(self.mixed_items(items)))
        mixed = self.encode(self.mixed_encoder, self.mixed_items, sequence[:, :-1])
        return loss + self.next_item_loss(batch, lookup, self._scoring(mixed), real)

    def joint_loss(self, batch) -> Tensor:
        """Next-item loss of the fused user vectors plus TCL, over both directions.

        A user is contrasted once per direction: at the last target of the domain, if the window
        ends the user's sequence and all three sequences have an item before that target.
        """
        sequence = batch[SEQUENCE]
        domains = self.item_domain[sequence]
        by_domain = [batch[domain_sequence_fields(d)[0]] for d in range(self.n_domains)]
        encoded = self.encode_all(sequence[:, :-1], by_domain)
        counts = [
            visible_counts(sequence, (own > 0).sum(1), domains == domain)
            for domain, own in enumerate(by_domain)
        ]
        real = sequence[:, 1:] > 0
        steps = torch.arange(1, sequence.shape[1], device=sequence.device)
        counts.append(steps * real)

        everywhere = torch.stack(counts).amin(0) > 0
        states = encoded[-1].new_zeros(*real.shape, encoded[-1].shape[-1])
        contrast = states.new_zeros(())
        for target in range(self.n_domains):
            asked = domains[:, 1:] == target
            views = self.attend(target, encoded, counts, asked)
            states = states.index_put((asked,), self.user_states(target, views).to(states.dtype))
            last = asked & (asked.flip(1).cumsum(1).flip(1) == 1)
            contrasted = (last & everywhere & batch["last"][:, None])[asked]
            contrast = contrast + self.contrasts[target](*(view[contrasted] for view in views))
        return self.next_item_loss(batch, self.batch_lookup(batch), states, real) + contrast

    # -- inference ------------------------------------------------------------------------------

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] that items of each domain are scored with.

        During pre-training they give the summed scores of mixed and domain encoder.
        """
        fields = [domain_fields(domain) for domain in range(self.n_domains)]
        fields.append((self.ITEM_SEQ, self.ITEM_SEQ_LEN))
        counts = [interaction[length][:, None] for _, length in fields]
        *by_domain, mixed = (
            interaction[items][:, : max(int(count.max()), 1)]
            for (items, _), count in zip(fields, counts, strict=True)
        )
        encoded = self.encode_all(mixed, by_domain)
        if not self.joint:
            return self._pretrained_vectors(encoded, counts)
        asked = torch.ones_like(counts[-1], dtype=torch.bool)
        return [
            self.user_states(target, self.attend(target, encoded, counts, asked))
            for target in range(self.n_domains)
        ]

    def _pretrained_vectors(self, encoded: list[Tensor], counts: list[Tensor]) -> list[Tensor]:
        ends = zip(encoded, counts, strict=True)
        *by_domain, mixed = (
            self._scoring(last_visible(states, count)[:, 0]) for states, count in ends
        )
        if self.mixed_items is self.domain_items:
            return [mixed + own for own in by_domain]
        return [torch.cat([mixed, own], dim=-1) for own in by_domain]
