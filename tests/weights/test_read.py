"""Weight files as people have them, and what is no weight file."""

import gzip
import io
import json
import os
import pickle
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from made_clip import save_torchscript

from flair_jax.weights.param_map import ConversionError
from flair_jax.weights.read import read_weights
from flair_jax.weights.state_dicts import plain_name

# Enough to be known as a model of ours.
MODEL = {
    "visual.conv1.weight": torch.arange(6.0).reshape(2, 3),
    "visual.ln_pre.bias": torch.ones(3),
    "b": torch.ones(()),
}


def assert_same(path: Path, expected: dict[str, torch.Tensor] = MODEL, state_dict: str | None = None) -> None:
    found = read_weights(path, state_dict).tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.float().numpy())
        assert found[name].dtype == np.float32


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "a.b."]
)
def test_prefixes_of_wrappers(tmp_path, prefix: str) -> None:
    torch.save({f"{prefix}{name}": tensor for name, tensor in MODEL.items()}, tmp_path / "a.pt")
    assert_same(tmp_path / "a.pt")
    safetensors.torch.save_file(
        {f"{prefix}{name}": tensor for name, tensor in MODEL.items()}, tmp_path / "a.safetensors"
    )
    assert_same(tmp_path / "a.safetensors")


def test_prefixes_in_the_middle(tmp_path) -> None:
    names = (
        "visual._orig_mod.conv1.weight",
        "module.visual._fsdp_wrapped_module.module.ln_pre._checkpoint_wrapped_module.bias",
        "b",
    )
    torch.save(dict(zip(names, MODEL.values(), strict=True)), tmp_path / "a.pt")
    assert_same(tmp_path / "a.pt")
    assert plain_name("module_list.0.modules.weight") == "module_list.0.modules.weight"


