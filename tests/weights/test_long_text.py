"""Longer contexts: tables stretched by Long-CLIP's formula, its own checkpoints, and what does not change."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
from made_clip import clip_tensors

import flair_jax
from flair_jax.cli import main
from flair_jax.convert import transfer
from flair_jax.data.packing import Packing
from flair_jax.errors import ConfigError
from flair_jax.models.config import FlairConfig
from flair_jax.models.presets import read_config
from flair_jax.models.resize import stretch_position_embedding
from flair_jax.scoring.embedding import CutOff, cut_off
from flair_jax.scoring.scorer import Retriever
from flair_jax.train import initial
from flair_jax.weights.long_text import Stretch, joined_tables
from flair_jax.weights.param_map import ConversionError, torch_shapes

SHORT = "a photo of a red circle next to a cat, and two dogs that look at it"


def long_clip(old: np.ndarray, keep: int, times: int) -> np.ndarray:
    """Long-CLIP's loop (its model/longclip.py), row by row in float64, for any number of new rows to an old one."""
    old = old.astype(np.float64)
    rows = [old[i] for i in range(keep)]
    for i in range(keep, len(old) - 1):
        rows += [((times - j) * old[i] + j * old[i + 1]) / times for j in range(times)]
    rows += [old[-1] + j * (old[-1] - old[-2]) / times for j in range(times)]
    return np.stack(rows)


