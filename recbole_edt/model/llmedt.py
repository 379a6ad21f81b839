"""LLM-EDT (KDD '26), equations 7 to 15 in the paper's order.

Beside them: ``stages.py`` (freezing, checkpoints of stage 1, both stages in one model),
``frozen.py`` (states of stage 2 that are computed once), ``encoder.py`` and ``backbones.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_edt import distributed
from recbole_edt.data.dataloader import SEQUENCE
from recbole_edt.data.dataset import domain_fields
from recbole_edt.model.adapters import LinearAdapter, ResidualAdapter
from recbole_edt.model.base import ProfiledModel, States
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.item_embedding import make_item_embedding
from recbole_edt.model.kernels import look_up
from recbole_edt.model.losses import alignment_loss, bpr_loss, sample_hard_negatives, softmax_loss
from recbole_edt.model.packing import PackedStates
from recbole_edt.model.settings import LLMEDTSettings
from recbole_edt.model.stages import Finetuning
from recbole_edt.settings import declared

NEGATIVE_TEMPERATURE = 0.4  # of the negatives of ``loss: bpr``: the smaller, the harder


class _Equations(ProfiledModel):
    """Parts of LLM-EDT and their equations; a stage puts them together."""

    settings = LLMEDTSettings
    properties = "LLMEDT"
    splits_batches = True
    negatives_in_loss = True

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.infonce = config["align_loss"] == "infonce"
        self.all_sequences = config["pretrain_sequences"] == "all"
        size = config["hidden_size"]
        self.item_embedding = make_item_embedding(
            config["item_embedding"], dataset, size, lazy=True
        )
        self.encoder = SequenceEncoder(config, self.max_seq_length)
        self._add_profiles(dataset, size)

    def embed(self, items: Tensor) -> Tensor:
        """Item vectors ``v = W1 (W2 e + b2) + b1`` of frozen text (eq. 7), [...] -> [..., d]."""
        return self.item_embedding(items)

    def user_states(self, lookup, sequence: Tensor, target_mask: Tensor) -> Tensor | PackedStates:
        """User states ``u = f(v_1, ..., v_t)`` before each target of a sequence (eq. 8).

        ``sequence`` is int64 [B, L + 1]; state t predicts column t + 1. ``target_mask``, bool
        [B, L + 1], are the targets, which a bidirectional backbone must not see.
        """
        return self.encoder.packed_before_targets(lookup, sequence, target_mask)

    def next_item_loss(self, batch, lookup, states: States, target_mask: Tensor) -> Tensor:
        """Loss of the next items, averaged over the targets: eq. 9 in stage 1, eq. 12 in stage 2.

        ``P(v)`` is the product of state and item vector. ``loss: bpr`` is printed:
        ``-log sigmoid(P(v+) - P(v-))`` with one negative, drawn from the positive's domain in
        proportion to ``exp(P(v-) / NEGATIVE_TEMPERATURE)``. ``softmax`` is ``-log softmax(P)``
        over the positive and the negatives that a batch shares.

        Arguments are those of :meth:`~recbole_edt.model.base.CrossDomainModel.targets`.
        """
        terms = []
        targets = self.targets(batch, lookup, states, target_mask)
        for u, positives, pool, seen_mask, batch_index, weights in targets:
            if self.loss_name == "softmax":
                terms.append(softmax_loss(u, positives, pool, seen_mask, batch_index, weights))
            else:
                drawn = sample_hard_negatives(u, pool, seen_mask, batch_index, NEGATIVE_TEMPERATURE)
                terms.append(bpr_loss(u, positives, look_up(pool, drawn), weights=weights))
        return self.mean_over(target_mask, terms)

    def adapt(self, domain: int, h: Tensor) -> Tensor:
        """Adapted states ``u^A = A(h)`` of the domain's sub-sequence (eq. 10), [n, d] -> [n, d]."""
        return self.domain_adapters[domain](h)

    def user_representations(self, domain: int, u: Tensor, h: Tensor) -> Tensor:
        """User representations of eq. 11 [n, d]: ``P(v) = u^A v + u v = (u^A + u) v``.

        ``u`` and ``h`` [n, d] are states of the mixed sequence and of the domain's sub-sequence.
        The products with item vectors are taken by the losses (:mod:`recbole_edt.model.losses`),
        and in evaluation by :mod:`recbole_edt.evaluation.ranking`.
        """
        return u + self.adapt(domain, h)

    def profile_loss(self, batch, states: Tensor) -> Tensor:
        """Contrastive alignment of last states and profiles of users (eq. 13)."""
        users, profiles = self.users_and_profiles(batch, states)
        loss = alignment_loss(users, profiles, self.align_temperature, self.infonce)
        return distributed.count_once(loss)


