"""Keys of ``recbole-edt augment``, with the paper's values where they are printed."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from recbole_edt.augment.encoders import encoder_class
from recbole_edt.augment.generators import GENERATORS
from recbole_edt.augment.profilers import PROFILERS
from recbole_edt.settings import Amount, Count, Name, Names, NonNegative, Settings, Share


def _one_of(*tables: Collection[str]) -> AfterValidator:
    """Accept the names that are registered when the value is checked."""

    def known(name: str) -> str:
        names = [*chain(*tables)]
        if name not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return name

    return AfterValidator(known)


def _encoders(name: str) -> str:
    encoder_class(name)
    return name


# `none` on the command line is read as None
_OrNone = BeforeValidator(lambda value: "none" if value is None else value)
_Encoder = Annotated[str, AfterValidator(_encoders)]
_Generator = Annotated[str, _OrNone, _one_of(GENERATORS, ["none"])]
_Profiler = Annotated[str, _OrNone, _one_of(PROFILERS, ["none"])]


class AugmentSettings(Settings, use_attribute_docstrings=True):
    """How a data set is augmented."""

    domains: list[Name] | None = None
    """names of domains A and B (default: alphabetical)"""
    text_columns: Names | None = None
    """columns of .item that make the text of an item (default: non-numeric ones, and the one named
    price)"""
    encoder: _Encoder = "lsa"
    """provider of text embeddings: lsa (no network), file (<D>.item_emb.npy beside the raw data),
    openai (an endpoint), sentence-transformers; several side by side: file+lsa"""
    lsa_items: Name | None = None
    """for data that have grown: an earlier .item file, in whose space lsa encodes, so that its
    items keep their embeddings (default: the space that import --lsa_items has chosen)"""
    sentence_model: Name = "all-MiniLM-L6-v2"
    """model of --encoder=sentence-transformers"""
    generator: _Generator = "retrieval"
    """provider of items (eq. 4): retrieval (existing items by similarity, no network), openai (the
    paper), none (w/o Aug.)"""
    clusters: Count = 10
    """K of K-means per domain; paper: 10"""
    num: Count | None = None
    """items proposed per user and direction (default: 10 for openai, 1 for retrieval); paper: 10"""
    filter: Annotated[Literal["similarity", "none"], _OrNone] = "similarity"
    """similarity (eqs. 5, 6) or none (w/o Filtering)"""
    k: Count = 10
    """maximum number of items kept per user and direction; table 12: 5, 10, 15"""
    tau: float | None = Field(None, allow_inf_nan=False)
    """minimum similarity to the target domain; paper: 0.90, for API embeddings"""
    tau_quantile: Share | None = 0.2
    """tau as a quantile of all similarities, for encoders of another scale"""
    insert: Literal["anchor", "end", "random"] = "anchor"
    """where items go (eq. 1): anchor (after the most similar source item), end (w/o Inserting),
    random (Random Inserting)"""
    inject_ratio: Share = 1.0
    """share of the kept items that is inserted"""
    directions: Literal["scarce", "both", "minor"] = "scarce"
    """both (A2B and B2A for every user), minor (the domain that the user has fewer
    items of, by an amount that grows with r), scarce (the domain that the user has fewer items of,
    and for every user the one that all users have fewer items of); paper: both"""
    min_ratio: Share = 0.5
    """minimum imbalance r of augmented users; paper: 0"""
    min_history: Amount = 1
    """minimum training rows that a user needs in a domain to get items of it; paper: 0"""
    profiler: _Profiler = "extractive"
    """provider of profiles (3.4): extractive (no network), openai (the paper), none"""
    profile: Literal["sra", "naive"] = "sra"
    """sra (summarise, reform, analyse) or naive (w/o S-R-A)"""
    profile_calls: Literal["domain", "cluster"] = "domain"
    """calls for the summaries of sra: one per user and domain, or one per cluster (the paper)"""
    llm: Name = "deepseek"
    """endpoints of models: deepseek, openai, ollama, vllm, llamacpp, lmstudio, or a YAML file"""
    chat: dict[str, Any] = {}
    """any key of the chat endpoint, such as --chat.model=NAME, --chat.base_url=ADDRESS"""
    embedding: dict[str, Any] = {}
    """any key of the embedding endpoint, such as --embedding.batch_size=10"""
    batch: bool = False
    """use the provider's batch API: mostly half the price, within a day; the same command finds its
    batches again"""
    max_cost: NonNegative | None = None
    """maximum cost of a run in dollars"""
    seed: int = 2026
    """seed of K-means and of random insertion"""

    @model_validator(mode="before")
    @classmethod
    def _tau_takes_the_place_of_its_quantile(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("tau") is not None and "tau_quantile" not in values:
            return values | {"tau_quantile": None}
        return values

    @model_validator(mode="after")
    def _keys_that_belong_together(self) -> AugmentSettings:
        if (self.tau is None) == (self.tau_quantile is None):
            raise ValueError("the filter needs either tau or tau_quantile")
        if encoder_class(self.encoder).items_only:
            writers = {"items": GENERATORS.get(self.generator)}
            for what, writer in (writers | {"profiles": PROFILERS.get(self.profiler)}).items():
                if writer and writer.uses_llm:
                    raise ValueError(
                        f"encoder '{self.encoder}' has no vectors for the {what} an LLM writes"
                    )
        return self


class _Paths(Settings, use_attribute_docstrings=True):
    dataset: Name
    """name of the data set"""
    data_path: Name | None = None
    """folder that holds DATASET/ (default: dataset/, then dataset_atomic/)"""
    output_path: Name
    """folder that receives the augmented DATASET/; train with --data_path set to it"""
    dry_run: bool = False
    """estimate the cost of each stage without calls"""


class AugmentCommand(AugmentSettings, _Paths):
    """Arguments of ``recbole-edt augment``."""
