"""Token lengths of training captions, and the rows that are recommended for them."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from made_tars import sample, write_tar

from flair_jax.cli import main
from flair_jax.data.lengths import _odds_of_more, advise, describe, draw_lengths
from flair_jax.data.packing import Packing
from flair_jax.data.pipeline import SampleSettings, load_sample
from flair_jax.data.sources import Record
from flair_jax.data.tars import TarSource
from flair_jax.errors import DatasetError
from flair_jax.models.config import FlairConfig, TextConfig
from flair_jax.models.description import config_to_json
from flair_jax.models.tokens import find_end


def mix(images: int, captions: int = 8, seed: int = 0) -> np.ndarray:
    """Lengths as measured of recaptioned sets: mean 41, median 40, 90 % at most 69, 99 % at most 77."""
    shares = np.random.default_rng(seed).random((images, captions))
    return np.round(np.interp(shares, (0, 0.1, 0.5, 0.9, 0.99, 1), (5, 15, 40, 69, 77, 77))).astype(np.int64)


def test_description() -> None:
    found = describe(np.array([[2, 4], [6, 8]]), 10)
    assert (found.images, found.captions_per_image, found.context_length) == (2, 2, 10)
    assert (found.mean, found.p50, found.p90, found.p99) == (5, 6, 8, 8)
    assert found.padding == 0.5


def test_odds_are_those_of_all_outcomes() -> None:
    """Of two images with 1 or 3 tokens, a third of which have 1: sums of 2, 4, 6 with odds 1, 4, 4 ninths."""
    odds = _odds_of_more(np.array([1, 3, 3]), 2)
    assert odds == pytest.approx([1, 1, 8 / 9, 8 / 9, 4 / 9, 4 / 9, 0], abs=1e-12)  # rounding of the transform


def test_odds_far_out() -> None:
    """100 fair coins that show 1 or 2: the odds of 150 or more heads' worth are a binomial's tail."""
    exact = sum(math.comb(100, heads) for heads in range(81, 101)) / 2**100
    assert _odds_of_more(np.array([1, 2]), 100)[180] == pytest.approx(exact, rel=1e-5)  # 1.4e-10: noise is 1e-16


@pytest.mark.parametrize(("images", "parts"), [(8, 4), (128, 1)])
def test_odds_hold_in_batches_that_are_packed(images: int, parts: int) -> None:
    """Other batches of the same lengths, by the packer that training uses; a step has 2 groups in 2 * `parts` parts."""
    lengths = mix(5000)
    groups = 2 * parts
    advice = advise(lengths, row_tokens=128, images=images, groups=groups, progress=False)
    rng = np.random.default_rng(1)
    steps = 60
    for budget, most in zip(advice.budgets, (4, 0, 0), strict=True):  # of 60 steps, 1 % is 0.6: 4 have odds of 0.4 %
        packing = Packing(128, budget.rows, devices=2, parts=parts, end_of_text_id=None)
        cut = 0
        for _ in range(steps):
            drawn = lengths[rng.integers(0, len(lengths), images * groups)].ravel()
            tokens = (np.arange(77) == drawn[:, None] - 1).astype(np.int32)
            cut += packing.pack(tokens)[1] > 0
        assert cut <= most
    shares = [budget.steps_that_cut for budget in advice.budgets]
    assert all(share <= goal for share, goal in zip(shares, (1e-2, 1e-4, 1e-6), strict=True))
    assert advice.tokens_per_caption == advice.budgets[-1].tokens_per_caption < (60 if images == 8 else 46)
    assert advice.spread == pytest.approx(0.484 / math.sqrt(8 * images), rel=0.03)  # sampled from 40,000 lengths


def test_calculated_odds_are_not_less_than_the_counted() -> None:
    """Where cuts are common, so that simulated groups show them: within 3 standard deviations of their number."""
    advice = advise(mix(5000), row_tokens=128, images=8, groups=1, budgets=(42.0, 44.0, 46.0), progress=False)
    for budget in advice.budgets[3:]:
        counted, noise = budget.groups_that_cut / advice.simulated, 1.5 / math.sqrt(advice.simulated)
        assert 0 < counted < budget.steps_that_cut + noise
        assert budget.steps_that_cut < counted + 0.35  # it sets aside the row that the worst packing wastes


def test_captions_of_one_image_may_be_alike() -> None:
    """Then a group's tokens spread more, and more are reserved."""
    lengths = np.repeat(mix(5000, captions=1), 8, axis=1)
    alike, apart = (advise(each, row_tokens=128, images=64, groups=1, progress=False) for each in (lengths, mix(5000)))
    assert alike.spread == pytest.approx(apart.spread * math.sqrt(8), rel=0.05)  # sampled from 5,000 images
    assert alike.tokens_per_caption > apart.tokens_per_caption + 5


