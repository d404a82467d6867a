"""Features and scores of many images and texts, in blocks, on all local devices."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flair_jax.compiling import FirstCalls
from flair_jax.errors import plural
from flair_jax.models.flair import Params
from flair_jax.models.normalize import l2_normalize
from flair_jax.models.pooling import PreparedTexts
from flair_jax.parallel.sharding import data_mesh, replicate

# Pairs scored at once by one device: enough to keep it busy, few enough that the attention weights of one head (197
# columns x 4 bytes a pair for ViT-B/16) stay in a CPU's cache. Measured best of 256 to 2048 with benchmarks/scoring.py;
# the number for accelerators takes about 100 MB a head and is not tuned. TPUs have a kernel, which keeps texts in fast
# memory for all images; by its schedule it scores 1,280 at 1.2 times the rate of 640 on a v5e, 1.4 times on a v6e.
_TEXTS_PER_STEP = 640
_TEXTS_PER_STEP_TPU = 1280
_PAIRS_PER_STEP = {"cpu": _TEXTS_PER_STEP}
_PAIRS_PER_STEP_ACCELERATOR = 1 << 17

# Images that one device scores at once with a single text: on a CPU their float32 tokens (0.4 MB each for ViT-B/16)
# stay in the cache. Measured best of 1 to 64; the number for accelerators is not tuned.
_IMAGES_PER_STEP = {"cpu": 8}
_IMAGES_PER_STEP_ACCELERATOR = 256

# Texts are cut to their own length, rounded up to this many tokens so that few shapes are compiled.
_LENGTH_STEP = 8


@runtime_checkable
class RetrievalModel(Protocol):
    """The methods by which a model is scored; `flair_jax.Flair` has and explains them."""

    def normalize(self, pixels: jax.Array) -> jax.Array:
        """uint8 pixels [*batch, 3] -> float32 as `encode_image` takes them."""
        ...

    def text_lengths(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens [N, T] -> how many of the first columns of each row decide its feature [N]."""
        ...

    def encode_image(self, params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images [B, S, S, 3] -> global [B, D] and local [B, L, D] image tokens."""
        ...

    def encode_text(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Tokens [N, T] -> text features [N, D]."""
        ...

    def prepare_images(self, params: Params, local: jax.Array) -> Any:
        """Local tokens [B, L, D] -> images for `cosines`: a tree of arrays with a leading axis B."""
        ...

    def prepare_texts(self, params: Params, text: jax.Array) -> PreparedTexts:
        """Text features [N, D] -> texts for `cosines`."""
        ...

    def cosines(self, params: Params, image: Any, texts: PreparedTexts) -> jax.Array:
        """One image of `prepare_images` and all of `prepare_texts` -> cosines [N]."""
        ...

    def cosines_with_text(self, params: Params, local: jax.Array, text: jax.Array) -> jax.Array:
        """Local tokens [B, L, D] and one text feature [D] -> cosines [B]."""
        ...


class Retriever:
    """A model on a mesh of devices: images are sharded over them, texts are replicated.

    Scores are cosines: the model's scale and bias change no ranking. They do not depend on block sizes or the number of
    devices, except for rounding. All arrays that go in and come out are NumPy's, and features are float32.
    """

    def __init__(self, model: RetrievalModel, params: Params, devices: Sequence[jax.Device] | None = None) -> None:
        """Puts the parameters on the devices.

        Args:
          model: such as `flair_jax.load` gives.
          params: its parameters. If they are sharded over the devices of several processes, every process must call
            this.
          devices: all local ones if not given.
        """
        devices = jax.local_devices() if devices is None else devices
        self._text_lengths = model.text_lengths
        self._mesh = data_mesh(devices)
        self._first_calls = FirstCalls(self._mesh.size)
        self._rows = NamedSharding(self._mesh, P("data"))
        self._everywhere = NamedSharding(self._mesh, P())
        self._params = replicate(params, self._mesh)

        def tokens_of(params: Params, pixels: jax.Array, *, with_local: bool) -> jax.Array:
            image, local = model.encode_image(params, model.normalize(pixels))
            return jnp.concatenate([image[:, None], local], axis=1) if with_local else image[:, None]

        self._encode_images = jax.jit(tokens_of, static_argnames="with_local", out_shardings=self._rows)
        self._encode_texts = jax.jit(model.encode_text, out_shardings=self._rows)
        self._prepare_texts = jax.jit(model.prepare_texts, out_shardings=self._everywhere)
        self._score_all = score_all_step(model, self._mesh)
        self._score_top_k = jax.jit(
            jax.shard_map(
                partial(_score_top_k, model, pairs_per_step(self._mesh)),
                mesh=self._mesh,
                in_specs=(P(), P("data"), P("data"), P()),
                out_specs=P("data"),
            )
        )
        images_per_step = _IMAGES_PER_STEP.get(devices[0].platform, _IMAGES_PER_STEP_ACCELERATOR)
        self._score_text = jax.jit(
            jax.shard_map(
                partial(_score_text, model, images_per_step),
                mesh=self._mesh,
                in_specs=(P(), P("data"), P()),
                out_specs=P("data"),
            )
        )
        self._score_global = jax.jit(_cosines, out_shardings=self._rows)

    def encode_images(self, pixels: np.ndarray, *, with_local: bool, pad_to: int = 0) -> np.ndarray:
        """Image tokens, not normalised: uint8 [B, S, S, 3] -> float32 [B, 1 + L, D], the global token first.

        Args:
          pixels: from `flair_jax.preprocess`.
          with_local: whether the local tokens are wanted; if not, the result is [B, 1, D].
          pad_to: pad to this many images, so that a last, smaller block needs no compilation.
        """
        return self.by_rows(
            "the image tower for {image}", partial(self._encode_images, with_local=with_local), pad_to, pixels
        )

    def encode_texts(self, tokens: np.ndarray, *, pad_to: int = 0) -> np.ndarray:
        """Text features, not normalised: int32 [N, T] -> float32 [N, D]; `pad_to` as in `encode_images`.

        The columns after the last end of text are cut off first if no feature depends on them.
        """
        longest = int(self._text_lengths(tokens).max())
        length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, tokens.shape[1])
        program = f"the text tower for {{text}} of {length} tokens"
        return self.by_rows(program, self._encode_texts, pad_to, tokens[:, :length])

    def prepare_texts(self, text: np.ndarray) -> PreparedTexts:
        """Text features [N, D] as `score_all` and `score_top_k` take them, on every device."""
        with jax.set_mesh(self._mesh):  # a caller, such as training, may have set another
            return self._prepare_texts(self._params, jax.device_put(text, self._everywhere))

    def score_all(self, local: np.ndarray, texts: PreparedTexts, *, pad_to: int = 0) -> np.ndarray:
        """Text-conditioned cosines of all pairs: local tokens [B, L, D] and N texts -> [B, N]."""
        count = texts.size
        program = f"the scores of {{image}} with {plural(count, 'text')}"
        return self.by_rows(program, lambda params, x: self._score_all(params, x, texts)[:, :count], pad_to, local)

    def score_top_k(
        self, candidates: np.ndarray, local: np.ndarray, texts: PreparedTexts, *, pad_to: int = 0
    ) -> np.ndarray:
        """Text-conditioned cosines of each image with its own candidate texts.

        Args:
          candidates: int32 [B, K], indices of texts.
          local: [B, L, D] local image tokens.
          texts: from `prepare_texts`.
          pad_to: as in `encode_images`.

        Returns:
          [B, K].
        """
        chosen = candidates.astype(np.int32)
        program = f"the scores of {{image}} with {plural(chosen.shape[1], 'text')} each"
        return self.by_rows(program, lambda params, *x: self._score_top_k(params, *x, texts), pad_to, chosen, local)

    def score_text(self, local: np.ndarray, text: np.ndarray, *, pad_to: int = 0) -> np.ndarray:
        """Text-conditioned cosines of many images with one text: [B, L, D], in any float dtype, and [D] -> [B].

        The same scores as `score_all`, with less work for a single text.
        """
        program = "the scores of {image} with one text"
        return self.by_rows(program, lambda params, rows: self._score_text(params, rows, text), pad_to, local)

    def score_global(self, image: np.ndarray, text: np.ndarray, *, pad_to: int = 0) -> np.ndarray:
        """Cosines of global features: [B, D] and [N, D] -> [B, N]."""
        program = f"the global scores of {{image}} with {plural(len(text), 'text')}"
        return self.by_rows(program, lambda _, rows: self._score_global(rows, text), pad_to, image)

    def by_rows(self, program: str, function: Callable[..., jax.Array], pad_to: int, *arrays: np.ndarray) -> np.ndarray:
        """function(params, *arrays) [N, ...], of rows of arrays [N, ...] that are sharded over the devices.

        Args:
          program: what the function is, said when it is compiled; {image} in it is how many rows, which are images.
          function: jitted; each row of its result is of the same row of the arrays.
          pad_to: as in `encode_images`; there are always enough rows for all devices to have the same number.
          *arrays: each with N rows.
        """
        count, devices = len(arrays[0]), self._mesh.size
        rows = -(-max(count, pad_to) // devices) * devices
        padded = (np.pad(array, [(0, rows - count)] + [(0, 0)] * (array.ndim - 1)) for array in arrays)
        with jax.set_mesh(self._mesh):
            rows_of = [jax.device_put(array, self._rows) for array in padded]
            words = re.sub(r"{(\w+)}", lambda noun: plural(rows, noun[1]), program)
            with self._first_calls.compiling(words, *rows_of):
                result = function(self._params, *rows_of)
        return np.asarray(result)[:count]


def score_all_step(model: RetrievalModel, mesh: Mesh) -> jax.stages.Wrapped:
    """The jitted function behind `Retriever.score_all`, on a mesh with the one axis "data".

    It takes (params, local [B, L, D], prepared texts) and gives [B, N rounded up to whole blocks].
    """
    texts = _TEXTS_PER_STEP_TPU if mesh.devices.flat[0].platform == "tpu" else _TEXTS_PER_STEP
    score = partial(_score_all, model, pairs_per_step(mesh), texts)
    return jax.jit(jax.shard_map(score, mesh=mesh, in_specs=(P(), P("data"), P()), out_specs=P("data")))


def pairs_per_step(mesh: Mesh) -> int:
    """How many pairs a device of the mesh scores at once."""
    return _PAIRS_PER_STEP.get(mesh.devices.flat[0].platform, _PAIRS_PER_STEP_ACCELERATOR)


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices [B, K] of the k highest scores of each row of [B, N], best first, the lower index first among equals.

    k is cut to N.
    """
    return np.asarray(jax.lax.top_k(scores, min(k, scores.shape[1]))[1])


def _score_all(
    model: RetrievalModel,
    pairs_per_step: int,
    texts_per_step: int,
    params: Params,
    local: jax.Array,
    texts: PreparedTexts,
) -> jax.Array:
    """One device's images [b, L, D] with all N texts -> [b, N rounded up to whole blocks]."""
    count = texts.size
    blocks = -(-count // texts_per_step)
    size = -(-count // (16 * blocks)) * 16  # whole cache lines and vector registers
    images = model.prepare_images(params, local)

    def in_blocks(columns: jax.Array) -> jax.Array:
        padded = jnp.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, blocks * size - count)])
        return jnp.moveaxis(padded.reshape(*columns.shape[:-1], blocks, size), -2, 0)

    def score_block(block: Any) -> jax.Array:
        some = texts._replace(each=block)
        return _map(lambda image: model.cosines(params, image, some), images, pairs_per_step // size)

    scores = jax.lax.map(score_block, jax.tree.map(in_blocks, texts.each))
    return jnp.moveaxis(scores, 0, 1).reshape(len(local), -1)


def _score_top_k(
    model: RetrievalModel,
    pairs_per_step: int,
    params: Params,
    candidates: jax.Array,
    local: jax.Array,
    texts: PreparedTexts,
) -> jax.Array:
    """One device's images [b, L, D], each with its own candidates [b, K] -> [b, K]."""

    def score_image(row: tuple[jax.Array, Any]) -> jax.Array:
        chosen, image = row
        own = texts._replace(each=jax.tree.map(lambda columns: columns[..., chosen], texts.each))
        return model.cosines(params, image, own)

    images = model.prepare_images(params, local)
    return _map(score_image, (candidates, images), pairs_per_step // candidates.shape[1])


def _score_text(
    model: RetrievalModel, images_per_step: int, params: Params, local: jax.Array, text: jax.Array
) -> jax.Array:
    """One device's images [b, L, D] with one text [D] -> [b]."""

    def score_image(tokens: jax.Array) -> jax.Array:
        return model.cosines_with_text(params, tokens[None].astype(jnp.float32), text)[0]

    return _map(score_image, local, images_per_step)


def _map(function: Callable[[Any], jax.Array], rows: Any, at_once: int) -> jax.Array:
    """Function over the leading axis of `rows`, `at_once` of them vectorised."""
    if at_once <= 1:  # vectorising over an axis of 1 would cost a CPU half its speed
        return jax.lax.map(function, rows)
    return jax.lax.map(function, rows, batch_size=min(at_once, len(jax.tree.leaves(rows)[0])))


def _cosines(image: jax.Array, text: jax.Array) -> jax.Array:
    return jnp.matmul(l2_normalize(image), l2_normalize(text).T, precision=jax.lax.Precision.HIGHEST)
