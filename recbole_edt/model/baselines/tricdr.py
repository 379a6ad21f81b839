"""Tri-CDR: triple sequence learning for cross-domain recommendation (Ma et al., TOIS 2024).

Parts of the paper:

* triple sequence encoding (source, target and mixed sequence): :meth:`TriCDR.encode_all`;
* triple cross-domain attention (TCA): :class:`TripleAttention`, :meth:`TriCDR.attend`;
* triple contrastive learning (TCL): :class:`TripleContrast`, of which :func:`nt_xent_loss` is the
  coarse-grained part and the triplet margin the fine-grained one;
* prediction: ``fusions``, :meth:`TriCDR.user_states`;
* intra-domain pre-training of the encoders, then joint training: :meth:`TriCDR.calculate_loss`.

The form of each part follows the authors' published model.

Departures:

* Both domains are served: each is the target of one direction and the source of the other. Both
  directions share the three encoders (one per domain, one for the mixed sequence); attention,
  fusion and projections are each direction's own, and losses are averaged over all targets.
* All positions are trained at once. The query is the last state of the target's own sequence; all
  three sequences show only items that precede the target in the mixed order.
* An empty sequence gives zero. Users who have all three sequences are contrasted.
* One pre-training serves all encoders, stopped by the summed scores of mixed and domain encoder;
  the paper chooses each encoder's epoch by itself.
* ``loss: bpr`` is the pairwise form of the paper's binary cross-entropy.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recbole_edt.data.dataloader import LAST, SEQUENCE, domain_sequence_fields
from recbole_edt.data.dataset import domain_fields
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.model.baselines.settings import BaselineSettings
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.item_embedding import id_table
from recbole_edt.settings import Amount, NonNegative, Positive, Probability

# values of the authors' code
_ATTENTION_SIZES = (80, 40)  # hidden units of the attention's scoring network
_SCORE_SCALE = 5.0  # factor of cosine scores
_TEMPERATURE = 0.1  # of coarse-grained TCL
_PAIR_WEIGHT = 1 / 3  # of mixed-source, mixed-target and source-target in coarse-grained TCL


class TriCDRSettings(BaselineSettings):
    """Keys of Tri-CDR."""

    dropout: Probability = Field(0.3, description="dropout in the encoders")
    item_tables: Literal["separate", "shared"] = Field(
        "shared",
        description="item vectors shared by mixed and domain encoders, or not; paper: separate",
    )
    score: Literal["cosine", "dot"] = Field("dot", description="cosine (paper), dot")
    finetune_epochs: Amount = Field(200, description="epochs of joint training, at most")
    finetune_learning_rate: Positive = Field(0.0003, description="learning rate of joint training")
    coarse_weight: NonNegative = Field(0.1, description="weight of coarse-grained TCL")
    fine_weight: NonNegative = Field(0.1, description="weight of fine-grained TCL")
    fine_margin: NonNegative = Field(1.0, description="margin of fine-grained TCL")


def visible_counts(items: Tensor, sequence_length: Tensor, in_domain: Tensor) -> Tensor:
    """Count the items of a sub-sequence that precede each target of a window.

    The sub-sequence of ``sequence_length`` [B] items ends with the window's last target: a target
    sees all of its items but those that the window ``items`` [B, L + 1] holds from the target on
    (``in_domain``, bool [B, L + 1]). Entry t of the counts [B, L] belongs to ``items[:, t + 1]``.
    """
    from_here = in_domain[:, 1:].long().flip(1).cumsum(1).flip(1)
    return (sequence_length[:, None] - from_here) * (items[:, 1:] > 0)


def prefix_means(states: Tensor, counts: Tensor) -> Tensor:
    """Means [B, T, d] of the first ``counts`` [B, T] of the states [B, K, d]; zero without any."""
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

        ``queries`` (q) and ``context`` (g) are [B, T, d]; each query sees the first ``counts``
        [B, T] of the ``states`` (k) [B, K, d].
        """
        visible = torch.arange(states.shape[1], device=counts.device) < counts[..., None]
        pairs = torch.nonzero(visible, as_tuple=True)
        scores = states.new_full(visible.shape, torch.finfo(states.dtype).min)
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
        hidden = F.linear(product, of_product) + from_keys.index_select(0, key_index)
        hidden = hidden + from_queries.index_select(0, query_index)
        return self.rest(hidden).squeeze(-1).to(states.dtype)


