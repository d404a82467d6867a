"""Every optimiser of the table: against plain Optax layer by layer, its decay, its rates, and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numeric import assert_close
from small_run import SmallRun, settings
from test_optim import SETTINGS

from flair_jax.errors import ConfigError
from flair_jax.setting_checks import OPTIMIZER_NAMES as NAMES
from flair_jax.settings import OptimizerSettings
from flair_jax.train.layers import map_names, matrix_axes
from flair_jax.train.locked import lock_mask
from flair_jax.train.optim import OPTIMIZERS, decay_mask, make_optimizer

RATE, DECAY = 1e-2, 0.5


def options(**changes) -> OptimizerSettings:
    return OptimizerSettings(**(SETTINGS | {"learning_rate": RATE, "weight_decay": DECAY} | changes))


def random_like(params, seed: int, layers: bool = True):
    """Numbers whose size differs from layer to layer, so that mixing layers would show."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.standard_normal(leaf.shape).astype(np.float32)
        if layers and "blocks" in jax.tree_util.keystr(path):
            values *= (10.0 ** np.arange(len(values))).reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32)
        return jnp.asarray(values)

    return jax.tree.map_with_path(draw, params)


def updates_of(optimizer: optax.GradientTransformation, params, steps: int = 2):
    """The updates of the last of some steps, with the parameters as they were and gradients that the step decides."""

    update, state = jax.jit(optimizer.update), optimizer.init(params)
    for step in range(steps):
        updates, state = update(random_like(params, step), state, params)
    return jax.device_get(updates)


WIDE = {
    "vision": {
        "blocks": {"mlp": {"up": {"kernel": (3, 128, 256), "bias": (3, 256)}}, "ln_1": {"scale": (3, 128)}},
        "patch_embedding": (4, 4, 3, 128),
        "position_embedding": (5, 128),
        "projection": {"kernel": (128, 130)},
    },
    "text": {"blocks": {"mlp": {"down": {"kernel": (2, 256, 128)}}}, "token_embedding": (300, 128)},
    "pooling": {"query": {"kernel": (128, 128)}},
    "logit_scale": (),
}


@pytest.fixture(scope="module")
def wide():
    """A few parameters, wide enough for Adafactor to factor them."""
    shapes = jax.tree.map(np.zeros, WIDE, is_leaf=lambda node: isinstance(node, tuple))
    return random_like(shapes, 99)


def plain(name: str, b1: float) -> optax.GradientTransformation:
    """Optax's own of a matrix."""
    if name == "muon":
        return optax.contrib.muon(RATE, beta=b1, weight_decay=DECAY, consistent_rms=0.2)
    return optax.chain(
        optax.adafactor(multiply_by_parameter_scale=False, momentum=b1 or None, dtype_momentum=jnp.bfloat16),
        optax.add_decayed_weights(-DECAY),
        optax.scale(RATE),
    )


@pytest.mark.parametrize(
    ("name", "b1", "rtol"),
    [
        ("muon", 0.9, 1e-5),  # sums of products in another order; found: 2e-6
        ("adafactor", 0.0, 1e-5),  # means could be taken in another order; found: 0
        ("adafactor", 0.9, 4e-3),  # the momentum is rounded to bfloat16, 2^-8; found: 0
    ],
)
def test_a_stack_is_updated_layer_by_layer(wide, name: str, b1: float, rtol: float) -> None:
    """As Optax updates each layer's matrix alone."""
    ours = updates_of(make_optimizer(options(name=name, b1=b1), lambda step: RATE, ()), wide)
    optimizer = plain(name, b1)
    update = jax.jit(optimizer.update)
    for tower, part in (("vision", "up"), ("text", "down")):
        stack = wide[tower]["blocks"]["mlp"][part]["kernel"]
        for layer, matrix in enumerate(stack):
            state = optimizer.init(matrix)
            for step in range(2):
                grads = random_like(wide, step)[tower]["blocks"]["mlp"][part]["kernel"]
                expected, state = update(grads[layer], state, matrix)
            found = ours[tower]["blocks"]["mlp"][part]["kernel"][layer]
            assert_close(found, expected, rtol)


def test_muon_takes_matrices_only(wide) -> None:
    """The rest is what AdamW does to it, exactly."""
    axes = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(
            matrix_axes(wide), is_leaf=lambda node: isinstance(node, optax.contrib.MuonDimensionNumbers)
        )
    }
    matrices = {
        *("vision/blocks/mlp/up/kernel", "vision/projection/kernel"),
        *("text/blocks/mlp/down/kernel", "pooling/query/kernel"),
    }
    assert axes == matrices
    muon = updates_of(make_optimizer(options(name="muon"), lambda step: RATE, ()), wide)
    adamw = updates_of(make_optimizer(options(), lambda step: RATE, ()), wide)
    equal = jax.tree.map(np.array_equal, muon, adamw)
    assert equal == map_names(lambda name: name not in matrices, wide)


def test_muon_takes_every_kernel_of_the_model(small_model) -> None:
    _, params = small_model
    kernels = map_names(lambda name: name.endswith("kernel"), params)
    axes = matrix_axes(params)
    is_axes = lambda node: node is None or isinstance(node, optax.contrib.MuonDimensionNumbers)  # noqa: E731
    assert jax.tree.map(lambda each: each is not None, axes, is_leaf=is_axes) == kernels


