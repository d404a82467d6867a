"""FLOPs of a training step by the formula, against those of the step itself as it is traced."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from flair_jax.configs.default import get_config
from flair_jax.models.flair import Flair
from flair_jax.models.presets import PRESETS
from flair_jax.models.towers import text_tower, vision_tower
from flair_jax.parallel.sharding import make_mesh
from flair_jax.settings import LossSettings, PackingSettings, TrainSettings
from flair_jax.train.flops import count_flops, step_flops, useful_flops
from flair_jax.train.loss_context import Features
from flair_jax.train.losses import make_loss
from flair_jax.train.optim import make_optimizer, make_schedule
from flair_jax.train.step import Batch, abstract_state, make_train_step
from flair_jax.train.terms import TERMS, LossSizes

IMAGES, CAPTIONS = 8, 4


def traced(**changes) -> tuple[float, float]:
    """(counted, by the formula) of a step of `tiny`, in one loss group; nothing is compiled."""
    config = get_config()
    config.update_from_flattened_dict(
        {"model": "tiny", "steps": 10, "optimizer.warmup_steps": 1, "loss.group_size": 0}
        | {"batch_size": IMAGES, "captions_per_image": CAPTIONS}
        | changes
    )
    settings = TrainSettings.from_config(config)
    model, mesh = Flair(settings.model_config()), make_mesh(settings.mesh, jax.devices()[:1])
    schedule = make_schedule(settings.optimizer, 10)
    optimizer = make_optimizer(settings.optimizer, schedule, settings.lock, settings.unlocked_groups)
    size, length = model.config.vision.image_size, model.config.text.context_length
    batch = Batch(
        jax.ShapeDtypeStruct((IMAGES, size, size, 3), jnp.uint8),
        jax.ShapeDtypeStruct((IMAGES * CAPTIONS, length), jnp.int32),
    )
    with jax.set_mesh(mesh):
        step = jax.jit(make_train_step(model, optimizer, settings))
        counted = count_flops(step.trace(abstract_state(model, optimizer, mesh), batch).jaxpr)
    loss = make_loss(settings.loss, settings.group_size)
    return counted, useful_flops(settings, model, loss)


@pytest.mark.parametrize(
    ("lock", "terms"),
    [
        ((), ("tcs", "mps")),
        ((), ("mps",)),
        (("image",), ("tcs", "mps")),
        (("text",), ("tcs",)),
        (("image", "text"), ("tcs", "mps")),
    ],
)
def test_the_formula_is_what_the_step_does(lock: tuple[str, ...], terms: tuple[str, ...]) -> None:
    """Within 1 %; measured 0.4 % at most, where the step differentiates for features of a locked tower all the same."""
    counted, formula = traced(**{"lock": lock, "loss.terms": terms})
    assert counted == pytest.approx(formula, rel=0.01)


def test_of_a_part_of_the_patches() -> None:
    """Within 1 %, as all of them."""
    counted, formula = traced(patch_dropout=0.5)
    assert counted == pytest.approx(formula, rel=0.01)
    assert formula < traced()[1]


def test_of_partly_locked_towers() -> None:
    """With the projections alone it is what the step does; a layer more costs its backward pass.

    The step itself differentiates through the locked layers too, which are not useful work and do not count.
    """
    whole = {"lock": ("image", "text")}
    counted, projections = traced(**whole, **{"unlocked_groups.image": 1, "unlocked_groups.text": 1})
    assert counted == pytest.approx(projections, rel=0.01)
    counts = [traced(**whole, **{"unlocked_groups.image": groups})[1] for groups in (0, 1, 2, 3)]
    tiny = PRESETS["tiny"]
    vision, tokens = tiny.vision, tiny.vision.grid**2 + 1
    layer = IMAGES * tokens * (2 * vision.width**2 * 12 + 4 * tokens * vision.width)
    projection = IMAGES * 2 * tokens * vision.width * tiny.embed_dim
    assert counts[2] - counts[1] == pytest.approx(2 * layer + projection, rel=1e-6)
    assert counts[3] - counts[2] == pytest.approx(2 * layer, rel=1e-6)
    assert counts[1] - counts[0] > projection, "the loss, too, is differentiated for the features now"


@pytest.mark.parametrize("term", TERMS)
def test_a_terms_formula_is_what_the_term_does(term: str) -> None:
    """Without the towers, beside which mps is too little to show. It is exact; tcs leaves out the logits, 0.33 %."""
    model = Flair(PRESETS["tiny"])
    loss = make_loss(LossSettings((term,), group_size=0, pairs_per_block=8192), IMAGES)
    local, width = model.config.vision.grid**2, model.config.embed_dim
    shapes = ((IMAGES, width), (IMAGES, local, width), (IMAGES * CAPTIONS, width))
    features = Features(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    key = jax.eval_shape(lambda: jax.random.key(0))

    def total(params, features, key):
        return loss(model, params, features, key).total

    counted = count_flops(jax.jit(jax.grad(total, (0, 1))).trace(model.abstract_params(), features, key).jaxpr)
    assert counted == pytest.approx(loss.flops(LossSizes(IMAGES, CAPTIONS, local, width, True, True)), rel=4e-3)


def test_towers_of_ones_own_are_counted_as_they_are_traced() -> None:
    """The standard ones, given as one's own: the patch embedding then costs a gradient of the pictures, below 2 %."""
    model = Flair(PRESETS["tiny"])
    own = dataclasses.replace(model, vision=vision_tower(model.config), text=text_tower(model.config))
    loss = make_loss(LossSettings(("mps",), group_size=0, pairs_per_block=8192), IMAGES)
    ours, theirs = (step_flops(each, IMAGES, CAPTIONS, loss) for each in (model, own))
    assert ours < theirs == pytest.approx(ours, rel=0.02)


def test_what_is_computed_again_is_not_useful() -> None:
    once, formula = traced()
    again, same = traced(remat="full")
    assert again > 1.15 * once
    assert same == formula


def test_loops_and_devices_are_counted() -> None:
    def layers(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)[0]

    x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    assert count_flops(jax.jit(layers).trace(x).jaxpr) == 5 * 2 * 4**3


def test_packed_captions_count_their_own_tokens() -> None:
    """As those of a model whose context is as long as they are on average, padded; so padding is counted there."""
    short = dataclasses.replace(PRESETS["tiny"], text=dataclasses.replace(PRESETS["tiny"].text, context_length=5))
    loss = make_loss(LossSettings(("mps",), group_size=0, pairs_per_block=8192), IMAGES)
    model = Flair(PRESETS["tiny"])
    packing = PackingSettings(row_tokens=32, tokens_per_caption=5.0)
    packed = step_flops(model, IMAGES, CAPTIONS, loss, (), packing)
    assert packed == step_flops(Flair(short), IMAGES, CAPTIONS, loss)
    padded = step_flops(model, IMAGES, CAPTIONS, loss)
    assert packed < padded == step_flops(model, IMAGES, CAPTIONS, loss, (), dataclasses.replace(packing, row_tokens=0))
