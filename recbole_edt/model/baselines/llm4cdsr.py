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
profile alignment (eq. 7)               :meth:`~ProfiledModel.profile_alignment`, on the global
                                        thread's last state
objective (eq. 8)                       :meth:`LLM4CDSR.calculate_loss`
======================================  ==========================================================

The hierarchical profiles (clusters summarised, then all summaries) are made by preprocessing.

Departures:

- Attention is causal. In the authors' code its mask is commented out: states see their targets.
- A negative is of its positive's domain.
- Each position counts the same; the authors average over each domain and add the two.
- Local embeddings are trained. The authors' code loads them frozen, by a default of its library.
- Contrastive terms compare cosines, with one positive per row, as LLM-EDT's eq. 13 does; the
  authors' code compares dot products with soft targets, which nothing bounds.
- The first target of a domain may be trained on too (``first_items``), by the global score alone,
  which is all that a user new to a domain has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_edt.data.dataloader import SEQUENCE, domain_sequence_fields
from recbole_edt.data.dataset import domain_fields
from recbole_edt.model.base import ProfiledModel
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.item_embedding import make_item_embedding, start_reduced_
from recbole_edt.model.lookup import Lookup
from recbole_edt.model.losses import alignment_loss
from recbole_edt.model.text import frozen_text


class LLM4CDSR(ProfiledModel):
    """A global thread on LLM embeddings, and per domain a local one on embeddings of its own."""

    choices = {
        **ProfiledModel.choices,
        "text_start": ("random", "principal", "whitened", "canonical"),
        "local_start": ("random", "principal"),
    }

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.regularisation_weight = config["regularisation_weight"]
        self.regularisation_temperature = config["regularisation_temperature"]
        self.first_items = config["first_items"]

        self.size = size = config["hidden_size"]
        self.item_embedding = make_item_embedding("text", dataset, size, config["text_start"])
        self.encoder = SequenceEncoder(config, self.max_seq_length)
        self.local_embedding = nn.Embedding(self.n_items, size)
        self._start_local(dataset, config["local_start"])
        self.local_encoders = nn.ModuleList(
            SequenceEncoder(config, self.max_seq_length) for _ in range(self.n_domains)
        )
        self._add_profiles(dataset, size)
        self.lacks_profiles = bool(self.align_weight) and self.profiles is None

    def _start_local(self, dataset, start: str) -> None:
        nn.init.normal_(self.local_embedding.weight, std=0.02)
        if start == "random":
            return
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
        """Loss over all positions of a batch of sequences (eq. 8).

        Parameters
        ----------
        interaction : Interaction
            A batch of :class:`~recbole_edt.data.dataloader.SequenceLoader`.

        Returns
        -------
        Tensor
            Scalar: eq. 4 plus alpha times eq. 6 plus beta times eq. 7.
        """
        self._say_what_is_missing()
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
            loss = loss + self.align_weight * self.profile_alignment(batch, states)
        return loss

    def _say_what_is_missing(self) -> None:
        if self.lacks_profiles:
            self.logger.info("no profile embeddings: users are not aligned with profiles")
            self.lacks_profiles = False

    def local_states(self, batch, lookup, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """States of the local threads (eq. 2), each in its target's place in the mixed sequence.

        Parameters
        ----------
        batch : Interaction
            Of :class:`~recbole_edt.data.dataloader.SequenceLoader`.
        lookup : callable
            Item ids -> local vectors.
        chosen : Tensor
            bool [B, L + 1]; the targets, which a bidirectional thread must not see.

        Returns
        -------
        states : Tensor
            [B, L, d]; zero where the target is the first of its domain.
        has : Tensor
            bool [B, L]; where there is domain history.
        """

        def encode(domain, sequence, masked):
            encoder = self.local_encoders[domain]
            assert isinstance(encoder, SequenceEncoder)
            return encoder.before_targets(lookup, sequence, masked)

        return self.states_in_own_domain(batch, encode, None if self.encoder.causal else chosen)

    def item_regularisation(self, batch, lookup) -> Tensor:
        """Contrast of items of both domains that the same user has (eq. 6).

        Of each user with items of both domains one item per domain is drawn; such a pair is
        positive, items of different users' pairs are negative.

        Parameters
        ----------
        batch : Interaction
            Of :class:`~recbole_edt.data.dataloader.SequenceLoader`.
        lookup : callable
            Item ids -> adapted LLM embeddings.

        Returns
        -------
        Tensor
            Scalar; zero for fewer than two such users.
        """
        sequences = [batch[domain_sequence_fields(d)[0]] for d in range(self.n_domains)]
        lengths = [(sequence > 0).sum(1) for sequence in sequences]
        both = torch.nonzero((lengths[0] > 0) & (lengths[1] > 0)).squeeze(1)
        drawn = []
        for sequence, length in zip(sequences, lengths, strict=True):
            place = torch.rand(len(both), device=both.device) * length[both]
            drawn.append(lookup(sequence[both, place.long()]))
        first, second = drawn
        return alignment_loss(first, second, self.regularisation_temperature, self.infonce)

    # -- inference ------------------------------------------------------------------------------

    def _look_up_part(self, start: int):
        """Lookup of one view of all items' vectors, from column ``start`` on."""
        return Lookup(self.item_vectors()).columns(start, start + self.size)

    def user_vectors(self, interaction) -> list[Tensor]:
        """Global and local user vector side by side per domain (eq. 3), [B, 2 d].

        The local part is zero for a user without history in the domain.
        """
        sequence, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        unified, local = self._look_up_part(0), self._look_up_part(self.size)
        whole = self.encoder.last(unified, sequence, lengths)
        out = []
        for domain, encoder in enumerate(self.local_encoders):
            assert isinstance(encoder, SequenceEncoder)
            list_field, length_field = domain_fields(domain)
            own_lengths = interaction[length_field]
            own = encoder.last(local, interaction[list_field], own_lengths)
            out.append(torch.cat([whole, own * (own_lengths > 0)[:, None]], -1))
        return out
