"""Functions and parameters without the model's code, here and in processes of their own."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import flair_jax
from flair_jax.cli import main
from flair_jax.convert import stablehlo
from flair_jax.convert.stablehlo_export import export
from flair_jax.errors import CheckpointError, FlairError

# Docs and tests run the same lines.
GUIDE = Path(__file__).parent.parent.parent / "docs" / "export.md"


@pytest.fixture(scope="module")
def exported(small_checkpoint, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "small.stablehlo"
    assert main(["export", str(small_checkpoint), str(target)]) == 0
    return target


def inputs(config, images: int, texts: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(images)
    size = config.vision.image_size
    tokens = rng.integers(1, config.text.vocab_size - 1, (texts, config.text.context_length), dtype=np.int32)
    tokens[:, -1] = config.text.vocab_size - 1
    return rng.standard_normal((images, size, size, 3), dtype=np.float32), tokens


# The same operations, so the difference measured on CPU is 0. The room is for compilers that fuse them in another way:
# some float32 roundings of the largest value, and with bfloat16 two of 2^-8.
@pytest.mark.parametrize(
    ("dtype", "sizes", "tolerance"), [("float32", [(1, 1), (3, 2)], 2e-6), ("bfloat16", [(2, 3)], 1e-2)]
)
def test_equal_to_the_original(small_checkpoint, tmp_path, dtype: str, sizes: list, tolerance: float) -> None:
    export(small_checkpoint, tmp_path / "a.stablehlo", dtype=dtype)
    loaded = stablehlo.load(tmp_path / "a.stablehlo")
    model, params = flair_jax.load(small_checkpoint, dtype=dtype)
    for size in sizes:
        images, tokens = inputs(model.config, *size)
        ours = jax.jit(model.encode_image)(params, images)
        text = jax.jit(model.encode_text)(params, tokens)
        pooled = jax.jit(model.pool)(params, ours[1], text)
        theirs = loaded.encode_image(images)
        pairs = [*zip(ours, theirs, strict=True), (text, loaded.encode_text(tokens))]
        pairs.append((pooled, loaded.pool(ours[1], text)))
        for expected, found in pairs:
            assert found.dtype == np.float32
            difference = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
            assert difference <= tolerance, difference


def test_logits_of_the_guide(exported, small_checkpoint) -> None:
    """Scale and bias lie beside the functions, so that logits can be had without the model."""
    loaded = stablehlo.load(exported)
    model, params = flair_jax.load(small_checkpoint)
    images, tokens = inputs(model.config, 2, 3)

    @jax.jit
    def logits(images, tokens):
        text = loaded.encode_text(tokens)
        pooled = loaded.pool(loaded.encode_image(images)[1], text)
        cosines = jnp.einsum("bnd,nd->bn", pooled, text) / jnp.linalg.norm(pooled, axis=-1)
        cosines /= jnp.linalg.norm(text, axis=-1)[None]
        return loaded.logit_scale * cosines + loaded.logit_bias

    np.testing.assert_allclose(logits(images, tokens), jax.jit(model.logits)(params, images, tokens), rtol=1e-5)


FRESH = """
import json, sys
import numpy as np
from flair_jax.convert import stablehlo

loaded = stablehlo.load(sys.argv[1])
for number in (0, 1):
    case = np.load(f"{sys.argv[2]}/{number}.npz")
    features, local = loaded.encode_image(case["images"])
    text = loaded.encode_text(case["tokens"])
    for name, found in {"features": features, "local": local, "text": text, "pooled": loaded.pool(local, text)}.items():
        np.testing.assert_allclose(found, case[name], rtol=0, atol=1e-5 * np.abs(case[name]).max())
