"""What devices exchange in one training step, read from the optimised program.

Sizes are such that activations are larger than parameters, as at scale, and that each length is told by its number:
17 tokens of a picture, 24 of a text, 28 of a row of packed texts, 35 captions that pool a picture.
"""

import math
import re

import jax
import pytest

from flair_jax.configs.default import get_config
from flair_jax.models.flair import Flair
from flair_jax.parallel.sharding import make_mesh
from flair_jax.plan.hlo import Collective, read_program
from flair_jax.settings import TrainSettings
from flair_jax.train.optim import make_optimizer
from flair_jax.train.packing import abstract_batch
from flair_jax.train.step import abstract_state, make_train_step

MODEL = """{"embed_dim": 40,
 "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16},
 "text_cfg": {"width": 32, "layers": 3, "heads": 4, "context_length": 24, "vocab_size": 256}}"""
IMAGES, CAPTIONS, GROUP, WIDTH = 128, 4, 32, 40
ROW_TOKENS = 28
LENGTHS = {17, 24, ROW_TOKENS, GROUP + CAPTIONS - 1}


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """A function of the mesh's sizes, and the length of rows of packed texts: what is exchanged, with devices 0 to 3 as
    one slice, the rest as another.
    """
    model_file = tmp_path_factory.mktemp("model") / "model.json"
    model_file.write_text(MODEL)
    found: dict[str, list[Collective]] = {}

    def compile_step(row_tokens: int = 0, **sizes: int) -> list[Collective]:
        name = f"{row_tokens} {sizes}"
        if name not in found:
            config = get_config()
            config.update(model=str(model_file), dtype="float32", batch_size=IMAGES, captions_per_image=CAPTIONS)
            config.loss.group_size = GROUP
            config.packing.update(row_tokens=row_tokens, tokens_per_caption=12.0)
            config.mesh.update(sizes)
            settings = TrainSettings.from_config(config)
            mesh, model = make_mesh(settings.mesh), Flair(settings.model_config())
            optimizer = make_optimizer(settings.optimizer, lambda step: 1e-3, ())
            with jax.set_mesh(mesh):
                batch = abstract_batch(model, settings, mesh)
                state = abstract_state(model, optimizer, mesh)
                step = jax.jit(make_train_step(model, optimizer, settings), donate_argnums=0)
                text = step.lower(state, batch).compile().as_text()
            slices = [int(device.id >= 4) for device in mesh.devices.flat]
            found[name] = list(read_program(text, slices).collectives)
        return found[name]

    return compile_step


def elements(shape: str) -> int:
    return math.prod(lengths(shape))


def lengths(shape: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", shape.partition("[")[2])]


MESHES = [
    {"data": 8},
    {"data": 2, "fsdp": 4},
    {"data": 2, "fsdp": 2, "tensor": 2},
]


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("row_tokens", [0, ROW_TOKENS])
def test_caption_features_are_exchanged_once(exchanged, sizes, row_tokens: int) -> None:
    features = f"f32[{IMAGES * CAPTIONS},{WIDTH}]"
    gathers = [each for each in exchanged(row_tokens, **sizes) if each.kind == "all-gather" and features in each.shapes]
    assert [(each.size, each.times) for each in gathers] == [(8, 1)]
    # Their gradients come back once: reduced, and scattered if the platform's compiler joins the two.
    shapes = {features, f"f32[{IMAGES * CAPTIONS // 8},{WIDTH}]"}
    back = [each for each in exchanged(row_tokens, **sizes) if each.kind in ("all-reduce", "reduce-scatter")]
    assert sum(each.times for each in back if shapes & set(each.shapes)) == 1


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("row_tokens", [0, ROW_TOKENS])
def test_no_pooled_pairs_are_exchanged(exchanged, sizes, row_tokens: int) -> None:
    for each in exchanged(row_tokens, **sizes):
        assert not any(GROUP + CAPTIONS - 1 in lengths(shape) for shape in each.shapes), each
    if sizes.get("tensor", 1) == 1:
        largest = max(elements(shape) for each in exchanged(row_tokens, **sizes) for shape in each.shapes)
        assert largest < IMAGES // 8 * (GROUP + CAPTIONS - 1) * WIDTH  # one device's part of them, in any shape


@pytest.mark.parametrize("sizes", MESHES[:2], ids=str)
@pytest.mark.parametrize("row_tokens", [0, ROW_TOKENS])
def test_no_activations_or_scores_are_exchanged(exchanged, sizes, row_tokens: int) -> None:
    # A position table's gradient has one of these lengths first; activations and scores have rows before them.
    for each in exchanged(row_tokens, **sizes):
        assert not any(LENGTHS & set(lengths(shape)[1:]) for shape in each.shapes), each


@pytest.mark.parametrize("row_tokens", [0, ROW_TOKENS])
def test_layers_split_over_tensor_add_up_and_gather_nothing(exchanged, row_tokens: int) -> None:
    """Each layer adds up its output over `tensor`, twice forward and as often backward."""
    kinds = {
        (each.kind, each.size)
        for each in exchanged(row_tokens, **MESHES[2])
        if any(LENGTHS & set(lengths(shape)[1:]) for shape in each.shapes) and each.times == 3
    }
    assert kinds == {("all-reduce", 2)}


@pytest.mark.parametrize("row_tokens", [0, ROW_TOKENS])
def test_gradients_are_added_up_once(exchanged, tmp_path, row_tokens: int) -> None:
    model_file = tmp_path / "model.json"
    model_file.write_text(MODEL)
    from flair_jax.models.presets import read_config

    count = sum(leaf.size for leaf in jax.tree.leaves(Flair(read_config(model_file)).abstract_params()))
    reduced = sum(
        elements(shape) * each.times
        for each in exchanged(row_tokens, data=8)
        if each.kind == "all-reduce"
        for shape in each.shapes
    )
    assert count <= reduced <= 1.01 * count + IMAGES * CAPTIONS * WIDTH  # scalars, and the features' if not scattered


@pytest.mark.parametrize("row_tokens", [0, ROW_TOKENS])
def test_between_slices_only_gradients_and_caption_features_travel(exchanged, row_tokens: int) -> None:
    features = IMAGES * CAPTIONS * WIDTH
    for each in exchanged(row_tokens, data=2, fsdp=4):
        if each.across_slices:
            assert each.kind in ("all-reduce", "reduce-scatter") or max(map(elements, each.shapes)) <= features, each
            assert not any(LENGTHS & set(lengths(shape)[1:]) for shape in each.shapes), each


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_packed_captions_need_no_more_of_the_wire(exchanged, sizes) -> None:
    padded, packed = (sum(each.wire_bytes for each in exchanged(length, **sizes)) for length in (0, ROW_TOKENS))
    assert packed <= 1.001 * padded
