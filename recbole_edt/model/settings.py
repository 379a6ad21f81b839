"""Settings that the plugin's sequence models share; a model's own class adds to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from recbole_edt.settings import (
    Amount,
    Count,
    NonNegative,
    Positive,
    Probability,
    Settings,
    fixed,
    must_be,
)

StoppingStep = Annotated[
    Amount,
    Field(description="stop after more than this many validations in a row below the best"),
]


HalfLife = Annotated[
    Literal["auto"] | NonNegative,
    Field(
        description="half-life of a training target's weight, in days; 0: equal weights; "
        "auto: chosen for each domain from its training rows"
    ),
]


class ModelSettings(Settings):
    """Keys of every model of the plugin; a model names its own in the attribute ``settings``."""

    hidden_size: Count = Field(128, description="d: size of item and user vectors")
    n_layers: Count = Field(2, description="layers of the backbone")
    n_heads: Count = Field(2, description="attention heads of a layer")
    dropout: Probability = Field(0.5, description="dropout in the backbone")
    item_dropout: Probability = Field(0.2, description="share of input items blanked in training")
    loss: Literal["bpr", "softmax"] = Field(
        "softmax", description="bpr: one negative per target (eq. 9); softmax: n_negatives"
    )
    n_negatives: Count = Field(2048, description="shared negatives per domain of a batch")
    recency_half_life: HalfLife = 0.0
    ensemble_size: Count = Field(
        1, description="number of models that train side by side; their scores are averaged"
    )

    # RecBole's, for its loaders; `Config` writes "none" for no negatives
    train_neg_sample_args: Annotated[
        Any,
        must_be(
            "empty (loss and n_negatives choose the negatives)",
            lambda value: value is None or value["distribution"] == "none",
        ),
    ] = None
    transform: Annotated[Any, fixed(None, "models of the plugin read whole sequences")] = None
    worker: Annotated[Any, fixed(0, "models of the plugin make their batches in place")] = 0

    @model_validator(mode="after")
    def _check_heads(self) -> ModelSettings:
        if self.hidden_size % self.n_heads:
            raise ValueError("hidden_size must be a multiple of n_heads")
        return self


class LLMEDTSettings(ModelSettings):
    """Keys of LLM-EDT, of both its stages."""

    augmentation: bool = Field(True, description="train on inserted rows too")
    augmented_histories: bool = Field(
        False, description="inserted rows in histories at evaluation; paper: True"
    )
    item_embedding: Literal["text", "id", "both"] = Field(
        "both", description="item vectors from text (paper), ids, or their sum"
    )
    backbone: str = Field("sasrec", description="sasrec, gru4rec, bert4rec or a registered one")
    inner_size: Count | None = Field(None, description="size of feed-forward layers; empty: 2 d")
    dropout: Probability = Field(0.3, description="dropout in the backbone")
    weight_average: Probability = Field(
        0.98, description="decay of the moving average of weights; 0: none"
    )
    label_smoothing: Probability = Field(
        0.0,
        description="share of targets that are replaced by similar items in the loss of stage 1",
    )
    recency_half_life: HalfLife = "auto"
    stopping_step: StoppingStep = 3
    learning_rate: Positive = Field(0.0005, description="learning rate of stage 1; paper: 0.001")
    train_batch_size: Count = Field(256, description="sequences per batch; paper: 512")
    pretrain_sequences: Literal["mixed", "all"] = Field(
        "all", description="sequences of stage 1: mixed (paper), or all: also those of each domain"
    )
    align_weight: NonNegative = Field(0.05, description="alpha of eq. 14; paper: 0.1 to 1.0")
    align_temperature: Positive = Field(0.5, description="tau of eq. 13")
    align_loss: Literal["paper", "infonce"] = Field(
        "paper", description="eq. 13: infonce includes the positive in the denominator"
    )
    adapter: Literal["paper", "residual"] = Field(
        "residual", description="two linear layers (paper), or s h + W1 ReLU(W2 h)"
    )
    adapter_size: Count | None = Field(None, description="bottleneck of adapters; empty: d / 2")
    finetune_learning_rate: Positive = Field(0.0001, description="learning rate of stage 2")
    finetune_epochs: Amount = Field(
        20,
        description="maximum number of epochs of stage 2; at most --epochs if only that is given",
    )