print(sorted({"flax", "orbax", "torch", "flair_jax.models", "flair_jax.checkpoint"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def cases(small_checkpoint, tmp_path_factory) -> Path:
    """Inputs of two sizes and what the original makes of them."""
    folder = tmp_path_factory.mktemp("cases")
    model, params = flair_jax.load(small_checkpoint)
    for number, sizes in enumerate([(1, 3), (4, 2)]):
        images, tokens = inputs(model.config, *sizes)
        features, local = jax.jit(model.encode_image)(params, images)
        text = jax.jit(model.encode_text)(params, tokens)
        pooled = jax.jit(model.pool)(params, local, text)
        arrays = {"images": images, "tokens": tokens, "features": features, "local": local, "text": text}
        np.savez(folder / f"{number}.npz", **arrays, pooled=pooled)
    return folder


def test_a_fresh_process_needs_none_of_the_model(exported, cases) -> None:
    """Within 1e-5 of the largest value, for sums may run in another order there; measured 0 on CPU."""
    outcome = subprocess.run(
        [sys.executable, "-c", FRESH, exported, cases], capture_output=True, text=True, check=False
    )
    assert outcome.stdout == "[]\n", outcome.stderr


def test_the_guide_needs_no_flair_jax(exported, cases) -> None:
    """The lines that docs/export.md gives, where this package cannot be imported."""
    snippet = next(
        part for part in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S) if "deserialize" in part
    )
    script = (
        "import sys; sys.modules['flair_jax'] = None\n"
        + snippet.replace('"cc3m.stablehlo"', "sys.argv[1]")
        + "\nimport numpy as np\n"
        "case = np.load(sys.argv[2] + '/1.npz')\n"
        "pooled = pool(encode_image(case['images'])[1], encode_text(case['tokens']))\n"
        "print(abs(pooled - case['pooled']).max() / abs(case['pooled']).max() < 1e-5)\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script, exported, cases], capture_output=True, text=True, check=False
    )
    assert outcome.stdout.splitlines()[-1:] == ["True"], outcome.stderr


def test_what_lies_in_the_folder(exported, small_checkpoint, small_config) -> None:
    assert sorted(path.name for path in exported.iterdir()) == sorted(stablehlo.FILES)
    loaded = stablehlo.load(exported)
    functions = loaded.description["functions"]
    patches = small_config.vision.grid**2
    assert functions["encode_image"]["results"]["local"]["shape"] == ["B", patches, small_config.embed_dim]
    assert functions["encode_text"]["arguments"]["tokens"] == {"shape": ["N", 77], "dtype": "int32"}
    assert functions["pool"]["results"]["pooled"]["shape"] == ["B", "N", small_config.embed_dim]
    assert loaded.description["source"] == {"file": "small.safetensors"}
    assert loaded.description["versions"]["jax"] == jax.__version__
    assert loaded.description["preprocessing"]["size"] == small_config.vision.image_size
    stored = safetensors.numpy.load_file(exported / "params.safetensors")
    assert sum(array.size for array in stored.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(flair_jax.load(small_checkpoint)[1])
    )
    for name in stablehlo.FUNCTIONS:
        content = (exported / f"{name}.bin").read_bytes()
        assert len(content) < 100_000, "a function with its parameters inside"
        function = jax.export.deserialize(bytearray(content))
        assert function.platforms == ("cpu", "cuda", "tpu")
        assert not function.has_vjp()


def test_no_function_can_be_differentiated(exported, small_config) -> None:
    loaded = stablehlo.load(exported)
    images, _ = inputs(small_config, 1, 1)
    with pytest.raises(ValueError, match="No VJP"):
        jax.grad(lambda images: loaded.encode_image(images)[0].sum())(images)


def test_rows_are_computed_where_they_lie(exported, small_config) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, everywhere = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (["data"], []))
    images, _ = inputs(small_config, 16, 1)
    spread = stablehlo.load(exported, sharding=everywhere).encode_image(jax.device_put(images, rows))[0]
    assert len({shard.device for shard in spread.addressable_shards}) == 8
    expected = stablehlo.load(exported).encode_image(images)[0]
    np.testing.assert_allclose(spread, expected, rtol=0, atol=1e-5 * np.abs(expected).max())  # measured 0


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        (
            "encode_image",
            [np.zeros((2, 3, 32, 32), np.float32)],
            r"encode_image: images are float32\[2, 3, 32, 32\]; expected float32\[B, 32, 32, 3\]",
        ),
        ("encode_image", [np.zeros((1, 32, 32, 3), np.uint8)], r"images are uint8\[1, 32, 32, 3\]; expected float32"),
        ("encode_image", [np.zeros((0, 32, 32, 3), np.float32)], r"images are float32\[0, 32, 32, 3\]; expected"),
        ("encode_text", [np.zeros((2, 76), np.int32)], r"tokens are int32\[2, 76\]; expected int32\[N, 77\]"),
        ("encode_text", [np.zeros(77, np.int32)], r"tokens are int32\[77\]; expected int32\[N, 77\]"),
        (
            "pool",
            [np.zeros((2, 4, 16), np.float32), np.zeros((2, 4), np.float32)],
            r"pool: text are float32\[2, 4\]; expected float32\[N, 16\]",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence(exported, name: str, arrays: list[np.ndarray], message: str) -> None:
    with pytest.raises(FlairError, match=message):
        getattr(stablehlo.load(exported), name)(*arrays)


def change_description(folder: Path, **changes: object) -> None:
    file = folder / "description.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: shutil.rmtree(folder),
            "a.stablehlo: no exported model here .* make one with `flair-jax export",
        ),
        (lambda folder: (folder / "description.json").write_text("{"), "description.json: cannot be read as JSON"),
        (
            lambda folder: change_description(folder, format="other 2"),
            "has the format 'other 2', and this reads 'flair_",
        ),
        (
            lambda folder: change_description(folder, calling_convention_version=8),
            r"has calling convention 8 \(written by flair-jax .*, jax .*\), and JAX .* runs \d+ to \d+; export",
        ),
        (
            lambda folder: change_description(folder, functions={"pool": {}}, versions=None),
            r"description.json: is damaged \(without versions, functions.encode_image.sha256, .*, functions.pool.arg",
        ),
        (lambda folder: change_description(folder, platforms=["tpu"]), "was exported for tpu, and this is cpu"),
        (lambda folder: flip_a_byte(folder / "pool.bin"), "pool.bin: is damaged, or of another export"),
        (lambda folder: (folder / "pool.bin").unlink(), r"pool.bin: cannot be read \(.*No such file"),
        (lambda folder: flip_a_byte(folder / "params.safetensors"), "params.safetensors: is damaged, or of another"),
        (lambda folder: (folder / "params.safetensors").unlink(), "params.safetensors: cannot be read"),
    ],
)
def test_damage_is_named(exported, tmp_path, damage, message: str) -> None:
    folder = tmp_path / "a.stablehlo"
    shutil.copytree(exported, folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        stablehlo.load(folder)


def test_what_jax_no_longer_reads_is_named(exported, monkeypatch) -> None:
    def too_old(content: bytearray) -> None:
        raise ValueError("older than the window\nand much more")

    monkeypatch.setattr("jax.export.deserialize", too_old)
    with pytest.raises(
        CheckpointError, match=r"encode_image.bin: JAX .* cannot read it, which .* wrote \(older than the window\)"
    ):
        stablehlo.load(exported)


def test_without_flatbuffers_the_error_says_what_to_do(exported, small_checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    for run in (lambda: stablehlo.load(exported), lambda: export(small_checkpoint, tmp_path / "b.stablehlo")):
        with pytest.raises(FlairError, match='stablehlo needs flatbuffers: .*pip install.* "flatbuffers>='):
            run()
    assert not list(tmp_path.iterdir())


def test_what_is_no_export_is_never_replaced(small_checkpoint, tmp_path, capsys) -> None:
    target = tmp_path / "papers.stablehlo"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    assert main(["export", str(small_checkpoint), str(target)]) == 2
    assert "papers.stablehlo: exists and is not an exported model; choose another name" in capsys.readouterr().err
    assert (target / "thesis.tex").read_text() == "years of work"


def test_an_export_is_replaced_whole_or_not_at_all(exported, small_checkpoint, tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "a.stablehlo"
    shutil.copytree(exported, folder)
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save_file", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(small_checkpoint, folder, dtype="bfloat16")
    assert [path.name for path in tmp_path.iterdir()] == ["a.stablehlo"]
    assert stablehlo.load(folder).description["compute_dtype"] == "float32"
    assert main(["export", str(small_checkpoint), str(folder), "--dtype", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert "encode_image, encode_text, pool; computing in bfloat16 on cpu, cuda, tpu" in printed
    assert stablehlo.load(folder).description["compute_dtype"] == "bfloat16"
