"""LLM4CDSR (Liu et al., SIGIR '25): three threads, bridged by LLM embeddings of items and users.

"Bridge the Domains: Large Language Models Enhanced Cross-domain Sequential Recommendation".

======================================  ==========================================================
Part of the paper                       Here
======================================  ==========================================================
unified LLM item representation, its    ``item_embedding``: frozen text embeddings of both domains,
trainable adapter (section 3.2)         two linear layers
three threads (eq. 2)                   ``encoder`` on the mixed sequence, ``local_encoders`` on the
                                        domains' sub-sequences, each with weights and positions of
                                        its own
local item embeddings                   ``local_embedding``: an item is of one domain, so that the
                                        rows of one table are two tables
score (eq. 3)                           item and user vectors are concatenations of both views:
                                        their product is the sum of the two scores
recommendation loss (eq. 4)             :meth:`~CrossDomainModel.next_item_loss`
contrastive regularisation (eq. 6)      :meth:`LLM4CDSR.item_regularisation`
profile alignment (eq. 7)               :meth:`LLM4CDSR.contrast` of the global thread's last
                                        states and profiles
objective (eq. 8)                       :meth:`LLM4CDSR.calculate_loss`
======================================  ==========================================================

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
from torch import Tensor, nn

from recbole_edt.data.dataloader import SEQUENCE, domain_sequence_fields
from recbole_edt.model.base import ProfiledModel
from recbole_edt.model.baselines.settings import RivalSettings
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.item_embedding import make_item_embedding, start_reduced_
from recbole_edt.model.lookup import Lookup
from recbole_edt.model.losses import alignment_loss
from recbole_edt.model.text import frozen_text
from recbole_edt.settings import Count, NonNegative, Positive, Probability


class LLM4CDSRSettings(RivalSettings):
    """Keys of LLM4CDSR."""

    inner_size: Count = Field(256, description="hidden units of feed-forward layers")
    backbone: str = Field("sasrec", description="of every thread (table 10); paper: sasrec")
    dropout: Probability = Field(0.3, description="dropout in the threads; paper: 0.5")
    text_start: Literal["principal", "canonical"] = Field(
        "canonical",
        description="text standardised, its adapter starts as its PCA (principal, paper), or in "
        "the coordinates of its canonical axes",
    )
    first_items: bool = Field(
        True, description="whether the first item of a domain is a target; paper: False"
    )
    regularisation_weight: NonNegative = Field(0.1, description="alpha of eq. 8")
    align_weight: NonNegative = Field(0.1, description="beta of eq. 8")
    align_temperature: Positive = Field(1.0, description="gamma of eq. 6 and tau of eq. 7")


class LLM4CDSR(ProfiledModel):
    """A global thread on LLM embeddings, and per domain a local one on embeddings of its own."""

    settings = LLM4CDSRSettings

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.regularisation_weight = config["regularisation_weight"]
        self.first_items = config["first_items"]
        self.size = size = config["hidden_size"]
        self.item_embedding = make_item_embedding("text", dataset, size, config["text_start"])
        self.encoder = SequenceEncoder(config, self.max_seq_length)
        self.local_embedding = nn.Embedding(self.n_items, size)
        self._start_local(dataset)
        self.local_encoders = nn.ModuleList(
            SequenceEncoder(config, self.max_seq_length) for _ in range(self.n_domains)
        )
        self._add_profiles(dataset, size)
        if self.align_weight and self.profiles is None:
            self.logger.info("no profile embeddings: users are not aligned with profiles")

    def _start_local(self, dataset) -> None:
        """Let local embeddings start as a PCA of their domain's LLM embeddings."""
        nn.init.normal_(self.local_embedding.weight, std=0.02)
        text = frozen_text(dataset.item_table())
        generated = torch.from_numpy(dataset.item_generated)
        for domain in range(self.n_domains):
            mine = self.item_domain == domain
            start_reduced_(self.local_embedding.weight, text, mine, mine & ~generated)

    def embed(self, items: Tensor) -> Tensor:
        """Global and local vectors of items side by side, [...] -> [..., 2 d]."""
        return torch.cat([self.item_embedding(items), self.local_embedding(items)], -1)

    # -- losses ---------------------------------------------------------------------------------

    def calculate_loss(self, interaction) -> Tensor:
        """Loss over all positions of a batch (eq. 8): eq. 4 + alpha eq. 6 + beta eq. 7."""
        batch, sequence = interaction, interaction[SEQUENCE]
        lookup = self.batch_lookup(batch)
        unified = lookup.columns(0, self.size)
        chosen = self.encoder.choose_targets(sequence)
        states = self.encoder.before_targets(unified, sequence, chosen)
        local, has = self.local_states(batch, lookup.columns(self.size, 2 * self.size), chosen)
        targets = chosen[:, 1:] if self.first_items else chosen[:, 1:] & has
        loss = self.next_item_loss(batch, lookup, torch.cat([states, local], -1), targets)
        if self.regularisation_weight:
            loss = loss + self.regularisation_weight * self.item_regularisation(batch, unified)
        if self.profiles is not None:
            pairs = self.users_and_profiles(batch, states)
            loss = loss + self.align_weight * self.contrast(*pairs)
        return loss

    def local_states(self, batch, lookup, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """States of the local threads before each target (eq. 2), and where there are some."""

        def encode(domain, sequence, masked):
            return self.local_encoders[domain].before_targets(lookup, sequence, masked)

        return self.states_in_own_domain(batch, encode, None if self.encoder.causal else chosen)

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
        first, second = drawn
        return self.contrast(first, second)

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        """Contrast of vectors [n, d] of the same users, both ways (eqs. 6 and 7)."""
        return alignment_loss(first, second, self.align_temperature, infonce=True)

    # -- inference ------------------------------------------------------------------------------

    def user_vectors(self, interaction) -> list[Tensor]:
        """Global and local user vector side by side per domain (eq. 3), [B, 2 d].

        The local part is zero for a user without history in the domain.
        """
        sequence, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        vectors = Lookup(self.item_vectors())
        unified, local = (vectors.columns(s, s + self.size) for s in (0, self.size))
        whole = self.encoder.last(unified, sequence, lengths)
        own = self.last_in_own_domain(interaction, self.local_encoders, [local] * self.n_domains)
        return [torch.cat([whole, state], -1) for state in own]
