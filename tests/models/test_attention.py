"""The TPU kernel, interpreted, against XLA's attention: values and gradients; and who is chosen where."""

import dataclasses
import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flair_jax.errors import ConfigError
from flair_jax.models.attention import attend, choose, describe_choices
from flair_jax.models.config import FlairConfig, VisionConfig
from flair_jax.models.flair import Flair
from flair_jax.models.short_attention import short_attention

# Rows, tokens, heads and their width; whether causal, and packed.
CASES = {
    "text": (3, 77, 2, 64, True, False),
    "image": (1, 197, 2, 64, False, False),
    "packed": (3, 128, 2, 64, True, True),
    "short": (2, 50, 4, 32, False, False),
    "longest": (1, 256, 1, 128, False, False),
    "both": (2, 9, 3, 16, False, True),
}


def inputs(rows: int, length: int, heads: int, head: int, packed: bool, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    width = heads * head
    projected = jax.random.normal(keys[0], (rows, length, 3 * width), dtype)
    bias = jax.random.normal(keys[1], (3 * width,))
    above = jax.random.normal(keys[2], (rows, length, width), dtype)
    segments = jnp.sort(jax.random.randint(keys[3], (rows, length), 0, 4), axis=1) if packed else None
    return projected, bias, segments, above


def by_xla(projected, bias, segments, heads, causal):
    query, key, value = jnp.split(projected + bias.astype(projected.dtype)[None, None], 3, axis=-1)
    return attend(query, key, value, heads=heads, causal=causal, segments=segments)


def both(projected, bias, segments, above, heads, causal):
    """Value and gradients by each."""

    def one(function):
        value, back = jax.vjp(lambda *inputs: function(*inputs, segments, heads, causal), projected, bias)
        return value, *back(above)

    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda: one(short_attention))(), jax.jit(lambda: one(by_xla))()


def assert_same(found, expected, tolerance: float = 1e-5) -> None:
    """Relative to the largest number of each array: both are float32, sums of many terms in another order."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * float(jnp.abs(other).max()))


def without_key_bias(gradients):
    """All but a gradient that is 0 but for rounding: a key's bias adds as much to all logits of a query."""
    flat = jax.tree_util.tree_flatten_with_path(gradients)[0]
    return [leaf for path, leaf in flat if "key/bias" not in jax.tree_util.keystr(path, simple=True, separator="/")]


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_xlas(case) -> None:
    rows, length, heads, head, causal, packed = CASES[case]
    projected, bias, segments, above = inputs(rows, length, heads, head, packed)
    assert_same(*both(projected, bias, segments, above, heads, causal))


def test_bfloat16_is_as_near_to_float32_as_xlas() -> None:
    rows, length, heads, head, causal, packed = 2, 48, 2, 64, True, True
    projected, bias, segments, above = inputs(rows, length, heads, head, packed, jnp.bfloat16)
    ours, xlas = both(projected, bias, segments, above, heads, causal)
    wide = (projected + bias.astype(jnp.bfloat16)[None, None]).astype(jnp.float32)  # what both of them multiply
    exact, _ = both(wide, 0 * bias, segments, above.astype(jnp.float32), heads, causal)
    for one, other, expected in zip(ours, xlas, exact, strict=True):
        scale = jnp.abs(expected).max()
        error, others_error = (float(jnp.abs(each - expected).max() / scale) for each in (one, other))
        assert error < 1.2 * others_error + 1e-3, (error, others_error)
        assert error < 2**-6  # bfloat16 has 8 bits, of which sums lose some


def test_the_last_block_may_be_partly_empty(monkeypatch) -> None:
    """Five rows in blocks of two, whose last would count a row that does not exist in the bias's gradient."""
    rows, length, heads, head, causal, packed = 5, 16, 2, 64, True, True
    projected, bias, segments, above = inputs(rows, length, heads, head, packed)
    monkeypatch.setattr("flair_jax.models.short_attention._BUFFERS", 2 * 2 * 8 * length * heads * head * 4)
    gradient = jax.grad(lambda each: short_attention(each, bias, segments, heads, causal).sum())
    assert "grid=(3,)" in str(jax.make_jaxpr(gradient)(projected)).replace(" ", "")
    assert_same(*both(projected, bias, segments, above, heads, causal))


def by(attention: str, model: Flair) -> Flair:
    return Flair(dataclasses.replace(model.config, attention=attention))


def text_gradients(model: Flair, params, tokens):
    return jax.grad(lambda params: (model.encode_text(params, tokens) ** 2).sum())(params)["text"]


@pytest.mark.parametrize(("sizes", "rows"), [((8, 1, 1), 8), ((2, 2, 2), 8), ((2, 2, 2), 6)], ids=str)
def test_a_mesh_changes_nothing_and_exchanges_no_activations(golden_model, sizes, rows) -> None:
    """Six rows do not divide over four devices: each then computes them all."""
    model, params = golden_model
    params = dict(params, text=jax.tree.map(jnp.asarray, params["text"]))
    length = model.config.text.context_length
    tokens = jax.random.randint(jax.random.key(1), (rows, length), 1, model.config.text.vocab_size - 1)
    expected = jax.jit(text_gradients, static_argnums=0)(by("xla", model), params, tokens)
    mesh = jax.make_mesh(sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, P(("data", "fsdp") if rows == 8 else None))
        everywhere = jax.device_put(params, NamedSharding(mesh, P()))
        tokens = jax.device_put(tokens, place)
        compiled = jax.jit(text_gradients, static_argnums=0).lower(by("pallas", model), everywhere, tokens).compile()
        found = compiled(everywhere, tokens)
    assert_same(without_key_bias(found), without_key_bias(expected))
    if rows == 8:
        kinds = {kind for kind in ("all-to-all", "collective-permute") if f" {kind}(" in compiled.as_text()}
        assert not kinds
        gathered = [line for line in compiled.as_text().splitlines() if " all-gather(" in line]
        assert not any(f"{length}," in line.split(" all-gather(")[0] for line in gathered), gathered


