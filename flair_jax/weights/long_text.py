"""Text towers that read more than they were trained with: stretched tables, and those of Long-CLIP's checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from flair_jax.errors import ConfigError
from flair_jax.models.config import FlairConfig
from flair_jax.models.resize import stretch_position_embedding
from flair_jax.weights.param_map import ConversionError

# Rows that Long-CLIP (arXiv 2403.15378) keeps as they were trained: `keep_len` in its model/longclip.py, and the rows
# that `mask1` takes from the first table in its model/model_longclip.py.
KEPT_POSITIONS = 20

_TABLE, _STRETCHED = "positional_embedding", "positional_embedding_res"


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A longer context for a trained text tower; see `stretch_position_embedding`.

    Attributes:
      context_length: T, tokens that the model will read, those of start and end included.
      keep: how many of the first positions stay as they are, and with them the features of texts of at most as many
        tokens.
    """

    context_length: int
    keep: int = KEPT_POSITIONS

    def config(self, config: FlairConfig) -> FlairConfig:
        """The model with the longer context.

        Raises:
          ConfigError: if it has as long a context already, its text tower attends to padding, or fewer than two
            positions would be stretched.
        """
        trained = config.text.context_length
        if not config.text.causal:
            raise ConfigError(
                "the context cannot be stretched: text.causal is false, so padding is part of each text, and with more "
                "of it every feature changes"
            )
        if self.context_length <= trained:
            raise ConfigError(
                f"context length {self.context_length}: the model reads {trained} tokens already; take more, or leave "
                "it out"
            )
        if not 0 <= self.keep <= trained - 2:
            raise ConfigError(
                f"{self.keep} positions to keep, of {trained}: take from 0 to {trained - 2}, since the others are "
                "interpolated between two at least"
            )
        return dataclasses.replace(config, text=dataclasses.replace(config.text, context_length=self.context_length))

    def tensors(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A PyTorch state dict with the longer table; `config` has passed for the model that it is."""
        return {**tensors, _TABLE: stretch_position_embedding(tensors[_TABLE], self.context_length, self.keep)}


def is_long_clip(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether a state dict has the second position table by which Long-CLIP's checkpoints are known."""
    return _STRETCHED in tensors


def joined_tables(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Long-CLIP's state dict as an ordinary CLIP's: the rows kept of its first table, then those of the second.

    Its text tower adds row i of `positional_embedding` to the tokens of places below 20, and of
    `positional_embedding_res` to all others; the other rows of either table are not used.

    Raises:
      ConversionError: if the tables are not of the same shape, or too short to be of it.
    """
    first, second = tensors.get(_TABLE), tensors[_STRETCHED]
    if first is None or first.shape != second.shape or second.ndim != 2 or len(second) <= KEPT_POSITIONS:
        found = "missing" if first is None else list(first.shape)
        raise ConversionError(
            f"{_STRETCHED} {list(second.shape)} is that of a Long-CLIP, whose {_TABLE} has the same shape and more "
            f"than {KEPT_POSITIONS} rows, and is {found}"
        )
    table = np.concatenate([first[:KEPT_POSITIONS], second[KEPT_POSITIONS:]])
    return {**{name: tensor for name, tensor in tensors.items() if name != _STRETCHED}, _TABLE: table}
