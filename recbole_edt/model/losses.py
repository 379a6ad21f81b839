"""Losses over positions: eq. 9 and 12 with one negative or many, and eq. 13."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_edt.model.kernels import inner_product, product, rounded_rows


def bpr_loss(states: Tensor, positives: Tensor, negatives: Tensor, *_: Any) -> Tensor:
    """Sum of ``-log sigmoid(states (positives - negatives))`` over rows [n, d] (eqs. 9, 12)."""
    return -F.logsigmoid((states * (positives - negatives)).sum(-1)).sum()


_HARD_ROWS = 512  # positions whose negatives are drawn at a time


@torch.no_grad()
def hard_negatives(
    states: Tensor, pool: Tensor, owned: Tensor, owners: Tensor, temperature: float
) -> Tensor:
    """Draw one negative per position from a shared pool by ``softmax(score / temperature)``.

    Most items score low, so uniform negatives say little about the top ranks that the metrics
    measure. The distribution follows the model, as in dynamic negative sampling.

    ``pool`` [m, d] holds the vectors of the shared negatives; ``owned``, bool [B, m], those that
    the user of a batch's row has, which are not drawn; ``owners``, int64 [n], the row of each of
    the ``states`` [n, d]. The smaller ``temperature``, the harder.

    Returns
    -------
    Tensor
        int64 [n]; rows of ``pool``. A user who owns the whole pool gets its last row.
    """
    drawn = torch.empty(len(states), dtype=torch.int64, device=states.device)
    others = pool.float() / temperature
    for start in range(0, len(states), _HARD_ROWS):
        block = slice(start, start + _HARD_ROWS)
        scores = product(states[block].float().contiguous(), others)
        scores.masked_fill_(owned[owners[block]], -torch.inf)
        weights = scores.sub_(scores.amax(1, keepdim=True)).exp_().nan_to_num_(0.0)
        edges = weights.cumsum_(1)
        share = torch.rand(len(edges), 1, device=edges.device) * edges[:, -1:]
        drawn[block] = torch.searchsorted(edges, share, right=True).squeeze(1)
    return drawn.clamp_(max=len(pool) - 1)


_ROWS = {"cpu": 512}  # positions whose logits exist at a time; 8192 on other devices


def _filled_up(state: Tensor) -> Tensor:
    """Append rows of zeros up to the size of a fast product."""
    if state.device.type != "cpu" or len(state) == rounded_rows(len(state)):
        return state
    return F.pad(state, (0, 0, 0, rounded_rows(len(state)) - len(state)))


class _SoftmaxLoss(torch.autograd.Function):
    """Loss and gradients of the sampled softmax, a block of positions at a time.

    The logits of a block stay in the processor's cache and are not saved for the backward pass.
    Products run in ``dtype``, the rest in float32.
    """

    @staticmethod
    def forward(ctx, states, positives, negatives, owned, owners, dtype):
        others = negatives.to(dtype)
        rows = _ROWS.get(states.device.type, 8192)
        grad_states = torch.empty_like(states)
        grad_others = None  # [d, m]; frozen items need no gradients: that saves the third product
        if ctx.needs_input_grad[2]:
            grad_others = torch.zeros_like(others.T, dtype=torch.float32).contiguous()
        scores = (states * positives).sum(-1, keepdim=True)  # [n, 1]
        highest, whole = torch.empty_like(scores), torch.empty_like(scores)
        for start in range(0, len(states), rows):
            block = slice(start, start + rows)
            state, score, most, sum_of_all = (
                of_all[block] for of_all in (states, scores, highest, whole)
            )
            lowered = _filled_up(state).to(dtype)
            logits = product(lowered, others).float()
            weights = logits[: len(state)]
            weights.masked_fill_(owned[owners[block]], -torch.inf)
            torch.maximum(weights.amax(1, keepdim=True), score, out=most)
            weights.sub_(most).exp_()  # over their sum: the negatives' probabilities
            torch.add(weights.sum(1, keepdim=True), (score - most).exp_(), out=sum_of_all)
            filled_up = logits.to(dtype)
            # divide d columns by the sum, not the m columns of the logits
            of_negatives = product(filled_up, others.T)[: len(state)].float()
            torch.div(of_negatives, sum_of_all, out=grad_states[block])
            if grad_others is not None:
                lowered = _filled_up(state / sum_of_all).to(dtype)
                grad_others += inner_product(lowered, filled_up)
        excess = (scores - highest).exp_().div_(whole).sub_(1.0)  # positive's probability, minus 1
        grad_states.addcmul_(excess, positives)
        grad_positives = excess * states if ctx.needs_input_grad[1] else None
        grad_negatives = None if grad_others is None else grad_others.T
        ctx.save_for_backward(grad_states, grad_positives, grad_negatives)
        return (whole.log_().add_(highest).sub_(scores)).sum()

    @staticmethod
    def backward(ctx, grad):
        grads = (None if saved is None else grad * saved for saved in ctx.saved_tensors)
        return *grads, None, None, None


def softmax_loss(
    states: Tensor, positives: Tensor, negatives: Tensor, owned: Tensor, owners: Tensor
) -> Tensor:
    """Sum of ``-log softmax`` of each positive among itself and the shared negatives.

    ``states`` and ``positives`` are [n, d], the others ``pool``, ``owned`` and ``owners`` of
    :func:`hard_negatives`; owned ones do not count.
    """
    device = states.device.type
    lowered = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if lowered else torch.float32
    with torch.autocast(device_type=device, enabled=False):
        return _SoftmaxLoss.apply(
            states.float(), positives.float(), negatives.float(), owned, owners, dtype
        )


def alignment_loss(users: Tensor, profiles: Tensor, temperature: float, infonce: bool) -> Tensor:
    """Contrastive alignment of user vectors and profiles, both directions summed (eq. 13).

    Row i of ``users`` and ``profiles`` [n, d] belongs to the same user; with fewer than two users
    the loss is zero. ``temperature`` is the paper's tau. ``infonce`` includes the positive in the
    denominator (the paper's does not).
    """
    if len(users) < 2:
        return users.sum() * 0.0
    cosine = F.normalize(users.float(), dim=-1) @ F.normalize(profiles.float(), dim=-1).T
    logits = cosine / temperature
    positives = logits.diagonal()
    if not infonce:
        itself = torch.eye(len(users), dtype=torch.bool, device=users.device)
        logits = logits.masked_fill(itself, -torch.inf)
    one_side = torch.logsumexp(logits, dim=1) - positives
    other_side = torch.logsumexp(logits, dim=0) - positives
    return one_side.mean() + other_side.mean()
