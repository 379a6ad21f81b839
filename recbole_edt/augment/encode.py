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

from recbole_edt.augment.llm import LLMClient
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io.atomic import load_embeddings


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
        """Fit a corpus and encode it; further texts join its space by :meth:`encode_more`.

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
        self.vectorizer = TfidfVectorizer(
            ngram_range=(1, 2),
            sublinear_tf=True,
            stop_words="english",
            token_pattern=r"(?u)\b[^\W\d_]{2,}\b",  # figures, such as a price, are no words
        )
        try:
            weights = self.vectorizer.fit_transform(texts)  # [texts, terms]
        except ValueError as error:
            raise DataError("there is no word in the texts to encode") from error
        dim = min(self.dim, min(weights.shape) - 1)
        if dim < 1:  # a single text or term: all texts point the same way
            self.axes = np.ones((1, weights.shape[1]))
            return self._project(weights)
        svd = TruncatedSVD(dim, algorithm="arpack", random_state=self.seed)
        with np.errstate(divide="ignore", invalid="ignore"):  # its variance report, not used here
            svd.fit(weights)
        axes = svd.components_  # [dim, terms]
        peaks = np.take_along_axis(axes, np.abs(axes).argmax(axis=1, keepdims=True), axis=1)
        self.axes = axes * np.sign(peaks)
        return self._project(weights)

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Encode texts into the space of the corpus that :meth:`encode` saw.

        Words that the corpus lacks do not count.

        Returns
        -------
        vectors : ndarray
            float32 [texts, dim].
        failures : dict
            Empty.
        """
        return self._project(self.vectorizer.transform(texts)), {}

    def _project(self, weights) -> np.ndarray:
        vectors = np.asarray(weights @ self.axes.T)  # [texts, dim]
        vectors[np.linalg.norm(vectors, axis=1) < 1e-9] = 0.0  # nothing but rounding noise
        return normalize(vectors).astype(np.float32)


class FileEncoder:
    """Vectors that are there already, one per line of ``.item``; it can encode nothing else.

    Parameters
    ----------
    path : Path
        A float matrix, [n_items, d_L].
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the file's rows; there must be one per text."""
        return np.asarray(load_embeddings(self.path, len(texts), "item"), dtype=np.float32)


class EndpointEncoder:
    """An embedding endpoint that speaks OpenAI's interface.

    Parameters
    ----------
    client : LLMClient
        Where to ask.
    """

    def __init__(self, client: LLMClient) -> None:
        self.client = client

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode the items; all of them are needed.

        Raises
        ------
        DataError
            If a text could not be encoded.
        """
        vectors, failures = self.client.embed(texts, "encode")
        if failures:
            place, reason = next(iter(failures.items()))
            raise DataError(
                f"{len(failures)} items could not be embedded, the first in line {place + 2} of "
                f".item ({reason}): run it again, or mend what is said of them there"
            )
        return vectors

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Encode further texts, any of which may fail.

        Returns
        -------
        vectors : ndarray
            float32 [texts, dim]; zero where a text failed.
        failures : dict
            Index of each such text -> why, one line.
        """
        return self.client.embed(texts, "encode")


class SentenceEncoder:
    """A local model of ``sentence-transformers`` (extra ``[sentence]``).

    Parameters
    ----------
    model : str
        Name or folder of the model.
    """

    def __init__(self, model: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(
                "encoder sentence-transformers needs: pip install 'recbole-edt[sentence]'"
            ) from error
        self.model = SentenceTransformer(model)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts, float32 [texts, dim], rows of length 1."""
        vectors = self.model.encode(list(texts), normalize_embeddings=True)
        return np.asarray(vectors, dtype=np.float32)

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Encode further texts; none fails."""
        return self.encode(texts), {}