def test_two_names_that_become_one_are_refused(tmp_path) -> None:
    torch.save({**MODEL, "module.b": torch.zeros(())}, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match="a.pt: module.b and another tensor are both b without"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "path", ["state_dict", "model", "model_state_dict", "ema", "model_ema.module", "checkpoint.model"]
)
def test_a_single_model_is_found_wherever_it_is(tmp_path, path: str) -> None:
    held = {f"module.{name}": tensor for name, tensor in MODEL.items()}
    for part in reversed(path.split(".")):
        held = {part: held}
    optimizer = {"state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({**held, "epoch": 3, "optimizer": optimizer, "best": None}, tmp_path / "a.pt")
    assert_same(tmp_path / "a.pt")


def test_of_several_models_one_is_chosen(tmp_path) -> None:
    other = {name: tensor + 1 for name, tensor in MODEL.items()}
    torch.save({"model": MODEL, "ema": {"module": other}}, tmp_path / "a.pt")
    with pytest.raises(
        ConversionError, match=r'several models: "model" \(3 tensors\), "ema.module" \(3 .*--state-dict'
    ):
        read_weights(tmp_path / "a.pt")
    assert_same(tmp_path / "a.pt", MODEL, "model")
    assert_same(tmp_path / "a.pt", other, "ema.module")
    with pytest.raises(
        ConversionError, match='no FLAIR or CLIP named "emma"; those that it holds: "model", "ema.module"'
    ):
        read_weights(tmp_path / "a.pt", "emma")
    flat = {f"{name}.{key}": value for name, held in (("net", MODEL), ("ema", other)) for key, value in held.items()}
    torch.save({"state_dict": flat}, tmp_path / "b.pt")
    assert_same(tmp_path / "b.pt", other, "state_dict.ema")
    safetensors.torch.save_file(
        {**MODEL, **{f"ema.{name}": value for name, value in other.items()}}, tmp_path / "c.safetensors"
    )
    assert_same(tmp_path / "c.safetensors", MODEL, "")
    assert_same(tmp_path / "c.safetensors", other, "ema")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_archive_gives_its_state_dict(tmp_path) -> None:
    sizes = {"input_resolution": torch.tensor(224), "context_length": torch.tensor(77), "vocab_size": torch.tensor(9)}
    tensors = {
        "visual.conv1.weight": torch.randn(4, 3).half(),
        "blocks.0.weight": torch.randn(3, 2, 2),
        "s": torch.ones(()),
    }
    save_torchscript(tmp_path / "a.pt", {**tensors, **sizes})
    expected = torch.jit.load(tmp_path / "a.pt").state_dict()
    assert expected.keys() == {*tensors, *sizes}, "a tensor that is no parameter is not in it"
    assert_same(tmp_path / "a.pt", tensors)
    weights = read_weights(tmp_path / "a.pt")
    assert weights.sizes == {"input_resolution": 224, "context_length": 77, "vocab_size": 9}
    assert weights.remarks == (
        "read as float32: 1 tensor of float16",
        "passed over, because they are no parameters: context_length, input_resolution, vocab_size",
    )


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cos\nsystem\n(S'touch /tmp/flair_jax_was_here'\ntR.", r"it holds a os.system, which is neither a module"),
        (b"cbuiltins\neval\n(S'1'\ntR.", r"it holds a builtins.eval, which"),
        (b"c__torch__\nA\n)\x81}(S'x'\nctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS''\nI1\ntQ"
         b"I0\n(I9\nt(I1\nt\x89NtRsb.", r"a tensor of shape \[9\] is larger than its memory"),
        (b"c__torch__\nA\n)\x81}b.", r"its program does not say which tensors of __torch__.B are"),
        (b"K\x01.", "what it holds is no module"),
        (b"junk", "not a readable TorchScript archive, or damaged"),
    ],
)  # fmt: skip
def test_nothing_in_a_torchscript_archive_runs(tmp_path, program: bytes, message: str) -> None:
    name = "B" if "B are" in message else "A"
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", program.replace(b"\nA\n", f"\n{name}\n".encode()))
        archive.writestr("a/data/0", b"1234")
        archive.writestr("a/code/__torch__.py", 'class A(Module):\n  __parameters__ = ["x", ]\n  __buffers__ = []\n')
    with pytest.raises(ConversionError, match=message):
        read_weights(tmp_path / "a.pt")
    assert not Path("/tmp/flair_jax_was_here").exists()


