"""LLM4CDSR (Liu et al., SIGIR '25): three threads, bridged by LLM embeddings of items and users.

"Bridge the Domains: Large Language Models Enhanced Cross-domain Sequential Recommendation".

Parts of the paper:

- unified LLM item representation and its adapter (section 3.2): ``item_embedding``;
- three threads (eq. 2): ``encoder`` on the mixed sequence, ``local_encoders`` on sub-sequences;
- local item embeddings: ``local_embedding``, one table, since an item is of one domain;
- score (eq. 3): item and user vectors are both views side by side, which sums the two scores;
- recommendation loss (eq. 4): :meth:`~CrossDomainModel.next_item_loss`;
- contrastive regularisation (eq. 6): :meth:`LLM4CDSR.item_regularisation`;
- profile alignment (eq. 7), objective (eq. 8): :meth:`LLM4CDSR.calculate_loss`.

The hierarchical profiles (clusters summarised, then all summaries) are made by preprocessing.

Departures:

- Attention is causal. In the authors' code its mask is commented out: states see their targets.
- A negative is of its positive's domain.
- Each position counts the same; the authors average over each domain and add the two.
- Local embeddings are trained. The authors' code loads them frozen, by a default of its library.
- Contrastive terms compare cosines, with one positive per row, as LLM-EDT's eq. 13 does; the
  authors' code compares unbounded dot products with soft targets. The positive is in the
  denominator, as in their code. Both terms have one temperature, ``align_temperature``.
- The first target of a domain may be trained on too (``first_items``), by the global score alone,
  which is the only score of a user new to a domain.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recbole_edt.data.dataloader import SEQUENCE, domain_sequence_fields
from recbole_edt.model.base import ProfiledModel
from recbole_edt.model.baselines.settings import BaselineSettings
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.item_embedding import id_table, make_item_embedding, start_reduced_
from recbole_edt.model.lookup import Lookup
from recbole_edt.model.losses import alignment_loss
from recbole_edt.model.text import frozen_text
from recbole_edt.settings import NonNegative, Positive, Probability


class LLM4CDSRSettings(BaselineSettings):
    """Keys of LLM4CDSR."""

    backbone: str = Field("sasrec", description="of every thread (table 10); paper: sasrec")
    dropout: Probability = Field(0.3, description="dropout in the threads; paper: 0.5")
    text_start: Literal["principal", "canonical"] = Field(
        "canonical",
        description="canonical coordinates of the text, or its PCA (principal); paper: principal",
    )
    first_items: bool = Field(True, description="a domain's first item is a target; paper: False")
    regularisation_weight: NonNegative = Field(0.1, description="alpha of eq. 8")
    align_weight: NonNegative = Field(0.1, description="beta of eq. 8")
    align_temperature: Positive = Field(1.0, description="gamma of eq. 6 and tau of eq. 7")


class LLM4CDSR(ProfiledModel):
    """A global thread on LLM embeddings, and per domain a local one on separate id embeddings."""

    settings = LLM4CDSRSettings

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.regularisation_weight = config["regularisation_weight"]
        self.first_items = config["first_items"]
        self.size = size = config["hidden_size"]
        self.item_embedding = make_item_embedding("text", dataset, size, config["text_start"])
        self.encoder = SequenceEncoder(config, self.max_seq_length)
        self.local_embedding = id_table(self.n_items, size)
        text = frozen_text(dataset.item_table())
        for domain in range(self.n_domains):  # starts as a PCA of the domain's LLM embeddings
            mine = self.item_domain == domain
            raw = mine & ~torch.from_numpy(dataset.item_generated)
            start_reduced_(self.local_embedding.weight, text, mine, raw)
        self.local_encoders = self.encoder_per_domain(config)
        self._add_profiles(dataset, size)
        if self.align_weight and self.profiles is None:
            self.logger.info("no profile embeddings: users are not aligned with profiles")

    def embed(self, items: Tensor) -> Tensor:
        """Global and local vectors of items side by side, [...] -> [..., 2 d]."""
        return torch.cat([self.item_embedding(items), self.local_embedding(items)], -1)

    # -- losses ---------------------------------------------------------------------------------

    def calculate_loss(self, interaction) -> Tensor:
        """Loss over all positions of a batch (eq. 8): eq. 4 + alpha eq. 6 + beta eq. 7."""
        batch, sequence = interaction, interaction[SEQUENCE]
        lookup = self.batch_lookup(batch)
        unified = lookup.columns(0, self.size)
        target_mask = self.encoder.choose_targets(sequence)
        states = self.encoder.before_targets(unified, sequence, target_mask)
        lookups = [lookup.columns(self.size, 2 * self.size)] * self.n_domains
        local, has_history = self.domain_states(batch, self.local_encoders, lookups, target_mask)
        targets = target_mask[:, 1:] if self.first_items else target_mask[:, 1:] & has_history
        loss = self.next_item_loss(batch, lookup, torch.cat([states, local], -1), targets)
        if self.regularisation_weight:
            loss = loss + self.regularisation_weight * self.item_regularisation(batch, unified)
        if self.profiles is not None:
            pairs = self.users_and_profiles(batch, states)
            loss = loss + self.align_weight * self.contrast(*pairs)
        return loss

    def item_regularisation(self, batch, lookup) -> Tensor:
        """Contrast of items of both domains that the same user has (eq. 6).

        Of each user with items of both domains one item per domain is drawn; such a pair is
        positive, items of different users' pairs are negative. ``lookup`` gives adapted LLM
        embeddings. Zero for fewer than two such users.
        """
        sequences = [batch[domain_sequence_fields(d)[0]] for d in range(self.n_domains)]
        lengths = [(sequence > 0).sum(1) for sequence in sequences]
        both = torch.nonzero((lengths[0] > 0) & (lengths[1] > 0)).squeeze(1)
        drawn = []
        for sequence, length in zip(sequences, lengths, strict=True):
            place = torch.rand(len(both), device=both.device) * length[both]
            drawn.append(lookup(sequence[both, place.long()]))
        return self.contrast(*drawn)

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        """Contrast of vectors [n, d] of the same users, both ways (eqs. 6 and 7)."""
        return alignment_loss(first, second, self.align_temperature, infonce=True)

    # -- inference ------------------------------------------------------------------------------

    def user_vectors(self, interaction) -> list[Tensor]:
        """Global and local user vector side by side per domain (eq. 3), [B, 2 d].

        The local part is zero for a user without history in the domain.
        """
        vectors = Lookup(self.item_vectors())
        unified, local = (vectors.columns(s, s + self.size) for s in (0, self.size))
        whole = self.mixed_state(interaction, unified)
        own = self.last_domain_states(interaction, self.local_encoders, [local] * self.n_domains)
        return [torch.cat([whole, state], -1) for state in own]
