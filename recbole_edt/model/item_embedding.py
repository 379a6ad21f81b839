"""Item vectors from frozen text (eq. 7), from ids, or their sum, and what they start as."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from recbole_edt.data.embeddings import EmbeddingTable
from recbole_edt.model.adapters import LinearAdapter, start_leading_, start_principal_
from recbole_edt.model.text import (
    ItemPairs,
    MappedText,
    add_text,
    changed_text,
    frozen_text,
    principal_components,
    start_components,
    text_change,
    text_rows,
)

_LARGE_TABLE = 2**27  # bytes above which gradients of lazy tables are sparse


def id_table(n: int, size: int) -> nn.Embedding:
    """Trained vectors [n, size], drawn with a standard deviation of 0.02."""
    table = nn.Embedding(n, size)
    nn.init.normal_(table.weight, std=0.02)
    return table


class ItemEmbedding(nn.Module):
    """Vectors of items: from their frozen text embedding (eq. 7), from their id, or the sum.

    ``kind`` is ``text`` (paper), ``id`` or ``both``; ``text`` float32 [n_items, d_L], row 0 zero.
    With ``lazy``, the gradient of a large table is sparse. ``change`` turned the embeddings of
    ``source`` into ``text``; it is part of a checkpoint, and a loaded one is applied to them again.
    """

    def __init__(
        self,
        kind: str,
        n_items: int,
        hidden_size: int,
        text: Tensor | MappedText | None = None,
        lazy: bool = False,
        change: nn.Module | None = None,
        source: EmbeddingTable | None = None,
    ) -> None:
        super().__init__()
        self.text: Tensor | MappedText | None
        add_text(self, "text", text)
        self.change, self.source = change, source
        self.applied = _values(change)
        self.register_load_state_dict_post_hook(_renew_text)
        self.adapter = None
        if text is not None:
            self.adapter = LinearAdapter(text.shape[1], text.shape[1] // 2, hidden_size)
        self.table = None
        if kind != "text":
            self.table = id_table(n_items, hidden_size)
            self.table.sparse = lazy and self.table.weight.nbytes > _LARGE_TABLE

    def forward(self, items: Tensor) -> Tensor:
        """Embed item ids of any shape [...] into [..., hidden_size]."""
        if self.adapter is None or self.text is None:
            return self.table(items)  # type: ignore[misc]
        vectors = self.adapter(text_rows(self.text, items))
        return vectors if self.table is None else vectors + self.table(items)


def _values(change: nn.Module | None) -> dict[str, Tensor]:
    state = {} if change is None else change.state_dict()
    return {name: value.float().cpu().clone() for name, value in state.items()}


@torch.no_grad()
def _renew_text(embedding: ItemEmbedding, _: object) -> None:
    """Change the text of items as a loaded checkpoint does, where this differs."""
    change, source, applied = embedding.change, embedding.source, embedding.applied
    values = _values(change)
    if all(torch.equal(values[name], applied[name]) for name in values):
        return
    assert change is not None and source is not None
    text = changed_text(frozen_text(source), copy.deepcopy(change).float().cpu())
    if isinstance(text, Tensor) and isinstance(embedding.text, Tensor):
        text = text.to(embedding.text)  # its device and type
    add_text(embedding, "text", text)
    embedding.applied = values


def make_item_embedding(
    kind: str, dataset, hidden_size: int, start: str = "canonical", lazy: bool = False
) -> ItemEmbedding:
    """Embedding of a dataset's items, started from their text.

    A start is fitted to the items that preprocessing did not generate. ``start``, ``principal`` or
    ``canonical``, names coordinates of the text. ``text``: the text is mapped to them and the
    adapter selects the leading ones. ``both``: the ids start at them.
    """
    n_items = len(dataset.item_domain)
    if kind == "id":
        return ItemEmbedding(kind, n_items, hidden_size, lazy=lazy)
    table = dataset.item_table()
    text = frozen_text(table)
    raw = torch.from_numpy((dataset.item_domain >= 0) & ~dataset.item_generated)
    pairs = ItemPairs(dataset.train_sequences, dataset.item_domain)
    if kind == "both":
        components = start_components(start, text, raw, hidden_size, pairs)
        embedding = ItemEmbedding(kind, n_items, hidden_size, text, lazy)
        assert embedding.table is not None
        start_unit_(embedding.table.weight, components, raw)
        return embedding
    change = text_change(start, text, raw, hidden_size, pairs)
    text = changed_text(text, change)
    embedding = ItemEmbedding(kind, n_items, hidden_size, text, change=change, source=table)
    assert embedding.adapter is not None
    if start == "principal":
        start_principal_(embedding.adapter, text, raw)
    else:
        start_leading_(embedding.adapter)
    return embedding


@torch.no_grad()
def start_unit_(table: Tensor, components: Tensor, fitted: Tensor) -> None:
    """Start id vectors as components [n_items, <= d], scaled to a root mean square length of one.

    The length is that of ``fitted`` rows; if they are all zero, the table stays as it is.
    """
    length = components[fitted].square().sum(1).mean().sqrt()
    if length > 0:
        table[:, : components.shape[1]] = components / length


@torch.no_grad()
def start_reduced_(table: Tensor, text: Tensor | MappedText, items: Tensor, fitted: Tensor) -> None:
    """Start the id vectors of ``items`` as the PCA of their text, fitted to ``fitted`` (bool [n]).

    The components are scaled to the root mean square of the id vectors.
    """
    components = principal_components(text, fitted, table.shape[1])
    spread = components[fitted].square().mean().sqrt()
    if not spread > 0:  # no text, or all alike
        return
    scale = table[items].square().mean().sqrt() / spread
    columns = torch.arange(components.shape[1], device=table.device)
    table[torch.nonzero(items), columns] = components[items] * scale
