"""Losses over positions: eq. 9 and 12 with one negative or many, and eq. 13."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_edt.model.kernels import inner_product, product, rounded_rows


def bpr_loss(
    states: Tensor,
    positives: Tensor,
    negatives: Tensor,
    seen_mask: Any = None,
    batch_index: Any = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum of ``-log sigmoid(states (positives - negatives))`` over rows [n, d] (eqs. 9, 12).

    ``weights`` [n] are factors of the rows; without them all count alike. The two arguments before
    it are those of :func:`softmax_loss`, and are not used.
    """
    losses = -F.logsigmoid((states * (positives - negatives)).sum(-1))
    return (losses if weights is None else losses * weights).sum()


_HARD_ROWS = 512  # positions whose negatives are drawn at a time


@torch.no_grad()
def sample_hard_negatives(
    states: Tensor, pool: Tensor, seen_mask: Tensor, batch_index: Tensor, temperature: float
) -> Tensor:
    """Draw one negative per position from a shared pool by ``softmax(score / temperature)``.

    Most items score low, so uniform negatives say little about the top ranks that the metrics
    measure. The distribution follows the model, as in dynamic negative sampling.

    Parameters
    ----------
    states : Tensor
        [n, d]; user state of each position.
    pool : Tensor
        [m, d]; vectors of the shared negatives.
    seen_mask : Tensor
        bool [B, m]; negatives that the user of a row of the batch has, which are not drawn.
    batch_index : Tensor
        int64 [n]; row of each position in the batch.
    temperature : float
        The smaller, the harder.

    Returns
    -------
    Tensor
        int64 [n]; rows of ``pool``. A user who has the whole pool gets its last row.
    """
    drawn = torch.empty(len(states), dtype=torch.int64, device=states.device)
    scaled = pool.float() / temperature
    for start in range(0, len(states), _HARD_ROWS):
        block = slice(start, start + _HARD_ROWS)
        scores = product(states[block].float().contiguous(), scaled)
        scores.masked_fill_(seen_mask[batch_index[block]], -torch.inf)
        weights = scores.sub_(scores.amax(1, keepdim=True)).exp_().nan_to_num_(0.0)
        edges = weights.cumsum_(1)
        share = torch.rand(len(edges), 1, device=edges.device) * edges[:, -1:]
        drawn[block] = torch.searchsorted(edges, share, right=True).squeeze(1)
    return drawn.clamp_(max=len(pool) - 1)


_ROWS = {"cpu": 512}  # positions whose logits exist at a time; 8192 on other devices


def _pad_rows(state: Tensor) -> Tensor:
    """Append rows of zeros up to the size of a fast product."""
    if state.device.type != "cpu" or len(state) == rounded_rows(len(state)):
        return state
    return F.pad(state, (0, 0, 0, rounded_rows(len(state)) - len(state)))


class _SoftmaxLoss(torch.autograd.Function):
    """Value and gradients of :func:`softmax_loss`, a block of positions at a time.

    The logits of a block stay in the processor's cache and are not saved for the backward pass.
    Products run in ``dtype``, the rest in float32.
    """

    @staticmethod
    def forward(ctx, states, positives, negatives, seen_mask, batch_index, row_weights, dtype):
        negatives = negatives.to(dtype)
        rows = _ROWS.get(states.device.type, 8192)
        grad_states = torch.empty_like(states)
        grad_negatives = None  # [d, m]; frozen items need none: that saves the third product
        if ctx.needs_input_grad[2]:
            grad_negatives = torch.zeros_like(negatives.T, dtype=torch.float32).contiguous()
        scores = (states * positives).sum(-1, keepdim=True)  # s.p, [n, 1]
        row_max, denominator = torch.empty_like(scores), torch.empty_like(scores)
        for start in range(0, len(states), rows):
            block = slice(start, start + rows)
            state, score, block_max, block_sum = (
                of_all[block] for of_all in (states, scores, row_max, denominator)
            )
            # value: the denominator exp(s.p) + sum exp(s.n), over exp(row_max)
            padded = product(_pad_rows(state).to(dtype), negatives).float()
            logits = padded[: len(state)]
            logits.masked_fill_(seen_mask[batch_index[block]], -torch.inf)
            torch.maximum(logits.amax(1, keepdim=True), score, out=block_max)
            weights = logits.sub_(block_max).exp_()  # in place: padded holds them from here on
            torch.add(weights.sum(1, keepdim=True), (score - block_max).exp_(), out=block_sum)
            # gradients, by the probabilities weights / denominator: of a state, the mean of the
            # negatives; of a negative, the sum of the states
            cast = padded.to(dtype)
            # divide d columns by the denominator, not the m columns of the weights
            weighted_sum = product(cast, negatives.T)[: len(state)].float()
            torch.div(weighted_sum, block_sum, out=grad_states[block])
            if grad_negatives is not None:
                scaled = state / block_sum
                if row_weights is not None:
                    scaled *= row_weights[block]
                scaled = _pad_rows(scaled).to(dtype)
                grad_negatives += inner_product(scaled, cast)
        # gradient: of the positive's logit, its probability minus 1
        grad_logit = (scores - row_max).exp_().div_(denominator).sub_(1.0)
        grad_states.addcmul_(grad_logit, positives)
        losses = denominator.log_().add_(row_max).sub_(scores)  # -log(exp(s.p) / denominator)
        if row_weights is not None:
            for of_rows in (grad_states, grad_logit, losses):
                of_rows.mul_(row_weights)
        grad_positives = grad_logit * states if ctx.needs_input_grad[1] else None
        grad_negatives = None if grad_negatives is None else grad_negatives.T
        ctx.save_for_backward(grad_states, grad_positives, grad_negatives)
        return losses.sum()

    @staticmethod
    def backward(ctx, grad):
        grads = (None if saved is None else grad * saved for saved in ctx.saved_tensors)
        return *grads, None, None, None, None


def softmax_loss(
    states: Tensor,
    positives: Tensor,
    negatives: Tensor,
    seen_mask: Tensor,
    batch_index: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum over rows of ``-log(exp(s.p) / (exp(s.p) + sum_j exp(s.n_j)))``.

    s is a row of ``states`` [n, d], p of ``positives`` [n, d]; n_j are the rows of the shared
    ``negatives`` [m, d] that the user has not seen. ``seen_mask``, bool [B, m], and
    ``batch_index``, int64 [n], are as in :func:`sample_hard_negatives`. ``weights`` [n] are factors
    of the rows; without them all count alike.
    """
    device = states.device.type
    lowered = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if lowered else torch.float32
    inputs = states.float(), positives.float(), negatives.float()
    with torch.autocast(device_type=device, enabled=False):
        row_weights = None if weights is None else weights.float()[:, None]
        return _SoftmaxLoss.apply(*inputs, seen_mask, batch_index, row_weights, dtype)


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