def test_a_claim_of_many_values_takes_no_memory(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", b"\x80\x02}r" + (100_000_000).to_bytes(4, "little") + b".")
    tracemalloc.start()
    with pytest.raises(ConversionError, match="what it holds is no module"):
        read_weights(tmp_path / "a.pt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000, "bytes; 1,600,000,000 if it is believed"


def test_changed_bytes_in_a_file_of_pytorch_are_found(tmp_path) -> None:
    torch.save({**MODEL, "a": torch.zeros(1000)}, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[content.index(bytes(2000)) + 1000] ^= 4
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(
        ConversionError, match=r"a.pt: damaged \(Bad CRC-32 for file 'a/data/\d+'\); download or copy it"
    ):
        read_weights(tmp_path / "a.pt")


def test_files_of_pytorch_without_checksums_are_read(tmp_path) -> None:
    with_them = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(MODEL, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(with_them)
    assert_same(tmp_path / "a.pt")


def test_a_packed_trap_is_not_unpacked(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", bytes(20_000_000))
    with pytest.raises(ConversionError, match=r"its a/data.pkl is packed to .* of 20,000,000 bytes"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize(("save", "ending"), [(safetensors.torch.save_file, "safetensors"), (torch.save, "bin")])
def test_shards(tmp_path, save: Callable, ending: str) -> None:
    index = tmp_path / f"model.{ending}.index.json"
    first, second = (f"model-{number}-of-2.{ending}" for number in (1, 2))
    names = list(MODEL)
    save({name: MODEL[name] for name in names[:2]}, tmp_path / first)
    save({names[2]: MODEL[names[2]]}, tmp_path / second)
    weight_map = {names[0]: first, names[1]: first, names[2]: second}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    assert_same(index)
    assert read_weights(index).files == (index, tmp_path / first, tmp_path / second)
    index.write_text(json.dumps({"weight_map": {**weight_map, names[2]: first}}))
    with pytest.raises(ConversionError, match=rf"disagree in 1 tensor: b is not in {first}"):
        read_weights(index)
    index.write_text(json.dumps({"weight_map": {names[0]: first, names[2]: second}}))
    with pytest.raises(ConversionError, match=rf"{names[1]} is in {first}, where the index does not put it"):
        read_weights(index)
    index.write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / second).unlink()
    with pytest.raises(ConversionError, match=f"1 of its 2 shards are not beside it: {second}"):
        read_weights(index)
    for wrong in ({"weight_map": {"a": "../b.bin"}}, {"weight_map": ["a"]}, {}, []):
        index.write_text(json.dumps(wrong))
        with pytest.raises(ConversionError, match="not an index of shards"):
            read_weights(index)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_and_it_is_said(tmp_path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in MODEL.items()}
    torch.save(tensors, tmp_path / "a.pt")
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        assert_same(tmp_path / name, tensors)
        expected = f"read as float32: 3 tensors of {str(dtype).removeprefix('torch.')}"
        assert read_weights(tmp_path / name).remarks == (expected,)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.int32])
def test_quantised_weights_are_refused(tmp_path, dtype: torch.dtype) -> None:
    tensors = {**MODEL, "q": torch.ones(2, 3).to(dtype)}
    torch.save(tensors, tmp_path / "a.pt")
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        with pytest.raises(ConversionError, match=rf"{name}: holds 1 tensor such as q in \w+: weights quantised"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor([1.0, torch.nan, torch.nan]), r"1 of 4 tensors .*: x \(2 NaN\); take weights from before"),
        (torch.tensor([torch.inf, -torch.inf, torch.nan]), r"x \(1 NaN, 2 infinite\)"),
        (torch.tensor([1e300, 1.0], dtype=torch.float64), r"x \(1 too large in float64\)"),
        (torch.tensor([torch.inf]).half(), r"x \(1 infinite\)"),
        (torch.ones(2, device="meta"), "x has a shape but no values"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path, tensor: torch.Tensor, message: str) -> None:
    torch.save({**MODEL, "x": tensor}, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match=message):
        read_weights(tmp_path / "a.pt")


def test_a_matrix_of_zeros_is_said(tmp_path) -> None:
    torch.save({**MODEL, "w": torch.zeros(2, 2), "bias": torch.zeros(2)}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").remarks == ("nothing but zeros: w",)


def test_what_it_is_is_seen_from_its_content(tmp_path) -> None:
    safetensors.torch.save_file(MODEL, tmp_path / "a.bin")
    torch.save(MODEL, tmp_path / "b.safetensors")
    torch.save(MODEL, tmp_path / "c", _use_new_zipfile_serialization=False)
    for name in ("a.bin", "b.safetensors", "c"):
        assert_same(tmp_path / name)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch /tmp/flair_jax_was_here",))


def packed(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pt"), io.BytesIO())
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (".", None, "is a folder, not a weight file; name the file in it"),
        ("gone.pt", None, "no such file"),
        ("empty.pt", b"", "the file is empty; download or copy it again"),
        ("noise.pt", b"noise" * 999, "is no weight file, for it begins neither as PyTorch's nor as safetensors"),
        ("pickle.pt", pickle.dumps(Bomb()), "is no weight file"),
        ("red.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", "is a picture, not weights; weights are read from"),
        ("captions.txt", b"a red car", "is no weight file"),
        ("noise.safetensors", b"noise" * 999, "not a readable safetensors file"),
        ("header.safetensors", b"\x09" + bytes(7) + b"{not json", "not a readable safetensors file"),
        ("list.safetensors", b"\x09" + bytes(7) + b'{"a": [1]', "not a readable safetensors file"),
        ("lfs.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS pointer of 56 bytes.*lfs pull"),
        ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("page.pt", b"\n<!DOCTYPE html><html>", "is a web page, not weights; download the file itself"),
        ("page.safetensors", b"<html lang=en>", "is a web page"),
        ("a.json", b'{"embed_dim": 512}', "is a JSON file, not weights"),
        ("a.tar.gz", gzip.compress(tarred()), "is packed with gzip; unpack it"),
        ("a.tar", tarred(), "is packed with tar; unpack it"),
        ("a.pt.bz2", b"BZh91AY", "is packed with bzip2"),
        ("a.zip", packed("x/model.pt", "y"), "is a zip archive of 2 files, such as x/model.pt; unpack it"),
        ("empty.zip", packed(), "is a zip archive of 0 files; unpack"),
        ("cut.pt", packed("a/data.pkl")[:20], "cut short or damaged .20 bytes"),
        ("a.gguf", b"GGUF\x03", "is a GGUF file"),
        ("a.h5", b"\x89HDF\r\n", "is an HDF5 file"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,  # archives hold the time at which they were made
)  # fmt: skip
def test_what_is_no_weight_file_is_named(tmp_path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConversionError, match=f"{name}: .*({message})") as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)
    assert not Path("/tmp/flair_jax_was_here").exists()


def test_what_pytorch_holds_besides_tensors(tmp_path) -> None:
    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(
        ConversionError, match=r"refused, because it holds a \w+\.system, and loading that could run code"
    ):
        read_weights(tmp_path / "bomb.pt")
    assert not Path("/tmp/flair_jax_was_here").exists()
    for held in ([torch.zeros(2)], {"epoch": 3}):
        torch.save(held, tmp_path / "a.pt")
        with pytest.raises(ConversionError, match="neither a state dict nor a training checkpoint"):
            read_weights(tmp_path / "a.pt")


def test_a_single_model_has_no_name_to_choose_by(tmp_path) -> None:
    torch.save(MODEL, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match='named "ema"; its only one has no name; leave --state-dict out'):
        read_weights(tmp_path / "a.pt", "ema")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_random_bytes_are_named(tmp_path, ending: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(150):
        path = tmp_path / f"{number}{ending}"
        path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." * (number % 2) + rng.bytes(500))
        with pytest.raises(ConversionError, match=path.name):
            read_weights(path)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["tiny.pt", "tiny.safetensors"])
def test_cut_files_are_named(golden, tmp_path, name: str) -> None:
    content = (golden / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ConversionError, match=f"{name}: cut short"):
        read_weights(tmp_path / name)


def test_a_name_that_two_tensors_would_have_in_the_end_is_refused(tmp_path) -> None:
    torch.save({**{f"model.{name}": tensor for name, tensor in MODEL.items()}, "b": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match="b and another tensor are both b without their prefixes"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"w": torch.eye(2).to_sparse()}, "w is no plain tensor"),
        ({"vocab_size": torch.ones(3)}, "vocab_size is not a whole number"),
        ({"vocab_size": float("nan")}, "vocab_size is not a whole number"),
    ],
)
def test_unusual_tensors_are_named(tmp_path, tensor: dict, message: str) -> None:
    torch.save({**MODEL, **tensor}, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match=message):
        read_weights(tmp_path / "a.pt")


def test_what_has_no_prefix_is_left_over_unless_the_prefix_is_chosen(tmp_path) -> None:
    held = {f"model.{name}": tensor for name, tensor in MODEL.items()}
    torch.save({"state_dict": {**held, "loss.weight": torch.ones(2)}}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").tensors.keys() == {*MODEL, "loss.weight"}
    assert_same(tmp_path / "a.pt", MODEL, "state_dict.model")


def test_what_holds_itself_ends(tmp_path) -> None:
    held: dict = {"model": MODEL, "ema": MODEL}  # the same, so one model
    held |= {str(number): held for number in range(100)}
    torch.save(held, tmp_path / "a.pt")
    assert_same(tmp_path / "a.pt")
