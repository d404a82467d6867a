import collections
import dataclasses
import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from flair_jax.data.captions import sample_caption
from flair_jax.data.image import random_crop_box
from flair_jax.data.pipeline import SampleSettings, batches, load_sample
from flair_jax.data.sources import Record, TfdsSource
from flair_jax.data.tokenizer import tokenize
from flair_jax.errors import ConfigError, DatasetError

SETTINGS = SampleSettings(seed=3, image_size=16, context_length=12, captions_per_image=2)


class MadeSource:
    """Pictures of one colour, which is the number of the sample."""

    def __init__(self, count: int, broken: tuple[int, ...] = (), silent: tuple[int, ...] = ()) -> None:
        self.count, self.broken, self.silent = count, broken, silent

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if index in self.broken:
            return Record(b"not a picture", ["a"])
        stream = io.BytesIO()
        Image.new("RGB", (24, 20), (index, 0, 0)).save(stream, "png")
        return Record(stream.getvalue(), [] if index in self.silent else [f"sample {index}", "second", "third"])

    def where(self, index: int) -> str:
        return f"made {index}"


def take(count: int, source=None, **settings) -> list:
    stream = batches([MadeSource(10) if source is None else source], SETTINGS, 4, **settings)
    taken = [next(stream) for _ in range(count)]
    stream.close()
    return taken


def assert_same(one: list, other: list) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for left, right in zip(a, b, strict=True):
            np.testing.assert_array_equal(left, right)


def test_epochs_are_whole_and_in_another_order() -> None:
    numbers = np.concatenate([batch.samples for batch in take(5)])
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
    assert (numbers[:10] != numbers[10:]).any()


def test_pixels_and_captions_belong_to_the_sample() -> None:
    for batch in take(3):
        assert batch.pixels.shape == (4, 16, 16, 3)
        assert batch.tokens.shape == (8, 12)
        np.testing.assert_array_equal(batch.pixels[:, 0, 0, 0], batch.samples)


def test_goes_on_from_any_batch() -> None:
    assert_same(take(7)[4:], take(3, first=4))


@pytest.mark.parametrize("processes", [2, 4])
def test_hosts_have_their_parts_in_order(processes: int) -> None:
    parts = [take(5, process=process, processes=processes, first=1) for process in range(processes)]
    joined = [
        type(rows[0])(*(np.concatenate([np.atleast_1d(part) for part in parts]) for parts in zip(*rows, strict=True)))
        for rows in zip(*parts, strict=True)
    ]
    assert_same(joined, take(6)[1:])


def test_workers_change_nothing() -> None:
    assert_same(take(6, first=2), take(6, first=2, workers=2))


def test_randomness_is_the_samples_own() -> None:
    source = MadeSource(4)
    again, other_epoch = (load_sample(source, SETTINGS, epoch, 2)[1] for epoch in (0, 1))
    np.testing.assert_array_equal(load_sample(source, SETTINGS, 0, 2)[1], again)
    assert (again != other_epoch).any()


class DrawingSource(MadeSource):
    """Draws captions itself: the first sentence, then the others in random order, `short` too few."""

    def __init__(self, count: int, short: int = 0) -> None:
        super().__init__(count)
        self.short = short

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)

        def draw(rng: np.random.Generator, count: int) -> list[str]:
            return [record.sentences[0], *rng.permutation(record.sentences[1:])][: count - self.short]

        return dataclasses.replace(record, draw=draw)


def test_a_source_may_draw_the_captions() -> None:
    settings = dataclasses.replace(SETTINGS, captions_per_image=3)
    texts = lambda epoch: load_sample(DrawingSource(10), settings, epoch, 4).tokens  # noqa: E731
    orders = [tokenize(["sample 4", *two], 12) for two in (("second", "third"), ("third", "second"))]
    found = [[(order == texts(epoch)).all() for order in orders].index(True) for epoch in range(8)]
    assert set(found) == {0, 1}  # another order in other epochs, and always the source's own first text
    np.testing.assert_array_equal(texts(0), texts(0))
    # In worker processes, too, which import nothing of this file.
    stream = batches([DrawingSource(10)], settings, 4, workers=2)
    assert next(stream).tokens.shape == (12, 12)
    stream.close()


def test_a_source_that_draws_too_few_captions() -> None:
    with pytest.raises(DatasetError, match="made 4: its source draws 1 captions; config.captions_per_image is 2"):
        load_sample(DrawingSource(10, short=1), SETTINGS, 0, 4)


class Broken(MadeSource):
    """One that gives something else than records, or fails."""

    def __init__(self, broken) -> None:
        super().__init__(10)
        self.give = broken

    def __getitem__(self, index: int) -> Record:
        return self.give(super().__getitem__(index))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda record: 1 / 0, "its source has failed .ZeroDivisionError: division by zero"),
        (lambda record: record.image, "must give a flair_jax.data.Record with a list of sentences, not bytes"),
        (lambda record: Record(record.image, "A dog."), "not sentences in one text"),
    ],
)
def test_a_source_that_fails_ends_the_stream(broken, words: str, workers: int) -> None:
    """A text has characters where a list has sentences; as captions they would be nonsense."""
    with pytest.raises(DatasetError, match=rf"^.+: .*{words}"):
        next(batches([Broken(broken)], SETTINGS, 4, workers=workers))


