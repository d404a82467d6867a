"""The scoring kernel, interpreted, against what XLA computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flair_jax.models import attention_pooling, cosine_kernel
from flair_jax.models.attention_pooling import OutProjection, PreparedImage, TextConditionedPooling, TextQueries
from flair_jax.models.cosine_kernel import kernel_cosines, takes
from flair_jax.models.pooling import PreparedTexts
from flair_jax.scoring import scorer
from flair_jax.scoring.scorer import Retriever

# Float32: other orders of sums; measured 6e-8. Bfloat16: measured 2e-8, but where a sum differs in its last bit, a
# weight or a mixed value may round to the other side, by 1 in 256 of one among many.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3}


def prepared(heads: int, length: int, width: int, texts: int, dtype: str = "float32", scale: float = 1.0):
    """An image and texts of random numbers, whose logits are normal and `scale` wide."""
    rng, dim = np.random.default_rng(length + texts), heads * width
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    image = PreparedImage(*(draw(heads, length, width).astype(dtype) for _ in range(2)))
    queries = TextQueries((draw(heads, width, texts) * scale * width**-0.5).astype(dtype), draw(dim, texts) * dim**-0.5)
    return image, PreparedTexts(queries, OutProjection(jnp.triu(draw(dim, dim)).astype(dtype), draw(dim)))


def both(image: PreparedImage, texts: PreparedTexts) -> tuple[np.ndarray, np.ndarray]:
    """Cosines by XLA and by the kernel."""
    arrays = (*image, *texts.each, *texts.shared)
    with jax.default_matmul_precision("highest"):
        plain = jax.jit(attention_pooling._cosines)(*arrays)
        return np.asarray(plain), np.asarray(kernel_cosines(*arrays, interpret=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("heads", "length", "width", "texts"), [(8, 196, 64, 40), (3, 49, 16, 37), (5, 1, 32, 1), (1, 257, 64, 129)]
)
def test_equals_what_xla_computes(heads: int, length: int, width: int, texts: int, dtype: str) -> None:
    expected, actual = both(*prepared(heads, length, width, texts, dtype))
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.fixture
def little_memory(monkeypatch) -> None:
    """Blocks of 128 texts."""
    sizes = (2, 10, 16)
    monkeypatch.setattr(cosine_kernel, "_MEMORY", 400_000)
    assert cosine_kernel._most_texts(*sizes, 4) == 128


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("texts", [128, 129, 300])
def test_several_blocks_of_texts(texts: int) -> None:
    """The last one reaches beyond the last text."""
    expected, actual = both(*prepared(2, 10, 16, texts))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [30.0, 3e3])
def test_large_logits(scale: float) -> None:
    """One token takes all the weight, or, if none has a positive logit, the empty slot."""
    image, texts = prepared(2, 9, 16, 50, scale=scale)
    expected, actual = both(image, texts)
    logits = jnp.einsum("hlc,hcn->hln", image.key, texts.each.query)
    assert jnp.abs(logits).max() > scale
    # A logit of 1e4 has 1e-3 in its last bit, by which the few weights that are neither 0 nor 1 may differ; measured 0.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 if scale < 100 else 2e-3)


def test_what_matches_nothing_attends_to_the_empty_slot() -> None:
    image, texts = prepared(2, 9, 16, 50)
    image = image._replace(key=-jnp.ones_like(image.key) * 100)
    texts = texts._replace(each=texts.each._replace(query=jnp.ones_like(texts.each.query)))
    _, bias = texts.shared
    alone = bias @ texts.each.target / jnp.linalg.norm(bias)
    for cosines in both(image, texts):
        np.testing.assert_allclose(cosines, alone, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equal_texts_tie_wherever_they_stand(dtype: str) -> None:
    image, texts = prepared(2, 10, 16, 290, dtype)
    places = np.array([0, 1, 15, 64, 127, 128, 200, 255, 256, 289])
    each = jax.tree.map(lambda columns: columns.at[..., places].set(columns[..., :1]), texts.each)
    _, cosines = both(image, texts._replace(each=each))
    assert len(set(cosines[places].tolist())) == 1
    assert len(set(cosines.tolist())) > 250


def test_the_retriever_scores_by_it(monkeypatch, small_model) -> None:
    """All pairs and candidates, on eight devices, several images at once: as without the kernel."""
    vision, rng, results, calls = small_model[0].config.vision, np.random.default_rng(0), [], []
    width = small_model[0].config.embed_dim
    local = rng.standard_normal((20, vision.grid**2, width)).astype(np.float32)
    text = rng.standard_normal((37, width)).astype(np.float32)
    candidates = rng.integers(0, len(text), (len(local), 5))

    def counted(*arrays):
        calls.append(arrays)
        return kernel_cosines(*arrays, interpret=True)

    monkeypatch.setattr(attention_pooling, "kernel_cosines", counted)
    monkeypatch.setattr(attention_pooling, "takes", lambda *_: True)  # heads of 8 are narrower than what a chip takes
    monkeypatch.setattr(scorer, "_PAIRS_PER_STEP", {})
    # JAX's interpreter, unlike its compiler for TPUs, loses sight of what varies over the devices.
    monkeypatch.setattr(jax, "shard_map", functools.partial(jax.shard_map, check_vma=False))
    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(attention_pooling, "mesh_platform", lambda platform=platform: platform)
        retriever = Retriever(*small_model)
        texts = retriever.prepare_texts(text)
        results.append((retriever.score_all(local, texts), retriever.score_top_k(candidates, local, texts)))
        assert len(calls) == {"cpu": 0, "tpu": 2}[platform]
    for plain, kernel in zip(*results, strict=True):
        np.testing.assert_allclose(kernel, plain, rtol=0, atol=1e-5)


def test_not_where_the_compiler_divides(monkeypatch) -> None:
    """It cannot divide a kernel over the devices of a mesh."""
    image, texts = prepared(2, 9, 16, 8)
    monkeypatch.setattr(attention_pooling, "mesh_platform", lambda: "tpu")
    monkeypatch.setattr(attention_pooling, "kernel_cosines", functools.partial(kernel_cosines, interpret=True))
    pooling = TextConditionedPooling(32, 2)
    run = lambda: str(jax.make_jaxpr(lambda *inputs: pooling.apply({}, *inputs, method="cosines"))(image, texts))  # noqa: E731
    assert "pooled_cosines" in run()
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert "pooled_cosines" not in run()


def test_what_it_takes() -> None:
    assert takes(8, 196, 64, "bfloat16")
    assert takes(8, 196, 64, "float32")
    assert takes(8, 1024, 64, "bfloat16")
    assert not takes(8, 1024, 64, "float32"), "an image's keys and values fill the memory"
    assert not takes(8, 196, 40, "float32"), "heads do not begin at a register"
