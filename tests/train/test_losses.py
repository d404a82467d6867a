"""The loss against the PyTorch original, and against itself on other meshes, groups and blocks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numeric import assert_close

from flair_jax.errors import ConfigError
from flair_jax.train.loss_context import Features
from flair_jax.train.losses import flair_loss
from flair_jax.train.terms import sample_captions
from flair_jax.weights.param_map import torch_from_params

TERMS = {"tcs_mps": ("tcs", "mps"), "tcs": ("tcs",)}


def a_mesh(*sizes: int, names: tuple[str, ...] = ("data",)) -> jax.sharding.Mesh:
    count = int(np.prod(sizes))
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes), devices=jax.devices()[:count])


def inputs(data: dict, params: dict, scale, bias) -> tuple[dict, Features]:
    params = {**params, "logit_scale": np.float32(scale), "logit_bias": np.float32(bias)}
    names = ("image_features", "image_tokens", "text_features")
    return params, Features(*(data[name] for name in names))


def with_gradients(model, params, features, **settings):
    """Loss, and gradients with respect to parameters and features."""

    def total(params, features):
        return flair_loss(model, params, features, jax.random.key(0), **settings).total

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(params, features)


def assert_gradients_close(ours_params, ours_features, theirs: dict, model) -> None:
    """By norm, per tensor; 1e-4 is what the golden data's README asks of gradients, and 1e-5 is measured and held here.

    Tensors whose gradient is rounding noise are compared with the largest: softmax does not change when all keys move
    by one vector, but for the empty slot.
    """
    ours = torch_from_params(jax.device_get(ours_params), model.config)
    ours |= dict(zip(("image_features", "image_tokens", "text_features"), ours_features, strict=True))
    largest = max(np.linalg.norm(gradient) for gradient in theirs.values())
    for name, gradient in theirs.items():
        difference = np.linalg.norm(np.asarray(ours[name]) - gradient)
        assert difference <= 1e-5 * max(np.linalg.norm(gradient), 1e-2 * largest), name


def golden_gradients(data, prefix: str) -> dict:
    return {
        name.removeprefix(f"{prefix}/grad/"): data[name] for name in data.files if name.startswith(f"{prefix}/grad/")
    }


@pytest.mark.golden
@pytest.mark.parametrize("pairs_per_block", [8192, 7], ids=["one block", "many blocks"])
@pytest.mark.parametrize("terms", TERMS)
def test_golden_loss_and_gradients(golden, golden_model, terms: str, pairs_per_block: int) -> None:
    model, base = golden_model
    data = np.load(golden / "loss.npz")
    cases = sorted({name.split("/")[0] for name in data.files})
    assert cases
    for case in cases:
        arrays = {name.split("/", 1)[1]: data[name] for name in data.files if name.startswith(f"{case}/")}
        params, features = inputs(arrays, base, arrays["logit_scale"], arrays["logit_bias"])
        drawn = jnp.asarray(arrays["sampled_indices"], jnp.int32)
        loss, (ours_params, ours_features) = with_gradients(
            model,
            params,
            features,
            group_size=len(features.image),
            terms=TERMS[terms],
            pairs_per_block=pairs_per_block,
            sampler=lambda key, group, row, drawn=drawn: drawn[row],
        )
        assert_close(loss, arrays[f"{terms}/loss"], rtol=1e-5)
        assert_gradients_close(ours_params, ours_features, golden_gradients(data, f"{case}/{terms}"), model)


@pytest.mark.golden
@pytest.mark.parametrize("terms", TERMS)
def test_golden_ring(golden, golden_model, terms: str) -> None:
    """One device, and as many as the original had ranks: the mean of the ranks' losses, and their gradients."""
    model, base = golden_model[0], jax.device_get(golden_model[1])
    data = np.load(golden / "loss_distributed.npz")
    worlds = sorted({int(name.split("/")[0][1:]) for name in data.files if name.startswith("W")})
    assert worlds
    for world in worlds:
        ranks = [f"W{world}/rank{rank}" for rank in range(world)]
        arrays = {
            name: np.concatenate([data[f"{rank}/{name}"] for rank in ranks])
            for name in ("image_features", "image_tokens", "text_features")
        }
        params, features = inputs(arrays, base, data["logit_scale"], data["logit_bias"])
        drawn = jnp.stack([data[f"{rank}/sampled_indices"] for rank in ranks]).astype(jnp.int32)
        loss = np.mean([data[f"{rank}/{terms}/loss"] for rank in ranks])
        theirs = [golden_gradients(data, f"{rank}/{terms}") for rank in ranks]
        # Of a rank's inputs the original keeps the gradient of the ranks' sum; ours is of their mean.
        expected = {name: np.concatenate([each[name] for each in theirs]) / world for name in arrays}
        expected |= {name: np.mean([each[name] for each in theirs], axis=0) for name in theirs[0] if name not in arrays}
        for devices in (1, world):
            with jax.set_mesh(a_mesh(devices)):
                ours, (ours_params, ours_features) = with_gradients(
                    model,
                    params,
                    features,
                    group_size=len(features.image) // world,
                    terms=TERMS[terms],
                    sampler=lambda key, group, row, drawn=drawn: drawn[group, row],
                )
            assert_close(ours, loss, rtol=1e-5)
            assert_gradients_close(ours_params, ours_features, expected, model)


