"""LLMCDSR (Xin et al., TOIS 2025): pseudo items of the other domain, recalled by a learned network.

Parts of the paper:

* Candidate-free cross-domain interaction generation: the inserted rows of an augmented dataset are
  the pseudo items, existing or generated ones (:func:`pseudo_items`).
* Collaborative-textual contrastive pre-training, stage 1: next items within each domain, plus
  :func:`contrastive_loss` between an item's projected text and its id embedding.
* Relevance-aware meta recall network (RMRN): attention over a user's projected pseudo items
  (:class:`RecallNetwork`), the k items of the domain that are most similar to their pooled vector
  (:meth:`LLMCDSR.most_similar`), inserted into the real sequence (:func:`insert_at_random`).
* Cross-domain recommendation, stage 2: one encoder over the real mixed sequences and over those
  with recalled items, which are inputs, never targets (:meth:`LLMCDSR.recommendation_loss`).
* Meta learning of the RMRN by what a shadow recommender learns from the recalled items
  (:meth:`LLMCDSR.meta_backward`).

Users are scored from their real rows alone (``augmented_histories: False``), as by the authors.

Departures:

* The authors unroll a shadow step of Adam and differentiate through it. Here it is a step of plain
  gradient descent without dropout, and the derivative of its gradient is a central difference of
  two gradients: the same second-order term at the price of two passes.
* RMRN and recommender are updated together after a batch, the authors' RMRN just before it.
* A user's own items are not recalled: put before its own row, such an item would be the answer.
* The first real item is no target: only recalled items precede it, in some rows.
* ``recall_attention: history`` also weighs a pseudo item by its similarity to the user's real
  sequence; the authors' code (``item``) judges each pseudo item by itself.
* ``loss: bpr`` stands for the paper's cross-entropy with one negative. Negatives are of the
  positive's domain. ``item_embedding: both`` and ``encoded_sequences: all`` are additions.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recbole_edt.data.dataloader import (
    AUGMENTED,
    NEGATIVES,
    SEEN,
    SEQUENCE,
    TARGET_WEIGHTS,
    domain_sequence_fields,
)
from recbole_edt.data.sequences import Sequences, gather_padded
from recbole_edt.model.base import CrossDomainModel, add_constants
from recbole_edt.model.baselines.settings import BaselineSettings
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.item_embedding import id_table, make_item_embedding
from recbole_edt.model.text import MappedText, add_text, frozen_text, text_rows
from recbole_edt.settings import Count, NonNegative, Positive

_RELATIVE_STEP = 0.01  # length of the central difference's half step


class LLMCDSRSettings(BaselineSettings):
    """Keys of LLMCDSR."""

    augmentation: bool = Field(True, description="inserted rows are its pseudo items")
    augmented_histories: bool = Field(False, description="inserted rows in users' histories, too")
    learning_rate: Positive = Field(0.001, description="of both stages; paper: 0.001")
    backbone: str = Field("sasrec", description="of every encoder (table 10); paper: sasrec")
    item_embedding: Literal["id", "both"] = Field("both", description="id (paper), or plus text")
    pretrain_epochs: Count = Field(200, description="epochs of stage 1, at most")
    contrast_weight: NonNegative = Field(0.1, description="weight of the contrast of text and id")
    contrast_items: Count = Field(512, description="contrasted items of a domain; paper: all")
    encoded_sequences: Literal["mixed", "all"] = Field(
        "all",
        description="sequences encoded: mixed, or each domain's, too; paper: mixed",
    )
    recall_attention: Literal["item", "history"] = Field(
        "history", description="what asks in the attention of the recall network; authors: item"
    )
    meta_interval: Count = Field(4, description="batches per update of the recall network")


def pseudo_items(sequences: Sequences, item_domain: np.ndarray, n_domains: int) -> np.ndarray:
    """Collect users' inserted items of each domain: int64 [n_users, n_domains, m], 0 = padding."""
    inserted = sequences.keep(sequences.augmented)
    domains = item_domain[inserted.items]
    parts = [inserted.keep(domains == domain) for domain in range(n_domains)]
    width = max(1, *(int(np.diff(part.offsets).max(initial=0)) for part in parts))
    padded = (gather_padded(p.items, p.offsets[:-1], p.offsets[1:], width) for p in parts)
    return np.stack([*padded], axis=1)


