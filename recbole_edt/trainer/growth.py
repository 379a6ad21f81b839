"""A trained model on data that have grown: its parameters by item, and vectors of new items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_edt.data.known import Known, shown, training_rows
from recbole_edt.errors import CheckpointError
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.model.text import ItemPairs, frozen_text, start_components
from recbole_edt.registry import reference
from recbole_edt.trainer import checkpoint

_NEAREST = 5  # known items whose vectors stand in for that of a new one
_AXES = 128  # canonical axes of the text by which they are found
_BLOCK = 256  # new items that are compared at a time


def known(model: nn.Module, dataset) -> dict[str, Any]:
    """Describe, for a checkpoint, what later data must have."""
    sizes = {size for value in model.state_dict().values() for size in value.shape}
    # no model of the plugin has parameters of each user
    has_users = not isinstance(model, CrossDomainModel) and dataset.user_num in sizes
    return Known.of(dataset, has_users)


def adopt(model: nn.Module, path: str | Path, dataset) -> None:
    """Give a model the state of an earlier one, to train on from."""
    content = checkpoint.load(path)
    if content["model"] != reference(type(model)):
        raise CheckpointError(
            f"checkpoint {path} is of {content['model']}, and "
            f"{type(model).__name__} cannot start from it"
        )
    try:
        checkpoint.load_state(model, to_train_on(model, content, dataset, path), path)
    except CheckpointError as error:
        if error.__cause__ is None:  # the data do not fit
            raise
        others = checkpoint.differences(content["settings"], dataset.config)
        raise CheckpointError(f"{error}; it has {others or 'the same keys'}") from error


def to_train_on(
    model: nn.Module, content: dict[str, Any], dataset, path: str | Path
) -> dict[str, Any]:
    """:func:`fitted` for a model to train on from, which must not have seen what is held out now.

    A user of two rows is trained on both; once they have three, the second is held out for
    validation. Users who had two training rows, and have one now, are named.

    Raises
    ------
    CheckpointError
        If other users have fewer training rows than then, or the data do not fit.
    """
    fitting = fitted(model, content, dataset, path)
    if (then := content["known"].get("training_rows")) is None:
        raise CheckpointError(f"checkpoint {path} is of an earlier version: train again")
    names, counts = training_rows(dataset).numpy()
    before = pd.Series(*then.cpu().numpy()[::-1]).reindex(names, fill_value=0).to_numpy()
    fewer, tokens = before > counts, dataset.field2id_token[dataset.uid_field][1:]
    if len(lost := tokens[fewer & (before > 2)]):
        raise CheckpointError(
            f"checkpoint {path} was trained on rows that {dataset.dataset_name} holds out now, of "
            f"{len(lost):,} users, such as {shown(lost)}: train again"
        )
    if fewer.any():
        dataset.notes.append(
            f"validation rows that the model of {path} was trained on, of users who had two "
            f"training rows then and have one now: {fewer.sum():,}, such as of "
            f"{shown(tokens[fewer])}"
        )
    return fitting


@torch.no_grad()
def fitted(model: Any, content: dict[str, Any], dataset, path: str | Path) -> dict[str, Any]:
    """Fit the state of a checkpoint to a model on data that have grown.

    Rows of known items and users stay. An item that is new to a model with text gets the mean of
    the vectors of its nearest items, scaled to their mean length; other new rows stay as the model
    has them. Results that a model of RecBole keeps for its next answers are left out.

    Parameters
    ----------
    model : Module
        Made on ``dataset``, untrained.
    content : dict
        The checkpoint.
    dataset : CrossDomainDataset
        Made with what the checkpoint knows (``known``).

    Raises
    ------
    CheckpointError
        If the data do not fit the checkpoint.
    """
    there = dataset.known or Known(content["known"], str(path))
    check_order(there, dataset)
    check_text(there, dataset)
    n_items = (len(there.items) + 1, dataset.item_num)
    sizes = [n_items, (content["dataset"]["users"], dataset.user_num)]
    for domain in range(len(dataset.domains)):  # tables of one domain have a row of padding, too
        before, after = (
            (part == domain).sum() for part in (there.item_domain, dataset.item_domain)
        )
        sizes.append((1 + int(before), 1 + int(after)))
    own, state = model.state_dict(), dict(content["state_dict"])
    check_profiles(own, content, dataset, path)
    nearest = None
    for name, old in state.items():
        if name not in own or own[name].shape == old.shape:
            continue
        state[name] = new = _grown(old, own[name].to(old.device), sizes)
        if there.text is not None and n_items == (len(old), len(new)) and new.ndim == 2:
            nearest = nearest_known(dataset, n_items[0]) if nearest is None else nearest
            new[n_items[0] :] = _means(old, nearest.to(old.device))
    other = {}
    for name, now in checkpoint.named_state(model).items():
        value = content["other_state"].get(name)
        if torch.is_tensor(value) and torch.is_tensor(now):
            value = _grown(value, now.to(value.device), sizes)
        elif torch.is_tensor(value) and value.ndim == 2 and name not in content.get("arrays", ()):
            continue  # vectors of users or items, which are computed again
        if value is not None:
            other[name] = value
    return {**content, "state_dict": state, "other_state": other}


def check_order(there: Known, dataset) -> None:
    """Raise CheckpointError if a dataset does not number known items and users first."""
    pairs = [(dataset.iid_field, there.items), (dataset.uid_field, there.users)]
    for field, names in pairs:
        tokens = dataset.field2id_token[field][1:]
        if names is not None and not np.array_equal(tokens[: len(names)], names):
            raise CheckpointError(
                f"checkpoint {there.path} was trained on other data, or these were read without it "
                "(run --start_from and recommend read them by it)"
            )


def check_text(there: Known, dataset) -> None:
    """Name items whose embeddings have changed; raise CheckpointError if most of them have."""
    changed = there.changed_text(dataset)
    names = there.items[changed]
    if 2 * len(names) > len(changed):
        raise CheckpointError(
            f"checkpoint {there.path} was trained on other embeddings of the items "
            f"({len(names):,} of {len(changed):,} differ): encode new items with the encoder of "
            "its training data (lsa: --lsa_items=OLD.item), or train again"
        )
    if len(names):
        dataset.notes.append(
            f"items with another text than in training: {len(names):,}, such as {shown(names)}"
        )


def check_profiles(own: dict, content: dict[str, Any], dataset, path: str | Path) -> None:
    """Raise CheckpointError if the checkpoint has profiles of users and the data none, or reverse.

    Another ``align_weight`` is no matter of the data.
    """
    had, has = (any("profile_adapter." in key for key in k) for k in (content["state_dict"], own))
    weights = content["settings"].get("align_weight"), dataset.config["align_weight"]
    if had == has or not all(weights):
        return
    file = dataset._path("user_emb.npy").name
    now, folder = ("has none", "augment wrote") if had else ("has some", "it was trained on")
    raise CheckpointError(
        f"checkpoint {path} was trained with{'' if had else 'out'} profiles of the users, and "
        f"{dataset.dataset_name} {now} ({file}): name the folder that {folder} (--data_path)"
    )


def _grown(old: Tensor, new: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Put ``old`` into ``new``: along each axis known entries stay first, further ones last.

    ``sizes`` are the sizes that have grown, before and after; BERT4Rec has one further entry, of
    its mask. ``old`` itself if the shapes differ otherwise.
    """
    if old.ndim != new.ndim:
        return old
    places = []
    for axis, (n, m) in enumerate(zip(old.shape, new.shape, strict=True)):
        grown = [pair for pair in sizes if pair[1] - pair[0] == m - n and 0 <= n - pair[0] <= 1]
        if not (fits := [(n, m)] if n == m else grown):
            return old
        before, after = fits[0]
        index = torch.cat([torch.arange(before), torch.arange(after, m)])
        places.append(index.view(-1, *[1] * (old.ndim - axis - 1)))
    out = new.clone()
    out[tuple(places)] = old
    return out