class LLMEDTPretrain(_Equations):
    """Stage 1: one backbone over the mixed sequences of both domains.

    Users are scored by u of eq. 8, after their last item.
    """

    def calculate_loss(self, interaction) -> Tensor:
        """Loss of stage 1 over all positions: eq. 9 plus alpha times eq. 13 (eq. 14)."""
        batch, sequence = interaction, interaction[SEQUENCE]
        lookup = self.batch_lookup(batch, by_domain=self.all_sequences)
        target_mask = self.encoder.choose_targets(sequence)
        states = self.user_states(lookup, sequence, target_mask)
        loss = self.next_item_loss(batch, lookup, states, target_mask[:, 1:])
        if self.all_sequences:  # beyond the paper: eq. 9 of the domain sub-sequences, too
            h, has_history = self.shared_domain_states(batch, lookup, target_mask)
            loss = loss + self.next_item_loss(batch, lookup, h, has_history & target_mask[:, 1:])
        if self.profiles is not None:
            padded = states.padded() if isinstance(states, PackedStates) else states
            loss = loss + self.align_weight * self.profile_loss(batch, padded)
        return loss


class LLMEDTFinetune(Finetuning, LLMEDTPretrain):
    """Stage 2: items and backbone frozen, one adapter per domain."""

    idle: tuple[str, ...] = (  # keys of stage 1 alone
        "learning_rate", "dropout", "item_dropout", "label_smoothing", "pretrain_sequences",
        "align_weight", "align_temperature", "align_loss",
    )  # fmt: skip

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        size = config["hidden_size"]
        inner = declared(config, "adapter_size", size // 2)
        self.domain_adapters = nn.ModuleList(
            LinearAdapter(size, inner, size)
            if config["adapter"] == "paper"
            else ResidualAdapter(size, inner)
            for _ in range(self.n_domains)
        )

    def calculate_loss(self, interaction) -> Tensor:
        """Loss of stage 2: eq. 12 of both domains over all their positions (eq. 15)."""
        if not self.finetuning:
            return super().calculate_loss(interaction)
        target_mask = self.encoder.choose_targets(interaction[SEQUENCE])
        frozen = self.frozen_states(interaction, target_mask)

        def representations(*places: Tensor) -> list[Tensor]:
            by_domain = enumerate(map(frozen.at, places))
            return [self.user_representations(domain, u, h) for domain, (u, h) in by_domain]

        targets = frozen.has_history & target_mask[:, 1:]
        return self.next_item_loss(interaction, frozen.lookup, representations, targets)

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] of each domain (eq. 11): u alone without items of the domain."""
        if not self.finetuning:
            return super().user_vectors(interaction)
        encoders, lookups = [self.encoder] * self.n_domains, [self.item_lookup] * self.n_domains
        h = self.last_domain_states(interaction, encoders, lookups)
        out = []
        for domain, u in enumerate(super().user_vectors(interaction)):
            has_history = interaction[domain_fields(domain)[1]][:, None] > 0
            out.append(torch.where(has_history, self.user_representations(domain, u, h[domain]), u))
        return out


class LLMEDT(LLMEDTFinetune):
    """Both stages in one model: the first until :meth:`begin_finetuning`, then the second."""

    trainer = "recbole_edt.trainer.stages:TwoStageTrainer"
    finetuning = False
    idle = ()