def users_of_both_domains(
    sequences: Sequences, item_domain: np.ndarray, n_domains: int
) -> np.ndarray:
    """Users with raw training rows in every domain: bool [n_users]."""
    raw = sequences.keep(~sequences.augmented)
    counts = np.zeros((raw.n_users, n_domains), dtype=np.int64)
    np.add.at(counts, (raw.users, item_domain[raw.items]), 1)
    return counts.min(axis=1) > 0


def front(values: Tensor, kept: Tensor, fill: int = 0) -> Tensor:
    """Move the chosen entries (bool [B, L]) of each row [B, L] to its front, in their order.

    The result [B, M] is as wide as the fullest row, at least two; ``fill`` pads it.
    """
    width = max(int(kept.sum(1).max()), 2)
    order = torch.argsort(~kept, dim=1, stable=True)[:, :width]
    return values.gather(1, order).masked_fill(~kept.gather(1, order), fill)


def contrastive_loss(texts: Tensor, features: Tensor) -> Tensor:
    """Contrast each item's projected text with its id embedding, [n, d] each (pre-training).

    The positive of either view is the other view of the same item; both views of all other items
    are negatives. Scores are dot products (temperature 1). The mean over both views, 0 without any.
    """
    if not len(texts):
        return texts.sum()
    views = torch.cat([texts, features]).float()  # [2 n, d]
    logits = views @ views.T
    positives = logits.diagonal(len(texts))
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    denominators = torch.logsumexp(logits.masked_fill(itself, -torch.inf), dim=1)
    return denominators.mean() - positives.mean()


class RecallNetwork(nn.Module):
    """Attention that pools a user's pseudo items of a domain into one vector (RMRN).

    It starts as the mean over them. Each domain has weights of its own. With ``history``, an item's
    similarity to the user's real sequence counts too.
    """

    def __init__(self, hidden_size: int, n_domains: int, history: bool) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.zeros(n_domains, hidden_size))
        self.relevance = nn.Parameter(torch.zeros(n_domains)) if history else None

    def forward(self, domain: int, pseudo: Tensor, valid: Tensor, history: Tensor) -> Tensor:
        """Pool the projected texts [n, m, d] of pseudo items of a domain: [n, d].

        ``valid`` (bool [n, m]) is False on padding, with at least one True per row; ``history``
        [n, d] is the sum of the projected texts of the user's real sequence.
        """
        scores = pseudo @ self.content[domain]
        if self.relevance is not None:
            alike = F.cosine_similarity(pseudo, history[:, None], dim=-1)
            scores = scores + self.relevance[domain] * alike
        weights = scores.masked_fill(~valid, -torch.inf).softmax(dim=1)
        return (weights[..., None] * pseudo).sum(1)


class RecalledRows(NamedTuple):
    """Rows of a batch with recalled items in them."""

    rows: Tensor  # int64 [n]; row of the batch that each comes from
    sequence: Tensor  # int64 [n, M]; real and recalled items
    source: Tensor  # int64 [n, M]; column of a real item in its row; -1: recalled or padding
    pooled: Tensor  # [n, d]; vector that items were recalled by


def stack_rows(first: Tensor, second: Tensor) -> Tensor:
    """Rows [n, a] above rows [m, b], the narrower ones padded with zeros."""
    width = max(first.shape[1], second.shape[1])
    return torch.cat([F.pad(rows, (0, width - rows.shape[1])) for rows in (first, second)])


