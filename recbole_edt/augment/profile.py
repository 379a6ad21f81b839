"""Stage *profile* (3.4): users' items in groups, and vectors for what is written about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.preprocessing import normalize

from recbole_edt.augment.encoders import Encoder
from recbole_edt.augment.output import Augmented
from recbole_edt.augment.profilers import Profiles, UserGroups
from recbole_edt.errors import DataError


def user_groups(made: Augmented) -> list[UserGroups]:
    """Each user's augmented training items by domain and cluster (3.4.1), large clusters first.

    A new item is in the cluster of the nearest medoid of its domain or of the other one.
    """
    space, histories = made.space, made.space.histories
    items, anchors = made.training_rows()
    new = [histories.domains.index(item["domain"]) for item in made.new_items]
    domain = np.concatenate([histories.item_domain, np.array(new, dtype=np.int64)])
    label = space.label
    if made.new_items:
        medoids = np.concatenate(space.medoids)
        cosine = normalize(space.vectors[len(label) :]) @ normalize(space.vectors[medoids]).T
        label = np.concatenate([label, label[medoids[cosine.argmax(axis=1)]]])
    bounds = np.searchsorted(anchors, histories.offsets)
    out = []
    for place, user in enumerate(histories.users):
        mine = items[bounds[place] : bounds[place + 1]]
        sides = []
        for side in (0, 1):
            own = mine[domain[mine] == side]
            groups = [own[label[own] == one] for one in dict.fromkeys(label[own].tolist())]
            sides.append(sorted(groups, key=len, reverse=True))
        out.append(UserGroups(str(user), (sides[0], sides[1])))
    return out


def encode_profiles(
    encoder: Encoder, users: Sequence[UserGroups], profiles: Profiles
) -> np.ndarray:
    """Encode profiles; a text that cannot be encoded is dropped and its user reported.

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
        why = next(iter(profiles.failures.values()), "no user has training rows")
        raise DataError(f"no user has a profile ({why}): there is nothing to embed")
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
        if domains and profile == "naive":
            items = np.concatenate([group for groups in domains for group in groups])
            out[place] = vectors[items].mean(axis=0)
        elif domains:
            means = [[vectors[items].mean(axis=0) for items in groups] for groups in domains]
            out[place] = normalize([np.mean(side, axis=0) for side in means]).mean(axis=0)
    return normalize(out)