def test_the_whole_model_is_the_same(golden_model) -> None:
    """Features of both towers and every gradient, inside rematerialisation and the loop over layers, also batched."""
    model, params = golden_model
    size = model.config.vision.image_size
    images = jax.random.normal(jax.random.key(1), (2, size, size, 3))
    tokens = jax.random.randint(jax.random.key(2), (3, model.config.text.context_length), 1, 299)

    def loss(params, attention):
        changed = Flair(dataclasses.replace(model.config, attention=attention, remat="full"))
        logits = jax.vmap(lambda image: changed.logits(params, image[None], tokens))(images)
        return (logits**2).mean(), logits

    values = [jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(params, name) for name in ("pallas", "xla")]
    (found, logits), (expected, xlas) = values
    assert_same(logits, xlas)
    assert_same(without_key_bias(found), without_key_bias(expected))


def test_within_anothers_shard_map(golden_model) -> None:
    model, params = golden_model
    tokens = jax.random.randint(jax.random.key(1), (8, model.config.text.context_length), 1, 299)
    expected = jax.jit(by("xla", model).encode_text)(params, tokens)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        encode = jax.shard_map(
            by("pallas", model).encode_text, in_specs=(P(), P("data")), out_specs=P("data"), check_vma=False
        )
        found = jax.jit(encode)(
            jax.device_put(params, NamedSharding(mesh, P())), jax.device_put(tokens, NamedSharding(mesh, P("data")))
        )
    assert_same(found, expected)


B16 = {"width": 768, "heads": 12, "length": 197, "segments": False, "dtype": "bfloat16"}


def test_auto_takes_what_is_faster_and_works() -> None:
    def auto(**changes):
        return choose("auto", **{**B16, **changes})

    assert auto(platform="cpu") == ("xla", "")
    assert auto(platform="tpu") == ("pallas", "")
    assert auto(platform="tpu", dtype="float32") == ("xla", "not pallas: it is for bfloat16")
    assert auto(platform="tpu", length=257) == (
        "xla",
        "not pallas: the kernel takes rows of up to 256 tokens, these have 257",
    )
    assert "heads that fill 128 lanes evenly, these are 16 of 88" in auto(platform="tpu", width=1408, heads=16).reason
    assert auto(platform="gpu").reason == "not cudnn: cuDNN needs an NVIDIA GPU"  # there is none here
    with jax.set_mesh(jax.make_mesh((2, 1, 4), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)):
        assert "these are 3 of 64 on each of 4 devices" in auto(platform="tpu").reason


@pytest.mark.parametrize(
    ("setting", "changes", "message"),
    [
        ("pallas", {"length": 257}, "attention='pallas': the kernel takes rows of up to 256 tokens, these have 257"),
        ("cudnn", {}, "attention='cudnn': cuDNN needs an NVIDIA GPU"),
        ("cudnn", {"dtype": "float32"}, "attention='cudnn': cuDNN's attention takes bfloat16"),
    ],
)
def test_a_choice_that_cannot_work_says_why(setting, changes, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message + "; attention='auto' chooses what works")):
        choose(setting, **{**B16, **changes})


def test_cudnns_limits(monkeypatch) -> None:
    """Those that JAX checks, so that `auto` never runs into them."""

    class Device:
        compute_capability = "8.6"

    class Backend:
        platform_version = "PJRT C API\ncuda 13000"

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Device])
    monkeypatch.setattr(jax.extend.backend, "get_backend", lambda: Backend)
    assert choose("auto", **B16, platform="gpu") == ("cudnn", "")
    packed = {**B16, "segments": True}
    assert choose("auto", **{**packed, "length": 128}, platform="gpu").name == "cudnn"
    assert "an even number of tokens, these have 197" in choose("auto", **packed, platform="gpu").reason
    assert "these have 192" in choose("auto", **{**B16, "heads": 4}, platform="gpu").reason
    Device.compute_capability = "7.5"
    assert "compute capability 8.0, this one's is 7.5" in choose("auto", **B16, platform="gpu").reason


def test_the_line_names_towers_by_who_computes_them() -> None:
    config = dataclasses.replace(FlairConfig(), dtype="bfloat16")
    assert describe_choices(config) == "attention by xla (image tower, text tower)"
    assert describe_choices(config, own=("vision", "text")) == "attention by own towers"
    large = dataclasses.replace(config, vision=VisionConfig(patch_size=14), attention="pallas")
    with pytest.raises(ConfigError, match="these have 257"):
        describe_choices(large)
    assert describe_choices(large, own=("vision",)) == "attention by pallas (text tower)"
    with pytest.raises(ConfigError, match="these have 512"):
        describe_choices(large, 512, own=("vision",))
