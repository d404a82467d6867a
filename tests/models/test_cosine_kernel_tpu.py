"""The scoring kernel, compiled for TPUs that are not there."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flair_jax.models.cosine_kernel import kernel_cosines, takes
from flair_jax.models.flair import Flair
from flair_jax.parallel.sharding import data_mesh
from flair_jax.plan.topology import find_topology
from flair_jax.scoring.scorer import score_all_step

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
KERNEL, COLLECTIVES = '"tpu_custom_call"', ("all-reduce", "all-gather", "all-to-all", "collective-permute")


@pytest.mark.parametrize(
    ("chip", "heads", "length", "width", "texts", "dtype"),
    [
        ("v5e", 8, 196, 64, 640, "bfloat16"),
        ("v5p", 8, 196, 64, 200, "bfloat16"),
        ("v6e", 8, 196, 64, 200, "float32"),
        ("v5e", 3, 50, 16, 33, "bfloat16"),
        ("v5p", 8, 1024, 64, 700, "bfloat16"),
        ("v6e", 5, 1, 48, 1, "float32"),
    ],
)
def test_sizes_that_the_rule_allows_compile(chip, heads, length, width, texts, dtype) -> None:
    assert takes(heads, length, width, dtype)
    dim = heads * width
    shape = functools.partial(
        jax.ShapeDtypeStruct, sharding=NamedSharding(data_mesh(find_topology(CHIPS[chip]).devices[:1]), P())
    )
    image, query = shape((2, heads, length, width), dtype), shape((heads, width, texts), dtype)
    others = shape((dim, texts), "float32"), shape((dim, dim), dtype), shape((dim,), "float32")
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        score = jax.vmap(kernel_cosines, in_axes=(0, 0, None, None, None, None))
        text = jax.jit(score).lower(image, image, query, *others).compile().as_text()
    assert KERNEL in text


@pytest.mark.parametrize("width", [128, 32])
def test_the_scoring_step_has_it_and_exchanges_nothing(small_config, width: int) -> None:
    """Where it takes the model's heads; otherwise XLA computes the scores, as elsewhere."""
    config = dataclasses.replace(small_config, embed_dim=width, dtype="bfloat16")
    model, mesh = Flair(config), data_mesh(find_topology(CHIPS["v5e"]).devices)
    place = lambda leaf, *axes: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, P(*axes)))  # noqa: E731
    params = jax.tree.map(place, model.abstract_params())
    local = place(jax.ShapeDtypeStruct((8, config.vision.grid**2, width), jnp.float32), "data")
    text = jax.ShapeDtypeStruct((1300, width), jnp.float32)
    texts = jax.tree.map(place, jax.eval_shape(model.prepare_texts, params, text))
    program = score_all_step(model, mesh).lower(params, local, texts).compile().as_text()
    assert (KERNEL in program) == (width == 128)
    assert not any(each in program for each in COLLECTIVES)
