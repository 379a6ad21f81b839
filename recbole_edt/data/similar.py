"""Items of similar text."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_edt.data.embeddings import EmbeddingTable

_BLOCK = 512  # items that are compared with their domain at a time


def similar_items(
    table: EmbeddingTable, item_domain: np.ndarray, n: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Find the ``n`` items of its domain whose text is nearest to that of each item.

    Texts are compared by the cosine of their embeddings, from which the mean is subtracted.

    Parameters
    ----------
    table : EmbeddingTable
        Text embeddings of all items.
    item_domain : np.ndarray
        int64 [n_items]; domain of each item, -1 for the padding item.
    n : int
        How many items to find.
    device : torch.device or str
        Where they are compared.

    Returns
    -------
    Tensor
        int64 [n_items, n], nearest first. The padding item, and an item whose domain has too few
        others, stands in for those that are missing.
    """
    text = torch.from_numpy(table.whole()).to(device)
    text = F.normalize(text - text[torch.from_numpy(item_domain >= 0)].mean(0), dim=1)
    out = torch.arange(len(text), device=device)[:, None].repeat(1, n)
    for domain in range(item_domain.max(initial=-1) + 1):
        own = torch.from_numpy(np.flatnonzero(item_domain == domain)).to(device)
        found = min(n, len(own) - 1)
        of_domain = text[own].T
        for places in torch.arange(len(own), device=device).split(_BLOCK):
            alike = text[own[places]] @ of_domain
            alike[torch.arange(len(places), device=device), places] = -torch.inf
            out[own[places], :found] = own[alike.topk(found).indices]
    return out
