"""Settings that several rivals share: what their papers' sets and LLM-EDT's differ in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recbole_edt.model.settings import ModelSettings
from recbole_edt.settings import Count


class RivalSettings(ModelSettings):
    """Keys of every rival."""

    attention_start: Literal["random", "mean"] = Field(
        "mean", description="mean: a layer starts as an average of the history; random (papers)"
    )
    inner_size: Count = Field(256, description="hidden units of feed-forward layers")