def test_captions_that_fill_rows_exactly() -> None:
    advice = advise(np.full((10, 2), 77), row_tokens=77, images=4, groups=1, progress=False)
    assert advice.tokens_per_caption == 77
    assert [budget.rows for budget in advice.budgets] == [8, 8, 8]
    assert advice.budgets[-1].steps_that_cut == 0
    short = advise(np.full((10, 2), 2), row_tokens=77, images=4, groups=1, progress=False)
    assert short.tokens_per_caption >= 8  # the least that may be set


class Sentences:
    """Records of one sentence each, of as many words as their number and one; every fifth cannot be read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Record:
        if index % 5 == 4:
            raise DatasetError("damaged")
        return Record(b"", ["dog " * (1 + index)])

    def where(self, index: int) -> str:
        return f"record {index}"


def test_lengths_are_the_captions() -> None:
    settings = SampleSettings(seed=0, image_size=8, context_length=12, captions_per_image=2, merged_sentences=1)
    found = draw_lengths(Sentences(), settings, None, processes=1, progress=False)
    usable = [index for index in range(20) if index % 5 != 4]
    assert found.tolist() == [[min(index + 3, 12)] * 2 for index in usable]


def test_lengths_are_distributed_as_in_training(tmp_path) -> None:
    """1,600 captions of either; the sampler's own distribution is tested elsewhere."""
    source = TarSource(str(write_tar(tmp_path / "0.tar", [each for n in range(8) for each in sample(n)])))
    settings = SampleSettings(seed=0, image_size=8, context_length=20, captions_per_image=200)
    found = draw_lengths(source, settings, None, processes=1, progress=False)
    tokens = np.concatenate([load_sample(source, settings, 0, number).tokens for number in range(8)])
    expected = find_end(tokens, None) + 1
    assert found.mean() == pytest.approx(expected.mean(), rel=0.06)  # 3 standard errors of either, of 0.5 / 40
    assert set(np.unique(found)) == set(np.unique(expected))


def stats(tmp_path, *words: str) -> int:
    shard = write_tar(tmp_path / "0.tar", [each for number in range(3) for each in sample(number)])
    return main(["data", "stats", str(shard), "--processes=1", *words])


def test_stats_recommend_what_to_set(tmp_path, capsys) -> None:
    words = ("--config=cc3m_recap", "--config.batch_size=32", "--config.accumulation_steps=2", "--devices=4")
    words = (*words, "--config.loss.group_size=0", "--config.packing.tokens_per_caption=8.0")
    assert stats(tmp_path, *words, "--json", str(tmp_path / "found.json")) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["samples"] == found["captions"]["images"] == 3
    assert found["captions"]["captions_per_image"] == 8
    packing = found["packing"]
    assert (packing["groups"], packing["captions"], packing["row_tokens"]) == (8, 32, 128)
    assert packing["budgets"][-1]["tokens_per_caption"] == 8
    assert packing["budgets"][-1]["groups_that_cut"] == packing["simulated"]
    assert f"recommended: config.packing.tokens_per_caption={packing['tokens_per_caption']:g}\n" in out
    assert "in rows of 128, 8 groups of 32 captions a step" in out
    assert re.search(rf"end: mean +{found['captions']['mean']:.1f}\n", out)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--devices=7",), "--devices 7: config.batch_size=1024 in 1 part does not divide over them"),
        (("--devices=4", "--config.mesh.tensor=3"), "does not divide over them with config.mesh.tensor=3"),
        (("--config.batchsize=8",), "--config.batchsize: no such field"),
        (("--config=nothing",), "--config=nothing: no such configuration file"),
        (("--config.packing.row_tokens=64",), "config.packing.row_tokens=64 is less than the model's context length"),
        (("--wrong",), "unrecognized arguments: --wrong"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(tmp_path, capsys, words: tuple[str, ...], sentence: str) -> None:
    assert stats(tmp_path, *words) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert "samples" not in said.out


def test_a_model_that_reads_padding(tmp_path, capsys) -> None:
    model = config_to_json(dataclasses.replace(FlairConfig(), text=TextConfig(causal=False)))
    (tmp_path / "model.json").write_text(json.dumps(model))
    assert stats(tmp_path, f"--config.model={tmp_path / 'model.json'}", "--json", str(tmp_path / "found.json")) == 0
    assert "they cannot be packed: the model's text tower is not causal\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["packing"] is None


def test_no_captions(tmp_path, capsys) -> None:
    shard = write_tar(tmp_path / "0.tar", [("a.json", b"{}")])
    assert main(["data", "stats", str(shard), "--processes=1", "--json", str(tmp_path / "found.json")]) == 0
    assert "recommended" not in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["captions"] is None
