"""ONNX files: what ONNX Runtime makes of them is what JAX makes of the checkpoint."""

import dataclasses
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from own_modules import PlainMean
from PIL import Image

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import flair_jax
from flair_jax import checkpoint
from flair_jax.cli import main
from flair_jax.convert import onnx_export, onnx_graph, onnx_guide
from flair_jax.convert.folder import preprocessing
from flair_jax.convert.functions import random_inputs
from flair_jax.demo.recorded import MODEL
from flair_jax.errors import FlairError
from flair_jax.models.config import FlairConfig

DOCS = Path(__file__).parent.parent.parent / "docs" / "export.md"


@pytest.fixture(scope="module")
def exported(small_checkpoint, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "small.onnx"
    levels = [logging.getLogger(name).level for name in ("jax2onnx", "onnx_ir")]
    functions = dict(vars(jax.numpy))
    assert main(["export", str(small_checkpoint), str(target)]) == 0
    assert levels == [logging.getLogger(name).level for name in ("jax2onnx", "onnx_ir")]
    assert all(getattr(jax.numpy, name) is each for name, each in functions.items()), "JAX is as it was"
    return target


def run(folder: Path, name: str, **arrays: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / f"{name}.onnx", options).run(None, arrays)


def check(folder: Path, model, params, sizes: list[tuple[int, int]]) -> None:
    """Within 1e-5 of the largest value, for float32 sums run in another order; measured 2e-6 at most."""
    for images, texts in sizes:
        pictures, tokens = random_inputs(model.config, images, texts)
        features, local = run(folder, "encode_image", images=pictures)
        [text] = run(folder, "encode_text", tokens=tokens)
        logits, pooled, weights = run(folder, "pool", local=local, text=text)
        expected = [*jax.jit(model.encode_image)(params, pictures), jax.jit(model.encode_text)(params, tokens)]
        expected += [jax.jit(model.logits)(params, pictures, tokens)]
        expected += jax.jit(model.pool_with_weights)(params, *expected[1:3])
        for one, two in zip((features, local, text, logits, pooled, weights), expected, strict=True):
            assert one.shape == two.shape
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * np.abs(two).max())


def test_equal_for_any_number_of_images_and_texts(exported, small_model) -> None:
    check(exported, *small_model, [(1, 1), (3, 2), (2, 7)])


def written_closely(source: Path, target: Path) -> None:
    """The export compares itself; the test above is what shows that it does so rightly. Tolerance as there."""
    functions = onnx_export.export(source, target)["functions"]
    assert all(0 < each["largest_difference"] < 1e-5 for each in functions.values()), functions


def test_the_demonstration_and_quick_gelu(small_model, tmp_path) -> None:
    """Weights that were trained, with their own mean and deviation; and the other activation."""
    written_closely(MODEL, tmp_path / "demo.onnx")
    model = flair_jax.Flair(dataclasses.replace(small_model[0].config, quick_gelu=True))
    checkpoint.save(tmp_path / "quick", model, small_model[1], {})
    written_closely(tmp_path / "quick", tmp_path / "quick.onnx")


@pytest.mark.parametrize("name", ["siglip", "dinov3"])
def test_other_towers(tmp_path, name: str) -> None:
    pytest.importorskip("transformers")
    import made_transformers

    from flair_jax.convert.transfer import convert
    from flair_jax.models.presets import PRESETS

    getattr(made_transformers, f"save_{name}")(tmp_path / "theirs")
    convert(str(tmp_path / "theirs"), tmp_path / "ours", PRESETS["tiny"] if name == "dinov3" else None)
    written_closely(tmp_path / "ours", tmp_path / "a.onnx")


def test_a_pooling_of_ones_own_without_weights(small_config, tmp_path) -> None:
    model = flair_jax.Flair(small_config, pooling=PlainMean())
    params = model.init(jax.random.key(0))
    checkpoint.save(tmp_path / "own", model, params, {})
    onnx_export.export(tmp_path / "own", tmp_path / 'a "b".onnx', model=model)
    pictures, tokens = random_inputs(small_config, 2, 3)
    local = run(tmp_path / 'a "b".onnx', "encode_image", images=pictures)[1]
    [text] = run(tmp_path / 'a "b".onnx', "encode_text", tokens=tokens)
    logits, _ = run(tmp_path / 'a "b".onnx', "pool", local=local, text=text)
    expected = jax.jit(model.logits)(params, pictures, tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())  # as `check`
    code = re.findall(r"```python\n(.*?)```", (tmp_path / 'a "b".onnx' / "README.md").read_text(), re.S)[0]
    compile(code, "README.md", "exec")


