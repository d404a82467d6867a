"""Captions packed into rows: each whole, apart from the others, and where it is said to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flair_jax.data.packing import Packing, check_rows, place, rows_of
from flair_jax.errors import ConfigError
from flair_jax.setting_checks import FEWEST_TOKENS

END = 999  # the highest id, so that it is found as in CLIP


def captions_of(lengths: list[int], context: int) -> np.ndarray:
    """Captions of so many tokens, all of whose tokens differ, padded with 0."""
    tokens = np.zeros((len(lengths), context), np.int32)
    for number, length in enumerate(lengths):
        tokens[number, :length] = 1 + (number * context + np.arange(length)) % 900
        tokens[number, length - 1] = END
    return tokens


def unpacked(packed, row_tokens: int) -> list[list[list[int]]]:
    """The captions of each group, by what is in the rows and nothing else."""
    found = []
    for tokens, positions, segments, ends in zip(*packed, strict=True):
        of_group = []
        for end in ends:
            row, column = divmod(int(end), row_tokens)
            (place,) = np.nonzero(segments[row] == segments[row, column])
            assert segments[row, column] > 0
            assert (np.diff(place) == 1).all()  # in one piece
            assert place[-1] == column  # which ends there
            assert (positions[row, place] == np.arange(len(place))).all()
            of_group.append(tokens[row, place].tolist())
        unused = segments == 0
        assert not tokens[unused].any()
        assert not positions[unused].any()
        assert (~unused).sum() == sum(map(len, of_group))  # nothing lies over anything else, and nothing is there twice
        found.append(of_group)
    return found


@given(
    images=st.integers(1, 6),
    captions=st.integers(1, 4),
    devices=st.integers(1, 3),
    parts=st.integers(1, 3),
    budget=st.floats(FEWEST_TOKENS, 24),
    data=st.data(),
)
@settings(deadline=None, max_examples=150)
def test_every_caption_is_whole_unless_it_is_counted(images, captions, devices, parts, budget, data) -> None:
    context, row_tokens = 20, data.draw(st.integers(20, 45))
    count = images * devices * parts * captions
    lengths = data.draw(st.lists(st.integers(2, context), min_size=count, max_size=count))
    tokens = captions_of(lengths, context)
    rows = rows_of(images * captions, budget, row_tokens)
    packing = Packing(row_tokens, rows, devices, parts, None)
    packed, cut = packing.pack(tokens)
    assert packed.tokens.shape == packed.positions.shape == packed.segments.shape == (devices * parts, rows, row_tokens)
    assert packed.ends.shape == (devices * parts, images * captions)
    # Part p of a device has each of its captions whose number is p modulo the parts.
    numbers = np.arange(count).reshape(devices, -1, parts).swapaxes(1, 2).reshape(devices * parts, -1)
    shorter = 0
    for group, found in zip(numbers, unpacked(packed, row_tokens), strict=True):
        for number, caption in zip(group, found, strict=True):
            whole = tokens[number, : lengths[number]].tolist()
            shorter += len(caption) < len(whole)
            assert caption == [*whole[: len(caption) - 1], END]
            assert len(caption) >= 2
    assert cut == shorter
    again, cut_again = packing.pack(tokens)
    assert cut_again == cut
    assert all((one == other).all() for one, other in zip(packed, again, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_full_rows_of_mixed_captions_lose_nothing(seed: int) -> None:
    """1,024 captions as of a training mix in rows for 2 % more tokens than they have: none is cut."""
    lengths = np.clip(np.random.default_rng(seed).normal(41, 18, 1024).round(), 4, 77).astype(int)
    rows = rows_of(1024, 1.02 * lengths.mean(), 128)
    _, _, kept = place(lengths, rows, 128)
    assert (kept == lengths).all()


def test_a_small_budget_cuts_few_captions() -> None:
    """All are of 77 tokens and half of them fit, one in each row of 100: the others get the 23 that are left."""
    row, column, kept = place(np.full(64, 77), 32, 100)
    assert sorted(kept) == sorted([77] * 32 + [23] * 32)
    assert sorted(zip(row.tolist(), column.tolist(), strict=True)) == [(r, c) for r in range(32) for c in (0, 77)]


def test_where_rows_are_full_the_longest_make_room() -> None:
    _, _, kept = place(np.full(16, 77), rows_of(16, FEWEST_TOKENS, 77), 77)
    assert kept.min() >= 2
    assert kept.sum() == 2 * 77


def test_captions_without_words_are_two_tokens() -> None:
    packed, cut = Packing(77, 1, 1, 1, None).pack(captions_of([2] * 8, 77))
    assert cut == 0
    assert packed.segments[0, 0, :17].tolist() == [*np.repeat(np.arange(1, 9), 2), 0]
    assert packed.ends[0].tolist() == list(range(1, 17, 2))


def test_an_end_of_text_id_ends_the_caption() -> None:
    tokens = np.array([[5, 900, 7, 7], [5, 6, 6, 7]], np.int32)
    packed, _ = Packing(8, 1, 1, 1, 7).pack(tokens)
    assert packed.tokens[0, 0].tolist() == [5, 6, 6, 7, 5, 900, 7, 0]
    assert packed.ends.tolist() == [[6, 3]]


def test_rows_shorter_than_captions_are_refused() -> None:
    check_rows(77, 77)
    with pytest.raises(ConfigError, match=r"config.packing.row_tokens=64 is less than the model's context length, 77"):
        check_rows(64, 77)
