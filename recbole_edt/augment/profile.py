"""Stage *profile* (3.4): users' items in groups, and vectors for what is written about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.preprocessing import normalize

from recbole_edt.augment.augmented import Augmented
from recbole_edt.augment.encoders import Encoder
from recbole_edt.augment.profilers import Profiles, UserGroups
from recbole_edt.errors import DataError


def user_groups(made: Augmented) -> list[UserGroups]:
    """Each user's augmented training items by domain and cluster (3.4.1), large clusters first."""
    histories, labels = made.space.histories, item_clusters(made)
    items, anchors = made.training_rows()
    domain = made.item_domain()
    bounds = np.searchsorted(anchors, histories.offsets)
    out = []
    for place, user in enumerate(histories.users):
        mine = items[bounds[place] : bounds[place + 1]]
        sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for side in (0, 1):
            own = mine[domain[mine] == side]
            groups = [own[labels[own] == label] for label in dict.fromkeys(labels[own].tolist())]
            sides[side].extend(sorted(groups, key=len, reverse=True))
        out.append(UserGroups(str(user), sides))
    return out


def item_clusters(made: Augmented) -> np.ndarray:
    """Cluster of every item, int64 [n_items]; a new item has that of the nearest medoid."""
    clusters, vectors = made.space.clusters, made.space.vectors
    n = len(clusters.label)
    if len(vectors) == n:
        return clusters.label
    medoids = np.concatenate(clusters.medoids)
    nearest = (normalize(vectors[n:]) @ normalize(vectors[medoids]).T).argmax(axis=1)
    return np.concatenate([clusters.label, clusters.label[medoids[nearest]]])


def encode_profiles(
    encoder: Encoder, users: Sequence[UserGroups], profiles: Profiles
) -> np.ndarray:
    """Encode profiles; a user whose text cannot be encoded is named and loses it.

    Returns
    -------
    ndarray
        float32 [n_users, d_L]; zero where there is no text.

    Raises
    ------
    DataError
        If not one user has a vector.
    """
    texts = profiles.texts
    has = [place for place, text in enumerate(texts) if text]
    if not has:
        raise DataError("no user has a profile: there is nothing to embed")
    vectors, lost = encoder.encode_more([texts[place] for place in has])
    if len(lost) == len(has):
        raise DataError(f"not one profile could be embedded ({next(iter(lost.values()))})")
    out = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
    out[has] = vectors
    for n, why in lost.items():
        texts[has[n]] = ""
        profiles.failures[users[has[n]].user] = f"encode: {why}"
    return out


def mean_vectors(users: Sequence[UserGroups], vectors: np.ndarray, profile: str) -> np.ndarray:
    """Vectors in place of encoded profiles, for an encoder that has the items alone.

    Returns
    -------
    ndarray
        float32 [n_users, d_L]; rows of length 1, or zero for a user without items.
    """
    out = np.zeros((len(users), vectors.shape[1]), dtype=np.float32)
    for place, user in enumerate(users):
        domains = [groups for groups in user.groups if groups]
        if not domains:
            continue
        if profile == "naive":
            items = np.concatenate([group for groups in domains for group in groups])
            out[place] = vectors[items].mean(axis=0)
            continue
        sides = [
            np.mean([vectors[items].mean(axis=0) for items in groups], axis=0) for groups in domains
        ]
        out[place] = np.mean([normalize(side[None])[0] for side in sides], axis=0)
    return normalize(out)
