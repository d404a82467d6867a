"""Towers that are locked but for their last groups, as open_clip counts these."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from test_step import settings_for

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair
from flair_jax.parallel.sharding import make_mesh
from flair_jax.setting_checks import OPTIMIZER_NAMES
from flair_jax.settings import TrainSettings, UnlockedGroups
from flair_jax.train.layers import name_of
from flair_jax.train.locked import keep_locked, lock_mask
from flair_jax.train.optim import make_optimizer
from flair_jax.train.step import Batch, init_state, make_train_step


def masks(params, lock, **groups) -> dict[str, object]:
    found = lock_mask(params, lock, UnlockedGroups(**groups))
    return {
        name_of(path): mask if isinstance(mask, bool) else mask.ravel().tolist()
        for path, mask in jax.tree.leaves_with_path(found)
    }


@pytest.mark.parametrize(
    ("groups", "embedding", "layers", "norm", "projection"),
    [
        (0, True, True, True, True),
        (1, True, True, True, False),
        (2, True, [True, True, False], False, False),
        (3, True, [True, False, False], False, False),
        (4, True, False, False, False),
    ],
)
def test_groups_by_hand(small_model, groups: int, embedding, layers, norm, projection) -> None:
    """The image tower has three layers, so five groups."""
    found = masks(small_model[1], ("image",), image=groups)
    for name in ("class_token", "patch_embedding", "position_embedding", "ln_pre/scale", "ln_pre/bias"):
        assert found[f"vision/{name}"] == embedding
    for name in ("attention/query/kernel", "ln_1/bias", "mlp/down/kernel"):
        of_layers = found[f"vision/blocks/{name}"]
        assert of_layers == layers or (layers is False and of_layers == [False] * 3)
    assert found["vision/ln_post/scale"] == norm
    assert found["vision/projection/kernel"] == projection
    assert not any(locked for name, locked in found.items() if not name.startswith("vision/"))


def test_groups_of_the_text_tower(small_model) -> None:
    found = masks(small_model[1], ("image", "text"), text=2)
    assert (found["text/token_embedding"], found["text/position_embedding"]) == (True, True)
    assert found["text/blocks/ln_2/scale"] == [True, False]
    assert (found["text/ln_final/bias"], found["text/projection/kernel"]) == (False, False)
    assert all(locked is True for name, locked in found.items() if name.startswith("vision/"))


@pytest.fixture(scope="module")
def batch(small_model) -> Batch:
    rng = np.random.default_rng(0)
    tokens = np.zeros((16, 8), np.int32)
    tokens[:, :5] = rng.integers(1, 49000, (16, 5))
    tokens[:, 5] = 49407
    return Batch(rng.integers(0, 256, (8, 32, 32, 3), np.uint8), tokens)


def stepped(model: Flair, params, settings: TrainSettings, batch: Batch, optimizer: optax.GradientTransformation):
    mesh = make_mesh(settings.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = init_state(model, optimizer, mesh, 0, params)
        return jax.device_get(jax.jit(make_train_step(model, optimizer, settings))(state, batch))


@pytest.mark.parametrize("parts", [1, 2])
def test_what_is_free_learns_as_in_a_free_model(small_model, batch, parts: int) -> None:
    """By plain gradient descent, whose step is the gradient; to the last bits, for the same products are computed."""
    model, params = small_model
    params = {**params, "logit_scale": np.float32(2)}  # far from where it is clamped
    shape = {"batch_size": 8, "captions_per_image": 2, "accumulation_steps": parts}
    free = settings_for(**shape)
    locked = settings_for(**shape, lock=("image", "text"), **{"unlocked_groups.image": 3, "unlocked_groups.text": 1})
    sgd = optax.sgd(0.25)
    wanted = stepped(model, params, free, batch, sgd)[0].params
    keeping = keep_locked(sgd, locked.lock, locked.unlocked_groups)
    found, metrics = stepped(model, params, locked, batch, keeping)
    mask = lock_mask(params, locked.lock, locked.unlocked_groups)

    def check(path, before, after, expected, locked) -> None:
        expected = np.where(locked, before, expected)
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-7, err_msg=name_of(path))
        kept = np.broadcast_to(locked, before.shape)
        assert (after[kept] == np.asarray(before)[kept]).all(), name_of(path)

    jax.tree.map_with_path(check, params, found.params, wanted, mask)
    moved = [np.linalg.norm(a - b) for a, b in zip(*map(jax.tree.leaves, (found.params, params)), strict=True)]
    assert metrics.grad_norm == pytest.approx(4 * np.linalg.norm(moved), rel=1e-4), "of what is free alone"


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_no_optimiser_moves_what_is_locked(small_model, name: str) -> None:
    """Nor counts its gradients in the norm, nor lets it decay. Arrays locked as a whole have no state."""
    _, params = small_model
    settings = settings_for(**{"optimizer.name": name, "optimizer.clip_norm": 1.0}).optimizer
    groups = UnlockedGroups(image=2)
    optimizer = make_optimizer(settings, lambda step: 0.1, ("image",), groups)
    mask = lock_mask(params, ("image",), groups)
    huge = jax.tree.map(lambda leaf, locked: np.where(locked, np.float32(1e6), np.ones_like(leaf)), params, mask)
    zero = jax.tree.map(lambda leaf, locked: np.where(locked, np.float32(0), np.ones_like(leaf)), params, mask)

    @jax.jit
    def update(grads):
        return optimizer.update(grads, optimizer.init(params), params)

    updates, state = update(huge)
    expected, _ = update(zero)
    for path, found in jax.tree.leaves_with_path(updates):
        np.testing.assert_array_equal(found, expected_at(expected, path), err_msg=name_of(path))
    wrong = jax.tree.map(lambda leaf, locked: np.broadcast_to(locked, leaf.shape) & (leaf != 0), updates, mask)
    assert not any(leaf.any() for leaf in jax.tree.leaves(wrong))
    moved = np.abs(updates["vision"]["blocks"]["mlp"]["up"]["kernel"]).max(axis=(1, 2))
    assert (moved[:2] == 0).all()
    assert moved[2] > 0
    embedding = params["vision"]["patch_embedding"].shape
    assert all(leaf.shape != embedding for leaf in jax.tree.leaves(state))


def expected_at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree


def test_what_cannot_be_unlocked(small_model) -> None:
    with pytest.raises(ConfigError, match=r"unlocked_groups.text=1: config.lock=\('image',\) does not lock that tower"):
        settings_for(lock=("image",), **{"unlocked_groups.text": 1})
    with pytest.raises(ConfigError, match=r"unlocked_groups.image=-1 must not be negative"):
        settings_for(lock=("image",), **{"unlocked_groups.image": -1})
    _, params = small_model
    with pytest.raises(
        ConfigError, match="image=5: the image tower has 5 groups, so this would lock nothing; leave it"
    ):
        masks(params, ("image",), image=5)
    own = {**params, "vision": {"dense": params["vision"]["projection"]}}
    with pytest.raises(ConfigError, match="image=1: the image tower has no stacked layers, so it is locked as a whole"):
        masks(own, ("image",), image=1)
    assert masks(own, ("image",))["vision/dense/kernel"] is True


def test_a_tower_without_a_projection_has_nothing_to_unlock_at_its_end(small_model) -> None:
    params = small_model[1]
    bare = params | {"vision": {name: part for name, part in params["vision"].items() if name != "projection"}}
    with pytest.raises(ConfigError, match="image=1: the image tower has no projection, .* would train nothing"):
        lock_mask(bare, ("image",), UnlockedGroups(image=1))
    assert masks(bare, ("image",), image=2)["vision/ln_post/scale"] is False


def test_a_run_that_unlocks_more_is_another(small_config) -> None:
    from flair_jax.train.identity import changes, describe_run

    settings = settings_for(lock=("image",), steps=10)
    was = describe_run(settings, 8, small_config)
    more = dataclasses.replace(settings, unlocked_groups=UnlockedGroups(image=2))
    (change,) = changes(was, describe_run(more, 8, small_config), 1)
    assert (change.name, change.was, change.now, change.of_identity) == ("unlocked_groups.image", 0, 2, True)
    before = {name: value for name, value in was.items() if not name.startswith("unlocked_groups")}
    assert not changes(before, was, 1), "a checkpoint from before there was a choice"
