"""`--config` of the commands that take a checkpoint: where its model comes from if it has modules of its own."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flair_jax.errors import ConfigError

if TYPE_CHECKING:
    from flair_jax.models.flair import Flair


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, and with it `--config.FIELD=VALUE`, which `own_model` reads."""
    parser.add_argument(
        "--config",
        metavar="NAME|FILE",
        help="the training configuration of the checkpoint, as in `train`. Needed only for a model with modules of "
        "your own (config.factories.model), whose code is in no checkpoint; --config.FIELD=VALUE changes a field",
    )
    parser.set_defaults(takes_more="--config.")


def own_model(options: argparse.Namespace, dtype: str = "float32") -> Flair | None:
    """The model that the configuration of `--config` makes, for `flair_jax.load`.

    Args:
      options: of a command with `add_config`.
      dtype: compute dtype, whatever the training computed in.

    Returns:
      The model; None without `--config`, for a checkpoint that describes its model wholly.

    Raises:
      ConfigError: if the configuration is invalid, its factory fails, or it has none.
    """
    if options.config is None:
        if options.words:
            raise ConfigError(f"{options.words[0]}: is a field of a configuration; name that by --config=NAME|FILE")
        return None
    from flair_jax.settings import TrainSettings
    from flair_jax.train.flags import parse_config
    from flair_jax.train.objects import find_model

    settings = TrainSettings.from_config(parse_config([f"--config={options.config}", *options.words]))
    if settings.factories.model is None:
        raise ConfigError(
            f"--config={options.config}: its factories.model is None, so that a checkpoint of it describes its model "
            "wholly; leave --config out"
        )
    return find_model(settings, dtype=dtype)[0]