def test_the_table_has_what_the_settings_know() -> None:
    assert tuple(OPTIMIZERS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_decoupled_and_by_the_same_mask(wide, name: str) -> None:
    """The updates with it and without differ by learning rate x decay x parameter, where it applies."""
    with_it, without = (
        updates_of(make_optimizer(options(name=name, weight_decay=decay), lambda step: RATE, ()), wide)
        for decay in (DECAY, 0.0)
    )
    expected = jax.tree.map(lambda leaf, decays: -RATE * DECAY * decays * leaf, wide, decay_mask(wide))
    for path, leaf in jax.tree.leaves_with_path(jax.tree.map(np.subtract, with_it, without)):
        wanted = dict(jax.tree.leaves_with_path(expected))[path]
        np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-6, err_msg=str(path))  # a difference of float32


@pytest.mark.parametrize("name", NAMES)
def test_locked_towers_have_no_state(small_model, name: str) -> None:
    _, params = small_model
    optimizer = make_optimizer(options(name=name, clip_norm=1.0), lambda step: RATE, ("text",))
    shapes = jax.eval_shape(optimizer.init, params)
    assert not [path for path, _ in jax.tree.leaves_with_path(shapes) if "token_embedding" in str(path)]
    updates = updates_of(optimizer, params, steps=1)
    moved = jax.tree.map(lambda update: bool(np.any(update)), updates)
    assert moved == jax.tree.map(lambda locked: not locked, lock_mask(params, ("text",)))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_clipped(wide, name: str) -> None:
    """After the first step, where the size of gradients is all that momentums can know of them."""
    grads = random_like(wide, 0)
    scaled = jax.tree.map(lambda grad: grad / optax.tree.norm(grads) * 1e-3, grads)
    optimizer = make_optimizer(options(name=name, clip_norm=1e-3), lambda step: RATE, ())
    free = make_optimizer(options(name=name), lambda step: RATE, ())
    clipped, _ = jax.jit(optimizer.update)(grads, optimizer.init(wide), wide)
    expected, _ = jax.jit(free.update)(scaled, free.init(wide), wide)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), clipped, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lock", [(), ("text",)])
def test_rates_by_layer_and_tower(wide, name: str, lock) -> None:
    """Factors of the whole update, decay included: by hand for two towers of 3 and 2 layers."""
    rates = {"layer_decay": 0.5, "image_rate": 0.1, "text_rate": 3.0}
    full = updates_of(make_optimizer(options(name=name), lambda step: RATE, lock), wide)
    ours = updates_of(make_optimizer(options(name=name, **rates), lambda step: RATE, lock), wide)
    expected = {
        "vision/blocks/": 0.1 * np.array([0.25, 0.5, 1], np.float32),
        "vision/patch_embedding": np.float32(0.1 * 0.125),
        "vision/position_embedding": np.float32(0.1 * 0.125),
        "vision/projection": np.float32(0.1),
        "text/blocks/": 3 * np.array([0.5, 1], np.float32),
        "text/token_embedding": np.float32(3 * 0.25),
        "pooling/": np.float32(1),
        "logit_scale": np.float32(1),
    }
    for path, update in jax.tree.leaves_with_path(ours):
        parameter = jax.tree_util.keystr(path, simple=True, separator="/")
        factor = next(value for prefix, value in expected.items() if parameter.startswith(prefix))
        wanted = dict(jax.tree.leaves_with_path(full))[path] * factor.reshape(
            factor.shape + (1,) * (update.ndim - factor.ndim)
        )
        np.testing.assert_allclose(update, wanted, rtol=1e-6, err_msg=parameter)


def test_rates_of_1_add_nothing_to_the_state(wide) -> None:
    """So that a run of before there were rates goes on."""
    state = make_optimizer(options(), lambda step: RATE, ()).init(wide)
    assert jax.tree.structure(state) == jax.tree.structure(
        optax.chain(optax.adamw(lambda step: RATE, mask=decay_mask)).init(wide)
    )


def test_layer_decay_without_layers() -> None:
    params = {"vision": {"stages": {"kernel": jnp.ones((2, 2))}}}
    optimizer = make_optimizer(options(layer_decay=0.5), lambda step: RATE, ())
    with pytest.raises(
        ConfigError, match="layer_decay=0.5: the vision tower has no layers stacked under `blocks`; set"
    ):
        optimizer.update(params, optimizer.init(params), params)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(tmp_path, name: str) -> None:
    """Twelve steps on one batch; from 0.9 down by at least a tenth."""
    changes = {"optimizer.name": name, "optimizer.layer_decay": 0.9, "optimizer.learning_rate": 3e-3, "steps": 100}
    run = SmallRun(tmp_path, settings(tmp_path, **changes, **{"optimizer.weight_decay": 0.01}))
    _, losses = run.train(run.first(), [0] * 12)
    assert losses[-1] < 0.9 * losses[0], losses
    assert all(np.isfinite(losses))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sgd"}, "config.optimizer.name='sgd' must be one of adamw, lion, muon, adafactor$"),
        ({"name": "adam"}, "name='adam' must be one of adamw, lion, muon, adafactor. Did you mean \"adamw\".$"),
        ({"layer_decay": 0.0}, "config.optimizer.layer_decay=0.0 must be greater than 0"),
        ({"layer_decay": 1.5}, "config.optimizer.layer_decay=1.5 must be at most 1"),
        ({"image_rate": 0.0}, "config.optimizer.image_rate=0.0 must be greater than 0"),
        ({"text_rate": -1.0}, "config.optimizer.text_rate=-1.0 must be greater than 0"),
        ({"ema_decay": 1.0}, "config.optimizer.ema_decay=1.0 must be from 0 to below 1"),
        ({"ema_decay": -0.1}, "config.optimizer.ema_decay=-0.1 must be from 0 to below 1"),
    ],
)
def test_invalid_settings(tmp_path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, **{f"optimizer.{name}": value for name, value in changes.items()})