def test_what_lies_in_the_folder(exported, small_config) -> None:
    assert sorted(path.name for path in exported.iterdir()) == sorted(onnx_export.FILES)
    description = json.loads((exported / "description.json").read_text())
    assert description["opset"] == 18
    assert description["preprocessing"]["mean"] == list(small_config.vision.image_mean)
    assert description["source"] == {"file": "small.safetensors"}
    assert set(description["versions"]) == {"flair-jax", "jax", "jax2onnx", "onnxruntime"}
    for name, said in description["functions"].items():
        graph = onnx.load(exported / f"{name}.onnx")
        onnx.checker.check_model(graph, full_check=True)
        assert [(each.domain, each.version) for each in graph.opset_import] == [("", 18)]
        told = {each.key: each.value for each in graph.metadata_props}
        assert json.loads(told["preprocessing"]) == description["preprocessing"]
        assert json.loads(told["arguments"]) == said["arguments"]
        for kind, values in (("arguments", graph.graph.input), ("results", graph.graph.output)):
            shapes = {
                each.name: [size.dim_param or size.dim_value for size in each.type.tensor_type.shape.dim]
                for each in values
            }
            assert shapes == {key: each["shape"] for key, each in said[kind].items()}
        assert 0 < said["largest_difference"] < 1e-5
    assert description["functions"]["pool"]["results"]["weights"]["shape"] == ["B", 8, "N", 5]


def without_jax(code: str, folder: Path, picture: Path) -> np.ndarray:
    code = code.replace("cc3m.onnx", str(folder)).replace("picture.jpg", str(picture))
    hidden = "import sys; sys.modules |= {'flair_jax': None, 'jax': None}\n"
    outcome = subprocess.run(
        [sys.executable, "-c", hidden + code + "print(logits.tolist())"], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    return np.array(json.loads(outcome.stdout.splitlines()[-1]))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_the_guide_needs_no_jax(exported, small_model, tmp_path, mode: str) -> None:
    """docs/export.md has the lines for the usual mode, and the folder's README those of its own."""
    model, params = small_model
    if mode == "shortest":
        blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
        folder, code = exported, next(block for block in blocks if "onnxruntime" in block)
        assert code == onnx_guide.code(FlairConfig())
        assert code.replace("cc3m.onnx", "small.onnx") in (exported / "README.md").read_text()
    else:
        vision = dataclasses.replace(model.config.vision, resize_mode=mode, fill_color=9, interpolation="bilinear")
        model = flair_jax.Flair(dataclasses.replace(model.config, vision=vision))
        folder, code = shutil.copytree(exported, tmp_path / "a.onnx"), onnx_guide.code(model.config)
        description = json.loads((folder / "description.json").read_text())
        description["preprocessing"] = preprocessing(model.config)
        (folder / "description.json").write_text(json.dumps(description))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (41, 67, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    pixels = flair_jax.preprocess(tmp_path / "a.png", model.config.vision)[None]
    tokens = flair_jax.tokenize(["a red circle", "a photo of a dog"])
    expected = jax.jit(model.logits)(params, model.normalize(pixels), tokens)
    # As `check`; and the mean is subtracted in float64 there.
    found = without_jax(code, folder, tmp_path / "a.png")
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def fails(source: Path, target: Path, capsys) -> str:
    assert main(["export", str(source), str(target)]) == 2
    return capsys.readouterr().err


def test_nothing_wrong_gets_its_name(small_checkpoint, tmp_path, monkeypatch, capsys) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "VERIFY_TOLERANCE", 0.0)
        said = fails(small_checkpoint, tmp_path / "a.onnx", capsys)
        assert re.search(r"encode_image: ONNX Runtime's results differ from JAX's by \d", said)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "_MOST_BYTES", 10_000)
        assert "encode_image: has 0.0 GB of parameters, and an ONNX file holds" in fails(
            small_checkpoint, tmp_path / "a.onnx", capsys
        )
    with monkeypatch.context() as patch:
        patch.setattr("jax2onnx.to_onnx", lambda *_, **__: (_ for _ in ()).throw(NotImplementedError("no such\nthing")))
        assert "encode_image: jax2onnx cannot write it (no such); choose a DST that ends in .stablehlo" in fails(
            small_checkpoint, tmp_path / "a.onnx", capsys
        )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        assert re.search(
            r"a.onnx needs onnxruntime: .*pip install .*\(the extra `onnx`\)",
            fails(small_checkpoint, tmp_path / "a.onnx", capsys),
        )
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.onnx").write_bytes(b"another's")
    assert "a.onnx: exists and is not an exported model" in fails(small_checkpoint, tmp_path / "a.onnx", capsys)
    assert (tmp_path / "a.onnx").read_bytes() == b"another's"
    assert main(["export", str(small_checkpoint), str(tmp_path / "b.onnx"), "--dtype", "bfloat16"]) == 2
    assert "--dtype: only .stablehlo has a compute dtype" in capsys.readouterr().err


def test_a_loop_backwards_or_with_results_is_left_to_the_library() -> None:
    """What the replay does not unroll gives the same, and so does padding in front."""

    def odd(x):
        back = jax.lax.scan(lambda total, each: (total + each, total), 0.0, jax.numpy.ones(3), reverse=True)
        return x * back[0] + back[1][:, None] + jax.numpy.pad(x[:, 1:], ((0, 0), (1, 0)))

    graph = onnx_graph.to_onnx(odd, {"x": jax.ShapeDtypeStruct((3, 2), np.float32)}, ["y"], name="odd")
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, odd(x))
    with pytest.raises(FlairError, match="bad: jax2onnx cannot write it"):
        onnx_graph.to_onnx(
            lambda x: jax.pure_callback(np.sin, x, x), {"x": jax.ShapeDtypeStruct((2,), np.float32)}, ["y"], name="bad"
        )
