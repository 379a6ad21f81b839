"""RecBole's Pop with every training row counted."""

from __future__ import annotations

import torch
from recbole.model.general_recommender.pop import Pop as RecBolePop
from torch import Tensor


class Pop(RecBolePop):
    """Popularity in the training rows; RecBole's own counts an item once for each batch it is in.

    Its property file switches off the negatives, which RecBole counts, too.
    """

    def calculate_loss(self, interaction) -> Tensor:
        """Count the items of a batch; the loss is zero."""
        counts = torch.bincount(interaction[self.ITEM_ID], minlength=self.n_items)
        self.item_cnt += counts[:, None]
        self.max_cnt = self.item_cnt.max(dim=0)[0]
        return torch.zeros(1, device=self.device, requires_grad=True)