def insert_at_random(sequence: Tensor, recalled: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
    """Put recalled items [n, k] at random before items of real sequences [n, L]; 0 = padding.

    Returns the items [n, M], without the beginning beyond ``max_length``, and the column of each
    real item in ``sequence``, -1 for others.
    """
    n, length = sequence.shape
    lengths = (sequence > 0).sum(1, keepdim=True)
    steps = torch.arange(length, device=sequence.device).expand(n, -1)
    before = (torch.rand(recalled.shape, device=sequence.device) * lengths).long()
    keys = torch.cat([2 * steps, 2 * before.clamp(max=lengths - 1) - 1], dim=1)
    items = torch.cat([sequence, recalled], dim=1)
    source = torch.cat([steps, torch.full_like(recalled, -1)], dim=1)
    order = torch.argsort(keys.masked_fill(items == 0, 2 * length), dim=1, stable=True)
    items, source = items.gather(1, order), source.gather(1, order)
    real = items > 0
    kept = real & (real.flip(1).cumsum(1).flip(1) <= max_length)
    return front(items, kept), front(source, kept, -1)


class LLMCDSR(CrossDomainModel):
    """Both stages: contrastive pre-training until :meth:`begin_finetuning`, then recommendation."""

    settings = LLMCDSRSettings
    trainer = "recbole_edt.trainer.stages:TwoStageTrainer"
    stages = (("pretrain_epochs", "learning_rate"), ("epochs", "learning_rate"))
    reads_augmentation = True

    # values of the authors' runs
    n_recalled = 10  # k, items recalled per user
    recall_share = 0.25  # rows with recalled items per real row: 32 to 128
    meta_batch_size = 128  # users of both domains that judge a step of the shadow
    shadow_learning_rate = 1.0  # of gradient descent; theirs of Adam is 0.001

    text: Tensor | MappedText
    pseudo: Tensor  # int64 [n_users, domains, m]
    has_both: Tensor  # bool [n_users]; users with real items of both domains
    raw_item: Tensor  # bool [n_items]

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.contrast_weight = config["contrast_weight"]
        self.contrast_items = config["contrast_items"]
        self.all_sequences = config["encoded_sequences"] == "all"
        self.meta_interval = config["meta_interval"]
        text, size = frozen_text(dataset.item_table()), config["hidden_size"]
        add_text(self, "text", text)
        self.features = id_table(self.n_items, size)
        self.projections = nn.ModuleList(
            nn.Linear(text.shape[1], size, bias=False) for _ in range(self.n_domains)
        )
        for weight in self.projections.parameters():
            nn.init.xavier_normal_(weight)
        self.domain_encoders = self.encoder_per_domain(config)
        self.item_embedding = make_item_embedding(config["item_embedding"], dataset, size)
        self.encoder = SequenceEncoder(config, self.max_seq_length)
        history = config["recall_attention"] == "history"
        self.recall_network = RecallNetwork(size, self.n_domains, history)
        sequences = (dataset.train_sequences, dataset.item_domain, self.n_domains)
        pseudo, has_both = pseudo_items(*sequences), users_of_both_domains(*sequences)
        add_constants(self, pseudo=pseudo, has_both=has_both, raw_item=~dataset.item_generated)
        self._enter(finetuning=False)

    # -- stages ---------------------------------------------------------------------------------

    def _enter(self, finetuning: bool) -> None:
        self.finetuning = finetuning
        first = nn.ModuleList([self.features, self.projections, self.domain_encoders])
        second = nn.ModuleList([self.item_embedding, self.encoder, self.recall_network])
        first.requires_grad_(not finetuning)
        second.requires_grad_(finetuning)

    def begin_finetuning(self) -> None:
        """Enter stage 2: the pre-trained parts are frozen."""
        self._enter(finetuning=True)
        if not self.pseudo.any():
            self.logger.info("no inserted rows in the data: the recall network has no pseudo items")
        elif not self.has_both.any():
            self.logger.info("no user of both domains: the recall network stays the plain mean")

    def embed(self, items: Tensor) -> Tensor:
        """Vectors of items in the current stage, [...] -> [..., d]."""
        return self.item_embedding(items) if self.finetuning else self.features(items)

    # -- real rows ------------------------------------------------------------------------------

    def fields_of_targets(self) -> list[str]:
        """Fields of a batch that hold a value for each target, [B, L]."""
        there = {NEGATIVES: self.loss_name == "bpr", TARGET_WEIGHTS: self.weighs_targets}
        return [name for name in there if there[name]]

    def real_rows(self, batch) -> dict[str, Tensor]:
        """Return the fields of a batch without its inserted rows, shifted to the front."""
        kept = (batch[SEQUENCE] > 0) & ~batch[AUGMENTED]
        out = {self.USER_ID: batch[self.USER_ID], SEQUENCE: front(batch[SEQUENCE], kept)}
        for name in self.fields_of_targets():
            out[name] = front(F.pad(batch[name], (1, 0)), kept)[:, 1:]
        for domain in range(self.n_domains):
            sequence_field, place_field = domain_sequence_fields(domain)
            sequence, place = batch[sequence_field], batch[place_field]
            own = (sequence > 0) & ~batch[f"{AUGMENTED}_{domain}"]
            shifted = (own.cumsum(1) - 1).gather(1, place.clamp(min=0))
            place = torch.where(place >= 0, shifted, -1)
            out[sequence_field] = front(sequence, own)
            out[place_field] = front(F.pad(place, (1, 0), value=-1), kept, -1)[:, 1:]
            if self.loss_name == "softmax":
                for field in (f"{NEGATIVES}_{domain}", f"{SEEN}_{domain}"):
                    out[field] = batch[field]
        return out

    # -- stage 1: collaborative-textual contrastive pre-training --------------------------------

    def pretraining_loss(self, batch) -> Tensor:
        """Next items within each domain, plus the contrast of text and id embedding."""
        batch = self.real_rows(batch)
        target_mask = self.encoder.choose_targets(batch[SEQUENCE])
        lookup = self.batch_lookup(batch)
        lookups = [lookup] * self.n_domains
        states, has_history = self.domain_states(batch, self.domain_encoders, lookups, target_mask)
        loss = self.next_item_loss(batch, lookup, states, has_history & target_mask[:, 1:])
        for domain in range(self.n_domains):
            loss = loss + self.contrast_weight * self._contrast(domain, batch)
        return loss

    def _contrast(self, domain: int, batch) -> Tensor:
        negatives = batch[NEGATIVES if self.loss_name == "bpr" else f"{NEGATIVES}_{domain}"]
        own = batch[domain_sequence_fields(domain)[0]]
        items = torch.unique(torch.cat([own.reshape(-1), negatives.reshape(-1)]))
        items = items[self.item_domain[items] == domain]
        if len(items) > self.contrast_items:
            items = items[torch.randperm(len(items), device=items.device)[: self.contrast_items]]
        texts = self.projections[domain](text_rows(self.text, items))
        return contrastive_loss(texts, self.features(items))

    # -- stage 2: recall ------------------------------------------------------------------------

    def recall(self, batch) -> RecalledRows | None:
        """Insert recalled items into a random part of the rows of a batch of :meth:`real_rows`.

        None if no user of the batch has pseudo items.
        """
        sequence = batch[SEQUENCE]
        pseudo = self.pseudo[batch[self.USER_ID]]  # [B, domains, m]
        usable = (pseudo > 0).any(2) & (sequence[:, 1:] > 0).any(1, keepdim=True)
        pairs = torch.nonzero(usable)
        wanted = int(np.ceil(self.recall_share * len(sequence)))
        pairs = pairs[torch.randperm(len(pairs), device=pairs.device)[:wanted]]
        if not len(pairs):
            return None
        rows, recalled, pooled = [], [], []
        for domain, project in enumerate(self.projections):
            mine = pairs[pairs[:, 1] == domain, 0]
            items = pseudo[mine, domain]
            history = project(text_rows(self.text, sequence[mine]).sum(1))  # padding has zero text
            texts = project(text_rows(self.text, items))
            vectors = self.recall_network(domain, texts, items > 0, history)
            own = batch[domain_sequence_fields(domain)[0]][mine]
            rows.append(mine)
            pooled.append(vectors)
            recalled.append(self.most_similar(domain, vectors.detach(), own))
        row = torch.cat(rows)
        inserted = insert_at_random(sequence[row], torch.cat(recalled), self.max_seq_length + 1)
        return RecalledRows(row, *inserted, torch.cat(pooled))

    def most_similar(self, domain: int, vectors: Tensor, own: Tensor) -> Tensor:
        """Recall the raw items of a domain whose pre-trained vectors are most similar.

        Int64 [n, k] for ``vectors`` [n, d], by falling cosine, without the items ``own`` [n, L];
        0 where there are no more.
        """
        pool = torch.nonzero(self.raw_item & (self.item_domain == domain)).squeeze(1)
        features = F.normalize(self.features(pool).detach(), dim=-1)
        cosine = F.normalize(vectors, dim=-1) @ features.T
        taken = torch.zeros(len(own), self.n_items, dtype=torch.bool, device=own.device)
        taken.scatter_(1, own, True)
        cosine = cosine.masked_fill(taken[:, pool], -torch.inf)
        top = cosine.topk(min(self.n_recalled, len(pool)), dim=1)
        items = pool[top.indices].masked_fill(top.values == -torch.inf, 0)
        return F.pad(items, (0, self.n_recalled - items.shape[1]))

    # -- stage 2: losses ------------------------------------------------------------------------

    def calculate_loss(self, interaction) -> Tensor:
        """Return the loss of the current stage over all positions of a batch."""
        if not self.finetuning:
            return self.pretraining_loss(interaction)
        batch = self.real_rows(interaction)
        with torch.no_grad():
            recalled = self.recall(batch)
        return self.recommendation_loss(batch, recalled)

    def recommendation_loss(self, batch, recalled: RecalledRows | None) -> Tensor:
        """Next-item loss over real rows and those with recalled items, all positions alike."""
        sequence = batch[SEQUENCE]
        joint, eligible = batch, sequence > 0
        if recalled is not None:
            below = self._recalled_batch(batch, recalled)
            joint = {**batch, **{name: stack_rows(batch[name], below[name]) for name in below}}
            eligible = stack_rows(eligible, recalled.source > 0)
        lookup = self.batch_lookup(joint)
        target_mask = self.encoder.choose_targets(joint[SEQUENCE]) & eligible
        states = self.encoder.before_targets(lookup, joint[SEQUENCE], target_mask)
        loss = self.next_item_loss(joint, lookup, states, target_mask[:, 1:])
        if self.all_sequences:
            target_mask = target_mask[: len(sequence), : sequence.shape[1]]
            states, has_history = self.shared_domain_states(batch, lookup, target_mask)
            targets = has_history & target_mask[:, 1:]
            loss = loss + self.next_item_loss(batch, lookup, states, targets)
        return loss

    def _recalled_batch(self, batch, recalled: RecalledRows) -> dict[str, Tensor]:
        """Return the fields that differ by row, of rows with recalled items."""
        out = {SEQUENCE: recalled.sequence}
        for name in self.fields_of_targets():
            of_items = F.pad(batch[name], (1, 0))[recalled.rows]
            out[name] = of_items.gather(1, recalled.source.clamp(min=0))[:, 1:]
        if self.loss_name == "softmax":
            for name in (f"{SEEN}_{domain}" for domain in range(self.n_domains)):
                out[name] = batch[name][recalled.rows]
        return out

    # -- stage 2: meta learning -----------------------------------------------------------------

    def loss_over(self, train_data) -> Callable[..., Tensor]:
        """Return a loss that, every ``meta_interval`` batches, also updates the recall network."""
        judges = torch.nonzero(self.has_both[train_data.users]).squeeze(1)
        if not self.finetuning or not self.pseudo.any() or not len(judges):
            return self.calculate_loss
        draw = np.random.SeedSequence([train_data.seed, *divmod(train_data.epoch, 1_000_000), 1])
        generator = torch.Generator(device=train_data.device)
        generator.manual_seed(int(draw.generate_state(1)[0]))
        batches = count(1)

        def loss(interaction):
            if next(batches) % self.meta_interval == 0:
                drawn = torch.randperm(len(judges), generator=generator, device=judges.device)
                rows = judges[drawn[: self.meta_batch_size]]
                self.meta_backward(interaction, train_data.collate(rows, generator))
            return self.calculate_loss(interaction)

        return loss

    def meta_backward(self, interaction, meta_interaction) -> Tensor | None:
        """Add the recall network's gradient of what a shadow recommender learns from its recall.

        The shadow takes a step on the first batch; the second, of users with real items of both
        domains, judges it. Returns the shadow's loss on the second batch, or None if nothing is
        recalled in the first.
        """
        was_training = self.training
        self.train(False)  # the same shadow at both ends of the difference: no dropout
        with torch.autocast(device_type=self.item_domain.device.type, enabled=False):
            batch = self.real_rows(interaction)
            recalled, loss = self.recall(batch), None
            if recalled is not None:
                loss = self._meta_backward(batch, recalled, self.real_rows(meta_interaction))
        self.train(was_training)
        return loss

    def _meta_backward(self, batch, recalled: RecalledRows, judges) -> Tensor:
        parameters = [*self.item_embedding.parameters(), *self.encoder.parameters()]
        start = [parameter.detach().clone() for parameter in parameters]
        targets = self.encoder.choose_targets(recalled.sequence) & (recalled.source > 0)

        def gradients(loss: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)

        def move(direction: tuple[Tensor, ...], by: float) -> None:
            with torch.no_grad():
                for parameter, origin, step in zip(parameters, start, direction, strict=True):
                    parameter.copy_(origin + by * step)

        move(gradients(self.recommendation_loss(batch, recalled)), -self.shadow_learning_rate)
        loss = self.recommendation_loss(judges, None)
        direction = gradients(loss)
        length = torch.stack([part.square().sum() for part in direction]).sum().sqrt().item()
        half = _RELATIVE_STEP / max(length, 1e-12)
        ends: list[Tensor] = []
        for by in (half, -half):
            move(direction, by)
            pooled = recalled.pooled.detach().requires_grad_()
            moved = self._recalled_loss(batch, recalled, targets, pooled)
            ends.extend(torch.autograd.grad(moved, pooled))
        move(direction, 0.0)
        recalled.pooled.backward((ends[0] - ends[1]) * (-self.shadow_learning_rate / (2 * half)))
        return loss.detach()

    def _recalled_loss(self, batch, recalled: RecalledRows, targets: Tensor, pooled) -> Tensor:
        """Share of the rows with recalled items in the loss, as a function of the pooled vectors.

        Its value is their part of :meth:`recommendation_loss`; what a recalled item's vector
        receives as gradient goes in even shares to the vector that it was recalled by.
        """
        below = {**batch, **self._recalled_batch(batch, recalled)}
        lookup = self.batch_lookup(below)
        inserted = (recalled.sequence > 0) & (recalled.source < 0)
        share = (pooled - pooled.detach()) / self.n_recalled  # zero, used for its gradient
        shares = inserted[..., None] * share[:, None]  # [n, M, d]

        def vectors(items: Tensor) -> Tensor:
            return lookup(items) + shares[:, : items.shape[1]]

        states = self.encoder.before_targets(vectors, recalled.sequence, targets)
        loss = self.next_item_loss(below, lookup, states, targets[:, 1:])
        n_recalled, n_real = targets.sum(), self.encoder.choose_targets(batch[SEQUENCE]).sum()
        return loss * n_recalled / (n_recalled + n_real)

    # -- inference ------------------------------------------------------------------------------

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] that items of each domain are scored with."""
        if self.finetuning:
            return super().user_vectors(interaction)
        lookups = [self.item_lookup] * self.n_domains
        return self.last_domain_states(interaction, self.domain_encoders, lookups)
