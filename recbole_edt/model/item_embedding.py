"""Item vectors from frozen text (eq. 7), from ids, or their sum, and what they start as."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recbole_edt.model.adapters import LinearAdapter, start_leading_, start_principal_
from recbole_edt.model.text import (
    ItemPairs,
    MappedText,
    changed_text,
    frozen_text,
    principal_components,
    start_components,
    text_rows,
)


class ItemEmbedding(nn.Module):
    """Vectors of items: from their frozen text embedding (eq. 7), from their id, or the sum.

    Parameters
    ----------
    kind : {"text", "id", "both"}
        ``text`` is the paper.
    n_items, hidden_size : int
        Size of the table and of its vectors.
    text : Tensor or MappedText, optional
        float32 [n_items, d_L]; frozen text embeddings, row 0 zero. Needed unless ``kind`` is id.
    spreads : mapping, optional
        ``principal``, ``whitened``, ``canonical`` -> scalar; the spread of text changed so. It is
        saved, so that the weights of one kind of text do not fit a model of another.
    """

    def __init__(
        self,
        kind: str,
        n_items: int,
        hidden_size: int,
        text: Tensor | MappedText | None,
        spreads: Mapping[str, Tensor | None] | None = None,
    ) -> None:
        super().__init__()
        spreads = spreads or {}
        self.text: Tensor | MappedText | None
        if isinstance(text, MappedText):
            self.text = text  # no buffer: it stays where its file is
        else:
            self.register_buffer("text", text, persistent=False)
        self.register_buffer("text_spread", spreads.get("principal"))
        self.register_buffer("white_spread", spreads.get("whitened"))
        self.register_buffer("canonical_spread", spreads.get("canonical"))
        self.adapter = None
        if text is not None:
            self.adapter = LinearAdapter(text.shape[1], text.shape[1] // 2, hidden_size)
        self.table = None
        if kind != "text":
            self.table = nn.Embedding(n_items, hidden_size)
            nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """Embed item ids of any shape [...] into [..., hidden_size]."""
        parts: list[Tensor] = []
        if self.adapter is not None and self.text is not None:
            parts.append(self.adapter(text_rows(self.text, items)))
        if self.table is not None:
            parts.append(self.table(items))
        first, *rest = parts
        return sum(rest, start=first)


def make_item_embedding(
    kind: str, text_start: str, id_start: str, dataset, hidden_size: int
) -> ItemEmbedding:
    """Embedding of a dataset's items, started as configured.

    What a start takes from the text is fitted to the items that preprocessing did not generate.

    Parameters
    ----------
    kind : {"text", "id", "both"}
        As in :class:`ItemEmbedding`.
    text_start : {"random", "principal", "whitened", "canonical"}
        ``principal``: text standardised, its adapter started as its PCA. ``whitened``,
        ``canonical``: text in those coordinates, its adapter started as the leading ones.
    id_start : {"random", "principal", "whitened", "canonical"}
        Beside the text (``both``), id vectors start as its PCA, or as the leading whitened or
        canonical coordinates; without it they know nothing of it.
    dataset : CrossDomainDataset
        Where the text embeddings come from.
    hidden_size : int
        Size of the vectors.
    """
    n_items = len(dataset.item_domain)
    if kind == "id":
        return ItemEmbedding(kind, n_items, hidden_size, None)
    text = frozen_text(dataset.item_table())
    raw = torch.from_numpy((dataset.item_domain >= 0) & ~dataset.item_generated)
    pairs = ItemPairs(dataset.train_sequences, dataset.item_domain)
    components = None
    if kind == "both" and id_start != "random":
        components = start_components(id_start, text, raw, hidden_size, pairs)
    text, spread = changed_text(text_start, text, raw, hidden_size, pairs)
    embedding = ItemEmbedding(kind, n_items, hidden_size, text, {text_start: spread})
    assert embedding.adapter is not None
    if text_start == "principal":
        start_principal_(embedding.adapter, text, raw)
    elif text_start != "random":
        start_leading_(embedding.adapter)
    if components is not None and embedding.table is not None:
        start_unit_(embedding.table.weight, components, raw)
    return embedding


@torch.no_grad()
def start_reduced_(table: Tensor, text: Tensor | MappedText, items: Tensor, fitted: Tensor) -> None:
    """Let the id vectors of some items start as their text, reduced by PCA.

    The reduced vectors are scaled to the root mean square that the id vectors had.

    Parameters
    ----------
    table : Tensor
        float32 [n_items, d]; rows ``items`` are overwritten, in as many of their entries as there
        are directions of the text.
    text : Tensor
        float32 [n_items, d_L].
    items, fitted : Tensor
        bool [n_items]; whose vectors start so, and whose text says what its directions are.
    """
    components = principal_components(text, fitted, table.shape[1])
    spread = components[fitted].square().mean().sqrt()
    if not spread > 0:  # no text, or all alike
        return
    scale = table[items].square().mean().sqrt() / spread
    columns = torch.arange(components.shape[1], device=table.device)
    table[torch.nonzero(items), columns] = components[items] * scale


@torch.no_grad()
def start_unit_(table: Tensor, components: Tensor, fitted: Tensor) -> None:
    """Let id vectors start as reduced text whose vectors have, in root mean square, length one.

    Parameters
    ----------
    table : Tensor
        float32 [n_items, d]; overwritten in as many columns as there are components.
    components : Tensor
        float32 [n_items, <= d]; row 0 (padding) is zero.
    fitted : Tensor
        bool [n_items]; rows that the length is taken from. If they are all zero, nothing is done.
    """
    length = components[fitted].square().sum(1).mean().sqrt()
    if length > 0:
        table[:, : components.shape[1]] = components / length
