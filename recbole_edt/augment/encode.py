"""Stage *encode*: the text of an item, and vectors for texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from recbole_edt.errors import DataError
from recbole_edt.files import read_table, replacing


class TextEncoder(Protocol):
    """Anything that turns texts into vectors."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one float32 row per text."""
        ...


def item_text(row: Mapping[str, object]) -> str:
    """Say in words what is known of an item (the content of the paper's item prompt, A.1).

    Parameters
    ----------
    row : mapping
        Attributes by column name: ``domain`` and, where known, ``title``, ``brand``, ``price``,
        ``categories``, ``description``. Missing ones (absent, empty or NaN) are left out.

    Returns
    -------
    str
        One line of text.
    """
    domain, title, brand = (_known(row, key) for key in ("domain", "title", "brand"))
    price, categories = _known(row, "price"), _known(row, "categories")
    description = _known(row, "description")
    sentences = [
        f"A product of the {domain} domain" + (f": {title}." if title else "."),
        f"Made by {brand}." if brand else "",
        f"Sold at {float(price):.2f} dollars." if price else "",
        f"Listed under {', '.join(categories.split(' | '))}." if categories else "",
        f"What the seller says: {description}" if description else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _known(row: Mapping[str, object], key: str) -> str:
    """Return the attribute on one line; empty where it is missing."""
    value = row.get(key)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return " ".join(str(value).split())


class LsaEncoder:
    """Latent semantic analysis: TF-IDF of words and word pairs, then truncated SVD. No network.

    The SVD is ARPACK's: it iterates to machine precision from a start vector fixed by the seed, so
    that neither BLAS threads nor a randomised projection show in the float16 that is stored. Signs
    are fixed too: the largest entry of each component is positive.

    Parameters
    ----------
    dim : int
        Size of the vectors; lowered to what the corpus can give (one less than its texts and
        its terms).
    seed : int
        Seed of the start vector.
    """

    def __init__(self, dim: int = 128, seed: int = 2026) -> None:
        self.dim = dim
        self.seed = seed

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode a corpus; the vectors of one call share a space, those of two calls do not.

        Parameters
        ----------
        texts : sequence of str
            The whole corpus.

        Returns
        -------
        ndarray
            float32 [texts, dim], rows of length 1; a text without a word is all zeros.

        Raises
        ------
        DataError
            If no text holds a word.
        """
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2),
            sublinear_tf=True,
            stop_words="english",
            token_pattern=r"(?u)\b[^\W\d_]{2,}\b",  # figures, such as a price, are no words
        )
        try:
            weights = vectorizer.fit_transform(texts)  # [texts, terms]
        except ValueError as error:
            raise DataError("there is no word in the texts to encode") from error
        dim = min(self.dim, min(weights.shape) - 1)
        if dim < 1:  # a single text or term: all texts point the same way
            return normalize(np.asarray(weights.sum(axis=1))).astype(np.float32)
        svd = TruncatedSVD(dim, algorithm="arpack", random_state=self.seed)
        with np.errstate(divide="ignore", invalid="ignore"):  # its variance report, not used here
            svd.fit(weights)
        axes = svd.components_  # [dim, terms]
        peaks = np.take_along_axis(axes, np.abs(axes).argmax(axis=1, keepdims=True), axis=1)
        vectors = weights @ (axes * np.sign(peaks)).T  # [texts, dim]
        vectors[np.linalg.norm(vectors, axis=1) < 1e-9] = 0.0  # nothing but rounding noise
        return normalize(vectors).astype(np.float32)


def encode_items(directory: str | Path, name: str, encoder: TextEncoder) -> Path:
    """Encode every line of ``<name>.item`` into ``<name>.item_emb.npy`` (float16, same order).

    Parameters
    ----------
    directory : str or Path
        Folder of the data set.
    name : str
        Name of the data set.
    encoder : TextEncoder
        Where the vectors come from.

    Returns
    -------
    Path
        The file written; it is replaced atomically.

    Raises
    ------
    DataError
        If ``.item`` is missing or empty, or holds no text.
    """
    items = read_table(Path(directory) / f"{name}.item")
    vectors = encoder.encode([item_text(row) for row in items.to_dict("records")])
    path = Path(directory) / f"{name}.item_emb.npy"
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, vectors.astype(np.float16))
    return path