def test_a_source_that_workers_cannot_be_sent() -> None:
    source = Broken(threading.Lock())
    with pytest.raises(ConfigError, match=r"cannot pickle .*config.data.workers=0"):
        next(batches([source], SETTINGS, 4, workers=1))


def test_what_cannot_be_used_is_replaced_by_the_next(caplog) -> None:
    source = MadeSource(6, broken=(2,), silent=(3,))
    pixels, _, number = load_sample(source, SETTINGS, 0, 2)
    assert pixels[0, 0, 0] == number == 4
    assert "sample 2 is skipped (made 2): the picture: cannot be read" in caplog.text
    assert "sample 3 is skipped (made 3): there is no caption" in caplog.text
    with pytest.raises(
        DatasetError, match="4 samples from number 0 on cannot be used, the first for this reason: made 0: the pi"
    ):
        load_sample(MadeSource(4, broken=(0, 1, 2, 3)), SETTINGS, 0, 0)


def test_skipped_samples_are_counted_whenever_and_named_once(caplog) -> None:
    """In two epochs."""
    taken = take(5, MadeSource(10, broken=(2, 3)))
    assert sum(batch.skipped for batch in taken) == 4
    assert sorted(message[:20] for message in caplog.messages) == ["sample 2 is skipped ", "sample 3 is skipped "]
    assert not {2, 3} & set(np.concatenate([batch.samples for batch in taken]))


def mixed(count: int, **settings) -> list[np.ndarray]:
    stream = batches([MadeSource(10), MadeSource(30)], SETTINGS, 4, **settings)
    taken = [next(stream).samples for _ in range(count)]
    stream.close()
    return taken


def test_without_weights_an_epoch_is_every_sample_once() -> None:
    assert sorted(np.concatenate(mixed(10))) == list(range(40))


def test_weights_set_the_parts_and_each_source_keeps_its_epochs() -> None:
    numbers = np.concatenate(mixed(20, weights=(3, 1)))
    first, second = numbers[numbers < 10], numbers[numbers >= 10]
    assert (len(first), len(second)) == (60, 20)
    for epoch in first.reshape(6, 10):
        assert sorted(epoch) == list(range(10))
    assert len(set(second)) == 20
    resumed = mixed(5, weights=(3, 1), first=15)
    np.testing.assert_array_equal(np.concatenate(resumed), numbers[60:])


def test_empty_source() -> None:
    with pytest.raises(DatasetError, match="holds no samples"):
        take(1, MadeSource(0))


def test_missing_tfds(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no prepared data set nothing there"):
        TfdsSource("nothing", tmp_path, "train")


def test_a_folder_is_no_name_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways to name what may be in it are said."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"its tars, as in mine/\*.tar; .* the set `folder` with --data-dir mine "):
        TfdsSource("mine", tmp_path / "tfds", "train")


def test_crop_boxes_keep_to_their_bounds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        width, height = rng.integers(20, 400, 2)
        top, left, box_height, box_width = random_crop_box(width, height, rng)
        assert top >= 0
        assert left >= 0
        assert top + box_height <= height
        assert left + box_width <= width
        if 3 / 4 <= width / height <= 4 / 3:
            assert 0.85 <= box_width * box_height / (width * height) <= 1
        assert 0.7 <= box_width / box_height <= 1.4  # 3/4 to 4/3, but for rounding to pixels
    # A picture far from square: the central box of the allowed ratio, as torchvision has it.
    assert random_crop_box(400, 100, rng) == (0, 133, 100, 133)
    assert random_crop_box(64, 64, rng, scale=(1.0, 1.0)) == (0, 0, 64, 64)


def classify(caption: str, sentences: list[str]) -> str:
    parts = caption.split(". ")
    if len(parts) == 1:
        return "1"
    numbers = [sentences.index(part) for part in parts]
    if numbers == list(range(numbers[0], numbers[0] + len(parts))):
        return f"{len(parts)}:consecutive_start_{numbers[0]}"
    return f"{len(parts)}:scattered"


def p_value(ours: collections.Counter, theirs: dict[str, int]) -> float:
    """That both counts come from one distribution (chi-square test of homogeneity)."""
    names = sorted(set(ours) | set(theirs))
    return stats.chi2_contingency([[ours[name] for name in names], [theirs.get(name, 0) for name in names]]).pvalue


@pytest.mark.golden
def test_golden_caption_sampling(golden: Path) -> None:
    """The seed is fixed; a right sampler fails at p <= 0.001 for one seed in a thousand."""
    data = json.loads((golden / "captions.json").read_text())
    rng = np.random.default_rng(0)
    draws = data["draws"] // 4
    ours = collections.Counter(classify(sample_caption(data["order"], rng), data["order"]) for _ in range(draws))
    assert p_value(ours, data["classes"]) > 0.001
    for count, theirs in data["few_sentences"].items():
        sentences = [f"s{number}" for number in range(int(count))]
        few = collections.Counter(sample_caption(sentences, rng) for _ in range(20_000))
        assert set(few) == set(theirs)
        assert p_value(few, theirs) > 0.001
