"""Settings that the plugin's sequence models share; a model's own class adds to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from recbole_edt.settings import Count, Probability, Settings


def declared(config: Any, key: str, default: Any) -> Any:
    """Value of a key that only some models declare; for the others a default."""
    value = config[key] if key in config else None
    return default if value is None else value


class ModelSettings(Settings):
    """Keys of every model of the plugin; defaults are in its property file.

    A model names its settings in the class attribute ``settings``.
    """

    hidden_size: Count = Field(128, description="d: size of item and user vectors")
    n_layers: Count = Field(2, description="layers of the backbone")
    n_heads: Count = Field(2, description="attention heads of a layer")
    dropout: Probability = Field(0.5, description="dropout in the backbone")
    item_dropout: Probability = Field(0.2, description="share of input items blanked in training")
    loss: Literal["bpr", "softmax"] = Field(
        "softmax",
        description="bpr: one negative per target (eq. 9); softmax: over the target and the "
        "negatives that a batch shares",
    )
    n_negatives: Count = Field(2048, description="shared negatives per domain of a batch")

    @model_validator(mode="after")
    def _check_heads(self) -> ModelSettings:
        if self.hidden_size % self.n_heads:
            raise ValueError("hidden_size must be a multiple of n_heads")
        return self
