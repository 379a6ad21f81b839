"""Settings of all rivals: what their papers' sets and the sets that validate best differ in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recbole_edt.model.settings import ModelSettings
from recbole_edt.settings import Amount, Count, Positive, Probability


class RivalSettings(ModelSettings):
    """Keys of every rival; each adds its own."""

    inner_size: Count = Field(256, description="hidden units of feed-forward layers")
    attention_start: Literal["random", "mean"] = Field("mean", description="papers: random")
    weight_average: Probability = Field(0.98, description="decay per step of averaged weights")
    stopping_step: Amount = Field(3, description="epochs without a better score that end a stage")
    learning_rate: Positive = Field(0.0003, description="papers: 0.001")
    train_batch_size: Count = Field(256, description="sequences of a batch")