@pytest.mark.parametrize(("keep", "times", "length"), [(20, 4, 248), (20, 2, 134), (0, 3, 231), (75, 5, 85)])
def test_tables_are_stretched_by_the_formula_of_long_clip(keep: int, times: int, length: int) -> None:
    table = np.random.default_rng(0).normal(0, 0.02, (77, 5)).astype(np.float32)
    stretched = stretch_position_embedding(table, length, keep)
    expected = long_clip(table, keep, times)
    assert stretched.shape == expected.shape == (length, 5)
    assert stretched.dtype == np.float32
    # Both are computed in float64; one rounding to float32 remains.
    np.testing.assert_allclose(stretched, expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(stretched[:keep], table[:keep])
    np.testing.assert_array_equal(stretched[keep::times], table[keep:])


def test_any_length_lies_on_the_same_lines() -> None:
    """Of a table that grows by 1 a row, each new row is the place that it was taken from."""
    table = np.arange(10, dtype=np.float32)[:, None]
    stretched = stretch_position_embedding(table, 16, 4)[:, 0]
    np.testing.assert_allclose(stretched, [0, 1, 2, 3, *(4 + 0.5 * np.arange(12))], rtol=1e-7)
    np.testing.assert_allclose(stretch_position_embedding(table, 13, 4)[4:, 0], 4 + np.arange(9) * 6 / 9, rtol=1e-7)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny FLAIR, 77 tokens long, as a file, and converted as it is and stretched."""
    folder = tmp_path_factory.mktemp("weights")
    rng = np.random.default_rng(3)
    shapes = torch_shapes(read_config("tiny"))
    tensors = {name: np.asarray(rng.normal(0, 0.3, shape), np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, folder / "tiny.safetensors")
    transfer.convert(str(folder / "tiny.safetensors"), folder / "short")
    done = transfer.convert(str(folder / "tiny.safetensors"), folder / "long", stretch=Stretch(248))
    return folder, done


def test_the_converted_model_reads_more_and_says_so(weights) -> None:
    folder, done = weights
    assert done.config.text.context_length == 248
    assert any(remark.startswith("context: 77 -> 248 tokens; the first 20 positions") for remark in done.remarks)
    described = json.loads((folder / "long" / "config.json").read_text())
    assert described["text_cfg"]["context_length"] == 248
    assert described["source"]["context"] == "stretched to 248 tokens, of which 20 were kept"
    old, new = (flair_jax.load(folder / name)[1] for name in ("short", "long"))
    np.testing.assert_allclose(
        new["text"]["position_embedding"], long_clip(np.asarray(old["text"]["position_embedding"]), 20, 4), rtol=1e-6
    )
    new["text"]["position_embedding"] = old["text"]["position_embedding"]
    jax.tree.map(np.testing.assert_array_equal, new, old)


def test_features_within_the_kept_rows_are_the_same_to_the_last_bit(weights) -> None:
    """By the scorer, which cuts padding off itself, and by the model for rows of as many columns."""
    folder, _ = weights
    texts = [SHORT, "a dog", ""]
    short, long = (flair_jax.load(folder / name) for name in ("short", "long"))
    tokens = [flair_jax.tokenize(texts, model.config.text.context_length) for model, _ in (short, long)]
    assert (tokens[0][0] != 0).sum() == 20, "the longest text that the kept rows hold"
    by_scorer = [Retriever(*each).encode_texts(ids) for each, ids in zip((short, long), tokens, strict=True)]
    np.testing.assert_array_equal(*by_scorer)
    encoded = [jax.jit(model.encode_text)(params, tokens[0][:, :20]) for model, params in (short, long)]
    np.testing.assert_array_equal(*encoded)
    # With all the padding that each model takes, XLA adds the zeros of masked tokens up in another order.
    padded = [jax.jit(m.encode_text)(params, ids) for (m, params), ids in zip((short, long), tokens, strict=True)]
    np.testing.assert_allclose(*padded, rtol=2e-5, atol=2e-6)
    longer = [flair_jax.tokenize([SHORT + " again today"], each) for each in (77, 248)]
    changed = [Retriever(*each).encode_texts(ids) for each, ids in zip((short, long), longer, strict=True)]
    assert np.abs(changed[0] - changed[1]).max() > 1e-4, (
        "row 20 stays too, as the first of the interpolated ones; row 21 does not"
    )


def test_packed_rows_and_what_is_cut_off_follow_the_model(weights) -> None:
    """Texts of up to 248 tokens in rows of 256 have the features of padded ones; all beyond counts as cut off."""
    folder, done = weights
    model, params = flair_jax.load(folder / "long")
    texts = ["a dog " * 120, "a cat " * 150, "a red circle", "one " * 200]
    tokens = flair_jax.tokenize(texts, 248)
    packed, cut = Packing(256, 3, devices=1, parts=1, end_of_text_id=None).pack(tokens)
    assert cut == 0
    padded = Retriever(model, params).encode_texts(tokens)
    # The tolerance of packed captions elsewhere: 2e-6 of the largest value.
    np.testing.assert_allclose(
        jax.jit(model.encode_packed)(params, packed), padded, rtol=0, atol=2e-6 * np.abs(padded).max()
    )
    # Of 240, 300, 3 and 200 tokens, a model that reads 246 loses 54, and one that reads 75 loses 165, 225 and 125.
    assert cut_off(texts, done.config.text) == CutOff(248, 1, 1 / 4, 54 / 743)
    assert cut_off(texts, read_config("tiny").text) == CutOff(77, 3, 3 / 4, 515 / 743)


def test_verify_stretches_too(weights) -> None:
    folder, _ = weights
    assert max(transfer.verify(str(folder / "tiny.safetensors"), folder / "long", stretch=Stretch(248)).values()) < 2e-5
    with pytest.raises(ConversionError, match="differs from PyTorch's arithmetic"):
        transfer.verify(str(folder / "tiny.safetensors"), folder / "long", stretch=Stretch(248, keep=2))


def test_the_command(weights, tmp_path, capsys) -> None:
    folder, _ = weights
    source, target = str(folder / "tiny.safetensors"), str(tmp_path / "long")
    assert main(["convert", source, target, "--context-length", "100", "--keep-positions", "30"]) == 0
    printed = capsys.readouterr().out
    assert "text 2 x 64, 100 tokens; embedding 64" in printed
    assert "the first 30 positions are kept, and of the others there are 1.49 times as many" in printed
    assert flair_jax.load(target)[1]["text"]["position_embedding"].shape == (100, 64)
    for flags, message in (
        (["--keep-positions", "30"], "--keep-positions 30 has no meaning without --context-length"),
        (["--context-length", "60"], "context length 60: the model reads 77 tokens already"),
    ):
        assert main(["convert", source, str(tmp_path / "none"), *flags]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "none").exists()


def test_training_says_how_to_start_a_longer_model(weights) -> None:
    folder, done = weights
    with pytest.raises(ConfigError, match=r"differ in text_cfg; `flair-jax convert --context-length 248` stretches it"):
        initial.initial_params(str(folder / "short"), flair_jax.Flair(done.config), {})
    with pytest.raises(ConfigError, match=r"differ in text_cfg$"):
        initial.initial_params(str(folder / "long"), flair_jax.Flair(read_config("tiny")), {})


@pytest.mark.parametrize(
    ("stretch", "message"),
    [
        (Stretch(77), "context length 77: the model reads 77 tokens already; take more"),
        (Stretch(-1), "context length -1: the model reads 77"),
        (Stretch(248, keep=76), "76 positions to keep, of 77: take from 0 to 75"),
        (Stretch(248, keep=-1), "-1 positions to keep"),
        (Stretch(1 << 21), "text.context_length=2097152 must be a whole number from 1 to 1048576"),
    ],
)
def test_what_cannot_be_stretched_is_refused(stretch: Stretch, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stretch.config(FlairConfig())


def test_the_preset_is_the_released_model_stretched() -> None:
    assert Stretch(248).config(read_config("ViT-B-16-FLAIR")) == read_config("ViT-B-16-FLAIR-248")


def test_padding_that_is_read_is_not_stretched() -> None:
    config = dataclasses.replace(FlairConfig(), text=dataclasses.replace(FlairConfig().text, causal=False))
    with pytest.raises(ConfigError, match="padding is part of each text"):
        Stretch(248).config(config)


class TestLongClip:
    """Checkpoints with the two tables of Long-CLIP's model/model_longclip.py, half precision as it saves them."""

    @pytest.fixture
    def tensors(self) -> dict[str, np.ndarray]:
        tensors = clip_tensors(read_config("tiny"))
        rng = np.random.default_rng(1)
        tables = {name: rng.normal(0, 0.3, (248, 64)) for name in ("positional_embedding", "positional_embedding_res")}
        return {name: np.asarray(tensor, np.float16) for name, tensor in {**tensors, **tables}.items()}

    def test_the_towers_convert_as_a_start(self, tensors, tmp_path) -> None:
        file = tmp_path / "longclip-T.pt"
        torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, file)
        done = transfer.convert(str(file), tmp_path / "start")
        assert done.config == dataclasses.replace(
            read_config("tiny"),
            quick_gelu=True,
            text=dataclasses.replace(read_config("tiny").text, context_length=248),
        )
        assert done.remarks[0] == "activation: QuickGELU, by a file of Long-CLIP"
        assert "positions: Long-CLIP's, the first 20 of one table and the others of the other" in done.remarks
        _, params = flair_jax.load(tmp_path / "start")
        # Its text tower adds table 1 times a mask of the first 20 places, and table 2 times a mask of the others.
        mask = (np.arange(248) < 20)[:, None]
        both = np.where(mask, tensors["positional_embedding"], tensors["positional_embedding_res"])
        np.testing.assert_array_equal(params["text"]["position_embedding"], both.astype(np.float32))
        assert max(transfer.verify(str(file), tmp_path / "start").values()) < 2e-5

    def test_tables_that_are_not_its_own_are_refused(self, tensors, tmp_path) -> None:
        del tensors["positional_embedding"]
        safetensors.numpy.save_file(tensors, tmp_path / "damaged.safetensors")
        with pytest.raises(ConversionError, match=r"damaged.*_res \[248, 64\] is that of a Long-CLIP.*is missing"):
            transfer.convert(str(tmp_path / "damaged.safetensors"), tmp_path / "start")
        tensors["positional_embedding"] = tensors["positional_embedding_res"][:77]
        with pytest.raises(ConversionError, match=r"and is \[77, 64\]"):
            joined_tables(tensors)
        short = {name: np.zeros((20, 64)) for name in ("positional_embedding", "positional_embedding_res")}
        with pytest.raises(ConversionError, match="more than 20 rows"):
            joined_tables(short)