def nt_xent_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy between two views [n, d] of the same users.

    Each of the 2n vectors has its user's other view as the positive and all other vectors, of
    both views, as negatives; the mean over them.
    """
    n = len(first)
    vectors = F.normalize(torch.cat([first, second]).float(), dim=-1)
    itself = torch.eye(2 * n, dtype=torch.bool, device=vectors.device)
    logits = (vectors @ vectors.T / temperature).masked_fill(itself, -torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * n, device=vectors.device).roll(n))


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

    def forward(self, *views: Tensor) -> Tensor:
        """Weighted sum of both losses of mixed, source and target view, [n, d] each."""
        if not len(views[0]):
            return views[0].sum() * 0.0
        projected = zip(self.projections, views, strict=True)
        mixed, source, target = (project(view) for project, view in projected)
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
        self.domain_items = id_table(self.n_items, size)
        self.shared = config["item_tables"] == "shared"
        self.mixed_items = self.domain_items if self.shared else id_table(self.n_items, size)
        self.mixed_encoder = SequenceEncoder(config, self.max_seq_length)
        self.domain_encoders = self.encoder_per_domain(config)
        directions = range(self.n_domains)
        self.attentions = nn.ModuleList(TripleAttention(size) for _ in directions)
        self.fusions = nn.ModuleList(
            nn.Sequential(nn.Linear(3 * size, size), nn.LeakyReLU(), nn.Linear(size, size))
            for _ in directions
        )
        self.contrasts = nn.ModuleList(TripleContrast(config) for _ in directions)

    def begin_finetuning(self) -> None:
        """Enter joint training; all parameters stay trainable."""
        self.finetuning = True
        self._item_vectors = None

    # -- scores ---------------------------------------------------------------------------------

    def embed(self, items: Tensor) -> Tensor:
        """Vectors that user vectors are multiplied with, [...] -> [..., d].

        During pre-training with separate tables they hold both tables' vectors, [..., 2 d].
        """
        tables = [self.domain_items]
        if not self.finetuning and not self.shared:
            tables.insert(0, self.mixed_items)
        return torch.cat([self._scored(table(items)) for table in tables], dim=-1)

    def _scored(self, vectors: Tensor) -> Tensor:
        """Item vectors as scores see them: of unit length where scores are cosines."""
        return F.normalize(vectors, dim=-1) if self.cosine else vectors

    def _scoring(self, vectors: Tensor) -> Tensor:
        """User vectors as scores see them: of one length where scores are cosines."""
        return F.normalize(vectors, dim=-1) * _SCORE_SCALE if self.cosine else vectors

    # -- triple sequence encoding and TCA -------------------------------------------------------

    def encode_all(self, mixed: Tensor, by_domain: list[Tensor]) -> list[Tensor]:
        """States [B, K, d] after each item of sequences [B, K]: of each domain, then the mixed."""
        encoders = [*self.domain_encoders, self.mixed_encoder]
        tables = [self.domain_items] * self.n_domains + [self.mixed_items]
        return [
            encoder.before_targets(table, F.pad(sequence, (0, 1)), sequence.new_zeros(()))
            for encoder, table, sequence in zip(encoders, tables, [*by_domain, mixed], strict=True)
        ]

    def attend(
        self, target: int, states: list[Tensor], counts: list[Tensor], asked: Tensor
    ) -> list[Tensor]:
        """TCA towards one target domain; the other one is the source.

        The first ``counts`` [B, T] of the ``states`` of :meth:`encode_all` are visible. Returns the
        pooled mixed, source and target sequence [n, d] at the n places ``asked`` (bool [B, T]).
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
        return (self.joint_loss if self.finetuning else self.pretraining_loss)(interaction)

    def pretraining_loss(self, batch) -> Tensor:
        """Next-item losses of the mixed encoder and of each target's own domain encoder.

        With separate item tables the three encoders share no parameter: each is trained alone.
        """
        sequence = batch[SEQUENCE]
        real = sequence[:, 1:] > 0
        lookup = self.batch_lookup(batch, lambda items: self._scored(self.domain_items(items)))
        tables = [self.domain_items] * self.n_domains
        own, has_history = self.domain_states(batch, self.domain_encoders, tables)
        loss = self.next_item_loss(batch, lookup, self._scoring(own), has_history & real)
        if not self.shared:
            lookup = self.batch_lookup(batch, lambda items: self._scored(self.mixed_items(items)))
        mixed = self.mixed_encoder.before_targets(self.mixed_items, sequence, sequence)
        return loss + self.next_item_loss(batch, lookup, self._scoring(mixed), real)

    def joint_loss(self, batch) -> Tensor:
        """Next-item loss of the fused user vectors plus TCL, over both directions.

        A user is contrasted once per direction: at the last target of the domain, if the window
        ends the user's sequence and all three sequences have an item before that target.
        """
        sequence = batch[SEQUENCE]
        domains, real = self.item_domain[sequence], sequence[:, 1:] > 0
        by_domain = [batch[domain_sequence_fields(d)[0]] for d in range(self.n_domains)]
        encoded = self.encode_all(sequence[:, :-1], by_domain)
        counts = [
            visible_counts(sequence, (own > 0).sum(1), domains == domain)
            for domain, own in enumerate(by_domain)
        ]
        counts.append(torch.arange(1, sequence.shape[1], device=sequence.device) * real)

        everywhere = torch.stack(counts).amin(0) > 0
        states = encoded[-1].new_zeros(*real.shape, encoded[-1].shape[-1])
        contrast = states.new_zeros(())
        for target in range(self.n_domains):
            asked = domains[:, 1:] == target
            views = self.attend(target, encoded, counts, asked)
            states = states.index_put((asked,), self.user_states(target, views).to(states.dtype))
            last = asked & (asked.flip(1).cumsum(1).flip(1) == 1)
            contrasted = (last & everywhere & batch[LAST][:, None])[asked]
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
        if self.finetuning:
            asked = torch.ones_like(counts[-1], dtype=torch.bool)
            views = [self.attend(d, encoded, counts, asked) for d in range(self.n_domains)]
            return [self.user_states(target, of) for target, of in enumerate(views)]
        ends = zip(encoded, counts, strict=True)
        *own, whole = (self._scoring(last_visible(states, n)[:, 0]) for states, n in ends)
        if self.shared:
            return [whole + state for state in own]
        return [torch.cat([whole, state], dim=-1) for state in own]
