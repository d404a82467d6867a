"""Opens the training data that a configuration names. Imports no JAX."""

from __future__ import annotations

import logging

from flair_jax.data.sets.pictures import PictureSource, is_pictures
from flair_jax.data.shards import is_tars
from flair_jax.data.sources import Source, TfdsSource
from flair_jax.data.tars import TarSource
from flair_jax.errors import ConfigError, plural
from flair_jax.settings import DataSettings


def open_sets(settings: DataSettings) -> list[Source]:
    """The sets that `name` joins by `::`, each a TFDS data set, a pattern of tars, or a name in `PICTURE_SETS`.

    Raises:
      ConfigError: if there are not as many weights as sets.
      DatasetError: if one cannot be opened.
    """
    return [open_set(name, settings) for name in names_of(settings)]


def names_of(settings: DataSettings) -> list[str]:
    """The names of the sets, checked against the weights; see `open_sets`."""
    names = settings.name.split("::")
    if settings.weights and len(settings.weights) != len(names):
        raise ConfigError(
            f"config.data.weights has {plural(len(settings.weights), 'number')} for {plural(len(names), 'data set')}"
        )
    return names


def open_set(name: str, settings: DataSettings) -> Source:
    """One set; see `open_sets`."""
    if is_tars(name):
        source = TarSource(name, settings.dir, settings.index_dir)
        source.require_samples()
        lost = sum(not harm.harmless for harm in source.damage)
        if lost:
            logging.warning("%s: left out: %s; `flair-jax data check` names each", name, plural(lost, "member or tar"))
        return source
    if is_pictures(name, settings.dir):
        return PictureSource(name, settings.dir)
    return TfdsSource(name, settings.dir, settings.split)
