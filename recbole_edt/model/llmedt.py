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
from recbole_edt.model.losses import alignment_loss, bpr_loss, hard_negatives, softmax_loss
from recbole_edt.model.packing import PackedStates
from recbole_edt.model.settings import LLMEDTSettings
from recbole_edt.model.stages import BothStages, Finetuning

NEGATIVE_TEMPERATURE = 0.4  # of the negatives of ``loss: bpr``: the smaller, the harder


class _Equations(ProfiledModel):
    """Parts of LLM-EDT and their equations; a stage puts them together."""

    settings = LLMEDTSettings
    properties = "LLMEDT"
    splits_batches = True
    hard_negatives = True

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

    def user_states(self, lookup, sequence: Tensor, chosen: Tensor) -> Tensor | PackedStates:
        """User vectors ``u = f(v_1, ..., v_t)`` before each target of a sequence (eq. 8).

        ``sequence`` is int64 [B, L + 1]; columns ``1:`` are the targets. ``chosen``, bool
        [B, L + 1], are those that a bidirectional backbone must not see.
        """
        return self.encoder.packed_before_targets(lookup, sequence, chosen)

    def next_item_loss(self, batch, lookup, states: States, chosen: Tensor) -> Tensor:
        """Loss of the next items, averaged over the chosen positions (eq. 9).

        ``loss: bpr`` is printed: ``-log sigmoid(P(v+) - P(v-))`` with one negative, drawn from the
        positive's domain in proportion to ``exp(P(v-) / NEGATIVE_TEMPERATURE)``. ``softmax`` is
        ``-log softmax(P)`` over the positive and the negatives that a batch shares.

        Arguments are those of :meth:`~recbole_edt.model.base.CrossDomainModel.targets`.
        """
        terms = []
        for u, positives, pool, owned, rows in self.targets(batch, lookup, states, chosen):
            if self.loss_name == "softmax":
                terms.append(softmax_loss(u, positives, pool, owned, rows))
            else:
                drawn = hard_negatives(u, pool, owned, rows, NEGATIVE_TEMPERATURE)
                terms.append(bpr_loss(u, positives, look_up(pool, drawn)))
        return self.mean_over(chosen, terms)

    def own_states(self, batch, lookup, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """States h before each target of its own domain's sub-sequence [B, L, d], and where."""
        twice = [self.encoder] * self.n_domains, [lookup] * self.n_domains
        return self.own_domain_states(batch, *twice, chosen)

    def adapt(self, domain: int, states: Tensor) -> Tensor:
        """Adapted domain states ``u^A = A(h)`` (eq. 10), [n, d] -> [n, d]."""
        return self.domain_adapters[domain](states)

    def score_vectors(self, domain: int, u: Tensor, own: Tensor) -> Tensor:
        """Vectors [n, d] that candidates v of a domain are scored with: ``P(v) = (u^A + u) v``.

        Eq. 11; both terms are of the same candidate, so the vectors are summed first. ``u`` and
        ``own`` [n, d] are states of the mixed sequence and of the domain's sub-sequence.
        """
        return u + self.adapt(domain, own)

    domain_loss = next_item_loss  # eq. 12: eq. 9 with the scores of eq. 11

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
        chosen = self.encoder.choose_targets(sequence)
        states = self.user_states(lookup, sequence, chosen)
        loss = self.next_item_loss(batch, lookup, states, chosen[:, 1:])
        if self.all_sequences:  # beyond the paper: eq. 9 of the domain sub-sequences, too
            own, has = self.own_states(batch, lookup, chosen)
            loss = loss + self.next_item_loss(batch, lookup, own, has & chosen[:, 1:])
        if self.profiles is not None:
            padded = states.padded() if isinstance(states, PackedStates) else states
            loss = loss + self.align_weight * self.profile_loss(batch, padded)
        return loss


class LLMEDTFinetune(Finetuning, LLMEDTPretrain):
    """Stage 2: items and backbone frozen, one adapter per domain."""

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        size = config["hidden_size"]
        self.domain_adapters = nn.ModuleList(
            LinearAdapter(size, size // 2, size)
            if config["adapter"] == "paper"
            else ResidualAdapter(size, size // 2)
            for _ in range(self.n_domains)
        )

    def calculate_loss(self, interaction) -> Tensor:
        """Loss of stage 2: eq. 12 of both domains over all their positions (eq. 15)."""
        chosen = self.encoder.choose_targets(interaction[SEQUENCE])
        known = self.frozen_states(interaction, chosen)

        def states(*places: Tensor) -> list[Tensor]:
            by_domain = enumerate(map(known.at, places))
            return [self.score_vectors(domain, u, own) for domain, (u, own) in by_domain]

        return self.domain_loss(interaction, known.lookup, states, known.has & chosen[:, 1:])

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] of each domain (eq. 11): u alone without items of the domain."""
        twice = [self.encoder] * self.n_domains, [self.look_up] * self.n_domains
        own = self.last_in_own_domain(interaction, *twice)
        out = []
        for domain, u in enumerate(super().user_vectors(interaction)):
            has = interaction[domain_fields(domain)[1]] > 0
            out.append(torch.where(has[:, None], self.score_vectors(domain, u, own[domain]), u))
        return out


class LLMEDT(BothStages, LLMEDTFinetune):
    """Both stages in one model."""

    stage_classes = (LLMEDTPretrain, LLMEDTFinetune)
