"""How a run's captions lie in rows: padded, or packed for the devices that have their images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flair_jax.data.packing import Packing, check_rows, rows_of
from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair
from flair_jax.models.tokens import PackedTexts
from flair_jax.parallel.sharding import batch_sharding
from flair_jax.settings import TrainSettings
from flair_jax.train.step import Batch


def find_packing(settings: TrainSettings, model: Flair, mesh: Mesh, processes: int = 1) -> Packing | None:
    """How one process packs its captions; None if they are padded.

    Args:
      settings: of the run; `check_batch` has checked that its batch divides over the mesh.
      model: whose text tower reads them.
      mesh: of all devices.
      processes: that share the mesh's devices.

    Raises:
      ConfigError: if the model's longest caption does not fit in a row, its text tower cannot read packed captions, or
        several processes share the devices of one part of the batch.
    """
    packing, text = settings.packing, model.config.text
    if not packing.row_tokens:
        return None
    model.check_packable()
    check_rows(packing.row_tokens, text.context_length)
    devices, parts = mesh.shape["data"] * mesh.shape["fsdp"], settings.accumulation_steps
    if devices % processes:
        raise ConfigError(
            f"config.mesh: data * fsdp = {devices} is not a multiple of the {processes} processes, each of which packs "
            "the captions of its own images; choose another mesh"
        )
    captions = settings.batch_size // (devices * parts) * settings.captions_per_image
    rows = rows_of(captions, packing.tokens_per_caption, packing.row_tokens)
    return Packing(packing.row_tokens, rows, devices // processes, parts, text.end_of_text_id)


def abstract_batch(model: Flair, settings: TrainSettings, mesh: Mesh) -> Batch:
    """Shapes, dtypes and shardings of a batch, for compiling ahead of time.

    Args:
      model: the model.
      settings: of the run.
      mesh: over which the batch is sharded.

    Raises:
      ConfigError: see `find_packing`.
    """
    sharding = batch_sharding(mesh)

    def array(*shape: int, dtype: str = "int32") -> jax.Array:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)  # type: ignore[return-value]

    size, images = model.config.vision.image_size, settings.batch_size
    texts = images * settings.captions_per_image
    pixels = array(images, size, size, 3, dtype="uint8")
    packing = find_packing(settings, model, mesh)
    if packing is None:
        return Batch(pixels, array(texts, model.config.text.context_length))
    groups = packing.devices * packing.parts
    rows = (groups, packing.rows, packing.row_tokens)
    return Batch(pixels, PackedTexts(array(*rows), array(*rows), array(*rows), array(groups, texts // groups)))
