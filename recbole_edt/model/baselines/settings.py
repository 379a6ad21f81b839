"""Settings of all baselines: keys whose paper values differ from those that validate best."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recbole_edt.model.settings import ModelSettings, StoppingStep
from recbole_edt.settings import Count, Positive, Probability


class BaselineSettings(ModelSettings):
    """Keys of every baseline; each adds its own."""

    inner_size: Count = Field(256, description="hidden units of feed-forward layers")
    attention_start: Literal["random", "mean"] = Field(
        "mean",
        description="mean: attention layers start as an average of the history; papers: random",
    )
    weight_average: Probability = Field(0.98, description="decay per step of averaged weights")
    stopping_step: StoppingStep = 3
    learning_rate: Positive = Field(0.0003, description="learning rate; papers: 0.001")
    train_batch_size: Count = Field(256, description="sequences of a batch")
