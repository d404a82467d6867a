"""The batches of a run: how its settings and its model want samples, and the stream of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
from jax.sharding import Mesh

from flair_jax.data.pipeline import LocalBatch, SampleSettings, batches
from flair_jax.data.sources import Source
from flair_jax.data.tokenizer import find_tokenizer
from flair_jax.errors import plural
from flair_jax.models.flair import Flair
from flair_jax.settings import TrainSettings
from flair_jax.train.packing import find_packing


def repeats_pictures(batch_size: int, samples: int) -> str:
    """That a step has a picture several times, what follows and what to do; "" if there are samples enough."""
    if samples >= batch_size:
        return ""
    return (
        f"a step takes {batch_size:,} images, more than the {plural(samples, 'sample')}: the same picture is in it "
        f"several times, among its own negatives; set config.batch_size to at most {samples:,}"
    )


def sample_settings(settings: TrainSettings, model: Flair, mesh: Mesh) -> SampleSettings:
    """How a run's samples become arrays, in this process.

    Args:
      settings: of the run.
      model: that it trains.
      mesh: of all devices.

    Raises:
      ConfigError: if the model's tokenizer is not there, or captions cannot be packed as asked.
    """
    return SampleSettings(
        seed=settings.seed,
        image_size=model.config.vision.image_size,
        context_length=model.config.text.context_length,
        captions_per_image=settings.captions_per_image,
        merged_sentences=settings.data.merged_sentences,
        crop_scale=settings.data.crop_scale,
        tokenizer=find_tokenizer(model.config.text.tokenizer),
        packing=find_packing(settings, model, mesh, jax.process_count()),
        interpolation=model.config.vision.interpolation,
    )


@contextmanager
def open_input(
    settings: TrainSettings, model: Flair, sources: Sequence[Source], mesh: Mesh, first: int
) -> Iterator[Iterator[LocalBatch]]:
    """This process's batches from number `first` on; closed, with its workers, at the end of the block."""
    stream = batches(
        sources,
        sample_settings(settings, model, mesh),
        settings.batch_size,
        first=first,
        process=jax.process_index(),
        processes=jax.process_count(),
        weights=settings.data.weights,
        workers=settings.data.workers,
    )
    try:
        yield stream
    finally:
        stream.close()
