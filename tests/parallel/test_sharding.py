"""The table of partitions, for the parameters and every optimiser's state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from numeric import assert_close
from test_optim import SETTINGS

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair
from flair_jax.models.presets import PRESETS
from flair_jax.parallel.sharding import make_mesh, shardings
from flair_jax.setting_checks import OPTIMIZER_NAMES
from flair_jax.settings import MeshSettings, OptimizerSettings
from flair_jax.train.optim import make_optimizer
from flair_jax.train.step import TrainState, abstract_state

SHAPES = {
    "vision": {
        "blocks": {
            "attention": {"query": {"kernel": (2, 128, 128), "bias": (2, 128)}, "out": {"kernel": (2, 128, 128)}},
            "mlp": {"up": {"kernel": (2, 128, 256)}, "down": {"kernel": (2, 256, 128)}},
        },
        "patch_embedding": (4, 4, 3, 128),
        "projection": {"kernel": (128, 130)},
    },
    "text": {"blocks": {"mlp": {"up": {"kernel": (3, 128, 512)}}}, "token_embedding": (256, 128)},
    "logit_scale": (),
}


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1):
    return make_mesh(MeshSettings(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])


def optimizer_named(name: str, **changes) -> optax.GradientTransformation:
    settings = OptimizerSettings(**(SETTINGS | {"name": name} | changes))
    return make_optimizer(settings, lambda step: 1e-2, ())


def random_params(seed: int):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.standard_normal(shape).astype(np.float32),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def specs(tree) -> dict[str, P]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.spec
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
@pytest.mark.parametrize("sizes", [{"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 8}])
def test_updates_are_those_of_one_device(name: str, sizes: dict[str, int]) -> None:
    """Within 1e-5, as sums are taken in parts; with Adafactor's momentum within what bfloat16 rounds, 2^-8."""
    found = []
    optimizer = optimizer_named(name, layer_decay=0.5, clip_norm=1.0)
    for mesh in (mesh_of(), mesh_of(**sizes)):
        with jax.set_mesh(mesh):
            shapes = jax.eval_shape(lambda p: TrainState(jnp.zeros(()), p, optimizer.init(p)), random_params(0))
            lie = shardings(shapes, mesh)
            params = jax.device_put(random_params(0), lie.params)
            state = jax.jit(optimizer.init, out_shardings=lie.opt_state)(params)
            update = jax.jit(optimizer.update, out_shardings=(lie.params, lie.opt_state))
            for seed in (1, 2):
                updates, state = update(jax.device_put(random_params(seed), lie.params), state, params)
        found.append(jax.device_get(updates))
    jax.tree.map(lambda a, b: assert_close(b, a, 4e-3 if name == "adafactor" else 1e-5), *found)


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_large_state_is_sharded_at_full_size(name: str, caplog) -> None:
    """ViT-B/16 over 2 x 2 x 2: what is replicated is less than a hundredth of the parameters, and no array is large."""
    model, mesh = Flair(PRESETS["ViT-B-16-FLAIR"]), mesh_of(2, 2, 2)
    state = abstract_state(model, optimizer_named(name), mesh, ema=True)
    whole = [leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.sharding.is_fully_replicated]
    assert sum(whole) < 0.01 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert max(whole) < 2**20
    assert specs(jax.tree.map(lambda leaf: leaf.sharding, state.ema)) == specs(
        jax.tree.map(lambda leaf: leaf.sharding, state.params)
    )
    assert not caplog.messages


def test_factored_moments_keep_what_is_left_of_their_parameters_axes() -> None:
    optimizer, mesh = optimizer_named("adafactor"), mesh_of(1, 4, 2)
    params = random_params(0)
    found = specs(shardings(TrainState(jnp.zeros(()), params, jax.eval_shape(optimizer.init, params)), mesh))
    of = {name.split("inner_state/", 1)[-1]: spec for name, spec in found.items()}
    assert of["0/v_row/vision/blocks/mlp/up/kernel"] == P(None, "fsdp")  # [2, 128]
    assert of["0/v_col/vision/blocks/mlp/up/kernel"] == P(None, "tensor")  # [2, 256]
    assert of["0/v_row/text/token_embedding"] == P()  # [128], the axis that is not split
    assert of["0/v_col/text/token_embedding"] == P("fsdp")  # [256]
    assert of["0/v/vision/blocks/mlp/up/kernel"] == P()  # a placeholder, [2, 1]
    assert of["0/v/vision/blocks/attention/query/bias"] == P(None, "tensor")
    assert of["2/ema/vision/blocks/mlp/down/kernel"] == P(None, "tensor", "fsdp")


def test_what_is_not_known_or_does_not_divide_is_replicated_and_said_if_large(caplog) -> None:
    params = {"vision": {"blocks": {"mlp": {"up": {"kernel": np.zeros((2, 6, 8), np.float32)}}}}}
    kernel = lambda *shape: {"vision": {"blocks": {"mlp": {"up": {"kernel": np.zeros(shape, np.float32)}}}}}  # noqa: E731
    state = {"odd": kernel(2, 7), "row": kernel(2, 6), "flat": np.zeros(2**20, np.float32), "small": np.zeros(9)}
    found = specs(shardings(TrainState(jnp.zeros(()), params, state), mesh_of(fsdp=2, tensor=4)))
    assert found["opt_state/odd/vision/blocks/mlp/up/kernel"] == found["opt_state/flat"] == P()
    assert found["opt_state/row/vision/blocks/mlp/up/kernel"] == P(None, "fsdp")
    (line,) = caplog.messages
    assert line.startswith(
        "config.mesh: every device holds a copy of 1 large array of the optimiser's state, 4 MB, for"
    )
    assert line.endswith("opt_state/flat")


def test_a_parameter_that_does_not_divide_is_an_error() -> None:
    params = {"text": {"token_embedding": np.zeros((9, 4))}}
    with pytest.raises(ConfigError, match=r"fsdp=2 does not divide an axis of text/token_embedding, shape \(9, 4\)"):
        shardings(params, mesh_of(fsdp=2))