def nearest_known(dataset, n_known: int) -> Tensor:
    """Items nearest by text to each item from ``n_known`` on: int64 [n_new, <= _NEAREST].

    They are raw known items of the same domain; text is compared by the cosine of its canonical
    coordinates.
    """
    domain_of = torch.from_numpy(dataset.item_domain)
    raw = torch.from_numpy((dataset.item_domain >= 0) & ~dataset.item_generated)
    text = frozen_text(dataset.item_table())
    pairs = ItemPairs(dataset.train_sequences, dataset.item_domain)
    units = F.normalize(start_components("canonical", text, raw, _AXES, pairs), dim=1)
    raw[n_known:] = False
    pools = [torch.nonzero(raw & (domain_of == d)).squeeze(1) for d in range(len(dataset.domains))]
    out = torch.zeros(len(units) - n_known, min(_NEAREST, *map(len, pools)), dtype=torch.int64)
    for domain, pool in enumerate(pools):
        for rows in torch.nonzero(domain_of[n_known:] == domain).squeeze(1).split(_BLOCK):
            alike = units[n_known + rows] @ units[pool].T
            out[rows] = pool[alike.topk(out.shape[1], dim=1).indices]
    return out


def _means(vectors: Tensor, nearest: Tensor) -> Tensor:
    """Mean direction of the ``nearest`` [n, k] of vectors [m, d], with their mean length."""
    found = vectors[nearest]
    lengths = torch.linalg.vector_norm(found, dim=2).mean(1, keepdim=True)
    return F.normalize(found.mean(1), dim=1) * lengths