@pytest.fixture(scope="module")
def batch() -> Features:
    """16 images with 3 captions each."""
    rng = np.random.default_rng(1)
    shapes = ((16, 16), (16, 4, 16), (48, 16))
    return Features(*(jnp.asarray(rng.normal(0, 1, shape), np.float32) for shape in shapes))


@pytest.mark.parametrize(("group_size", "pairs_per_block"), [(16, 8192), (16, 5), (8, 40), (4, 8192), (1, 3)])
def test_meshes_and_blocks_change_nothing(small_model, batch, group_size: int, pairs_per_block: int) -> None:
    """Losses within 1e-5 relative: sums run in another order, float32 has 6e-8, and there are some thousand terms."""
    model, params = small_model
    expected, gradients = with_gradients(model, params, batch, group_size=group_size)
    for mesh in (a_mesh(8), a_mesh(2, 2, 2, names=("data", "fsdp", "tensor"))):
        with jax.set_mesh(mesh):
            rows = NamedSharding(mesh, P(mesh.axis_names))
            sharded = jax.tree.map(lambda leaf, rows=rows: jax.device_put(leaf, rows), batch)
            loss, ours = with_gradients(model, params, sharded, group_size=group_size, pairs_per_block=pairs_per_block)
        assert_close(loss, expected, rtol=1e-5)
        assert_close(ours[0]["pooling"]["out"]["kernel"], gradients[0]["pooling"]["out"]["kernel"], rtol=1e-4)
        for one, other in zip(ours[1], gradients[1], strict=True):
            assert_close(one, other, rtol=1e-4)


def test_drawn_captions_are_ascending_and_uniform() -> None:
    draw = jax.jit(
        lambda step, row: sample_captions(
            jax.random.fold_in(jax.random.key(0), step), jnp.int32(0), row, group_size=5, captions_per_image=3
        )
    )
    drawn = np.stack([draw(step, step % 5) for step in range(3000)])
    assert (np.diff(drawn, axis=1) > 0).all()
    for row in range(5):
        mine = drawn[row::5]
        assert (mine[:, row : row + 3] == np.arange(row * 3, row * 3 + 3)).all()
        others = np.delete(mine, np.s_[row : row + 3], axis=1)
        assert (others // 3 == np.delete(np.arange(5), row)).all()
        counts = np.stack([(others % 3 == choice).sum(axis=0) for choice in range(3)])
        assert np.abs(counts / len(mine) - 1 / 3).max() < 0.09  # 600 draws: 4.7 standard deviations


def test_groups_and_rows_draw_differently() -> None:
    key = jax.random.key(3)
    draw = partial(sample_captions, key, group_size=40, captions_per_image=4)
    one, other_row, other_group = (np.asarray(draw(*map(jnp.int32, at))) for at in ((0, 0), (0, 39), (1, 0)))
    assert (one[4:] % 4 != other_group[4:] % 4).any()
    assert (one[4:42] % 4 != other_row[1:39] % 4).any()


def test_no_more_than_the_text_features_crosses_devices(small_model, batch) -> None:
    model, params = small_model
    mesh = a_mesh(8)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, P("data"))
        sharded = jax.tree.map(lambda leaf: jax.device_put(leaf, rows), batch)
        loss = partial(flair_loss, model, group_size=16)
        program = jax.jit(jax.grad(lambda p, f, k: loss(p, f, k).total, argnums=(0, 1)))
        text = program.lower(params, sharded, jax.random.key(0)).compile().as_text()
    gathers = [line for line in text.splitlines() if " all-gather(" in line or " all-gather-start(" in line]
    assert len(gathers) == 1
    assert "f32[48,16]" in gathers[0]
    assert " all-to-all(" not in text
    assert " collective-permute(" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 5}, "loss groups of 5 do not divide a batch of 16"),
        ({"group_size": 16, "terms": ("clip",)}, "not among tcs, mps"),
    ],
)
def test_wrong_settings(small_model, batch, change, message) -> None:
    model, params = small_model
    with pytest.raises(ConfigError, match=message):
        flair_loss(model, params, batch, jax.random.key(0), **change)


def test_batch_must_divide_over_the_mesh(small_model, batch) -> None:
    model, params = small_model
    few = jax.tree.map(lambda leaf: leaf[: len(leaf) // 4 * 3], batch)
    with jax.set_mesh(a_mesh(8)), pytest.raises(ConfigError, match="12 images does not divide over 8 devices"):
        flair_loss(model, params, few, jax.random.key(0), group_size=12)
