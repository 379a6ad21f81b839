"""Stage *filter*: which generated items are transferable (eqs. 5, 6); pure functions of vectors."""

from __future__ import annotations

import numpy as np

from recbole_edt.errors import ConfigError, DataError

_DECIMALS = 9
"""Similarities are rounded to these, so that equal vectors tie and tau is met exactly: the last
bits of a matrix product depend on the machine and on the place in the matrix."""


def best_matches(
    generated: np.ndarray, representatives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find each generated item's most similar representative of a domain (eq. 5).

    Parameters
    ----------
    generated : np.ndarray
        Any float type [n, d_L]; embeddings of generated items.
    representatives : np.ndarray
        Any float type [m, d_L], m > 0; embeddings of the user's representative items in one
        domain, or of what stands in for them.

    Returns
    -------
    index : np.ndarray
        int64 [n]; row of the most similar representative, the first of equals.
    score : np.ndarray
        float64 [n]; its cosine similarity. A zero vector is similar to nothing (0).

    Raises
    ------
    DataError
        If there are no representatives, sizes differ, or a value is not finite.
    """
    if generated.ndim != 2 or representatives.ndim != 2:
        raise DataError("embeddings to compare must be matrices, one row per item")
    if generated.shape[1] != representatives.shape[1]:
        raise DataError(
            f"generated items have {generated.shape[1]} dimensions, "
            f"their representatives {representatives.shape[1]}"
        )
    if not len(representatives):
        raise DataError("there are no representative items to compare generated items with")
    cosine = np.round(_unit_rows(generated) @ _unit_rows(representatives).T, _DECIMALS)  # [n, m]
    index = cosine.argmax(axis=1)
    return index, cosine[np.arange(len(cosine)), index]


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1 in float64; zero rows stay zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    if not np.isfinite(vectors).all():
        raise DataError("an embedding of a generated or representative item is not finite")
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    vectors = vectors / np.where(largest > 0, largest, 1.0)  # squares neither vanish nor overflow
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def similarity_threshold(
    target_scores: np.ndarray, tau: float | None = None, quantile: float | None = None
) -> float:
    """Settle eq. 6's tau: as given, or as a quantile of the scores it will be held against.

    0.90 suits the paper's API embeddings; other encoders have other scales, which a quantile
    follows. A quantile is of the scores given here: give those of all users to get one tau for
    all, as the paper has; those of one user would drop the same share of everybody's items.

    Parameters
    ----------
    target_scores : np.ndarray
        float [n]; best similarities to the target domain's representatives (eq. 5).
    tau : float, optional
        The threshold itself.
    quantile : float, optional
        q in [0, 1]; the threshold is the score at place ceil(q (n - 1)), counted from 0, of the
        ascending scores: 0 keeps all, 1 only the best.

    Returns
    -------
    float
        The threshold.

    Raises
    ------
    ConfigError
        Unless exactly one of ``tau`` and ``quantile`` is given, and makes sense.
    """
    if (tau is None) == (quantile is None):
        raise ConfigError("the noise filter needs either tau or a quantile in its place")
    if quantile is None:
        assert tau is not None
        if np.isnan(tau):
            raise ConfigError("tau of the noise filter is not a number")
        return float(tau)
    if not 0.0 <= quantile <= 1.0:
        raise ConfigError(f"the noise filter's quantile {quantile} is not between 0 and 1")
    if not len(target_scores):
        return 0.0  # nothing to hold it against
    return float(np.quantile(target_scores, quantile, method="higher"))


def keep_transferable(
    source_scores: np.ndarray,
    target_scores: np.ndarray,
    k: int,
    tau: float | None = None,
    quantile: float | None = None,
) -> np.ndarray:
    """Choose a user's transferable items among those generated in one direction (eq. 6).

    The threshold comes first and the ranking second: of the items whose target similarity is at
    least tau, the k most similar to the source representatives stay (specification, section 5).
    Eq. 6 can also be read as ranking all items first; then an item that fails tau would take a
    place from one that passes.

    Parameters
    ----------
    source_scores : np.ndarray
        float [n]; best similarity of each generated item to the source domain's representatives
        (eq. 5), A for A2B.
    target_scores : np.ndarray
        float [n]; its best similarity to the target domain's representatives, B for A2B.
    k : int
        Most items to keep, >= 0.
    tau, quantile : float, optional
        As in :func:`similarity_threshold`; exactly one of them.

    Returns
    -------
    np.ndarray
        bool [n]; True for the items of T_A2B (or T_B2A). Of equal source scores the earlier item
        is kept.

    Raises
    ------
    ConfigError
        If k is negative, or as in :func:`similarity_threshold`.
    """
    if k < 0:
        raise ConfigError(f"the noise filter cannot keep {k} items")
    threshold = similarity_threshold(target_scores, tau, quantile)
    passing = np.flatnonzero(target_scores >= threshold)
    best = np.argsort(-source_scores[passing], kind="stable")[:k]
    keep = np.zeros(len(source_scores), dtype=bool)
    keep[passing[best]] = True
    return keep
