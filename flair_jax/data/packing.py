"""Captions packed into rows without padding, in the workers that load them. Imports no JAX."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from flair_jax.errors import ConfigError
from flair_jax.models.tokens import PackedTexts, find_end

# What is left of a caption at least: where it starts, and its end. Rows have `setting_checks.FEWEST_TOKENS` for each
# caption, so if no row has room for that, some caption is long enough to be halved.
_SHORTEST = 2


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the captions of one process's images are packed.

    Attributes:
      row_tokens: P, tokens of a row; at least the longest caption.
      rows: R, rows of a group.
      devices: how many devices share the process's images: each has a contiguous part of them.
      parts: in how many parts each device's captions are encoded, as `accumulation_steps`; part p has every caption
        whose number is p modulo the parts. Each part of a device is a group.
      end_of_text_id: see `flair_jax.models.tokens.find_end`.
    """

    row_tokens: int
    rows: int
    devices: int
    parts: int
    end_of_text_id: int | None

    def pack(self, tokens: np.ndarray) -> tuple[PackedTexts, int]:
        """Captions as packed rows, and how many had to be cut.

        A caption that fits in no row is cut to the room that is left, and keeps its last token, the end of the text.

        Args:
          tokens: int32 [n*K, T], causal: what follows a caption's end is not read.

        Returns:
          `PackedTexts` of G = devices * parts groups, in the order of the devices.
        """
        lengths = find_end(tokens, self.end_of_text_id) + 1
        groups = np.arange(len(tokens)).reshape(self.devices, -1, self.parts).swapaxes(1, 2)
        packed, cut = [], 0
        for group in groups.reshape(self.devices * self.parts, -1):
            texts, cut_here = _pack_group(tokens[group], lengths[group], self.rows, self.row_tokens)
            packed.append(texts)
            cut += cut_here
        return PackedTexts(*map(np.stack, zip(*packed, strict=True))), cut


def rows_of(captions: int, tokens_per_caption: float, row_tokens: int) -> int:
    """R, the rows that hold a group's captions at so many tokens each, rounded up; no more than one for each."""
    return min(captions, math.ceil(captions * tokens_per_caption / row_tokens))


def check_rows(row_tokens: int, context_length: int) -> None:
    """Raises ConfigError if the longest caption does not fit in a row."""
    if row_tokens < context_length:
        raise ConfigError(
            f"config.packing.row_tokens={row_tokens} is less than the model's context length, {context_length}: a "
            "caption lies in one row. Take at least as many, or 0 for padded captions"
        )


def place(lengths: np.ndarray, rows: int, row_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds a row for each caption, the longest first, each where it leaves the least room (best fit decreasing).

    Captions that fit nowhere come last. Each takes the row with the most room, and where no row has room for it, half
    of the place of the longest caption.

    Args:
      lengths: int [C], tokens of each caption, from 1 to `row_tokens`.
      rows: R; `rows_of` gives enough of them for some of each caption.
      row_tokens: P.

    Returns:
      int [C] each: the caption's row, its first token's column, and how many of its tokens are kept.
    """
    row, column, kept = np.zeros((3, len(lengths)), np.int64)
    with_room: list[list[int]] = [[] for _ in range(row_tokens + 1)]  # rows by their room
    with_room[row_tokens] = list(range(rows))[::-1]

    def put(caption: int, room: int, length: int) -> None:
        chosen = with_room[room].pop()
        row[caption], column[caption], kept[caption] = chosen, row_tokens - room, length
        with_room[room - length].append(chosen)

    homeless = []
    for caption in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[caption])
        room = next((room for room in range(length, row_tokens + 1) if with_room[room]), None)
        if room is None:
            homeless.append(caption)
        else:
            put(caption, room, length)
    for caption in homeless:
        length = int(lengths[caption])
        room = max(room for room in range(row_tokens + 1) if with_room[room])
        if room >= min(length, _SHORTEST):
            put(caption, room, min(length, room))
        else:
            longest = int(np.argmax(kept))
            given = min(length, int(kept[longest]) // 2)
            kept[longest] -= given
            row[caption], column[caption], kept[caption] = row[longest], column[longest] + kept[longest], given
    return row, column, kept


def _pack_group(
    tokens: np.ndarray, lengths: np.ndarray, rows: int, row_tokens: int
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], int]:
    """The fields of `PackedTexts` for one group, and how many captions are cut."""
    row, column, kept = place(lengths, rows, row_tokens)
    starts = row * row_tokens + column
    caption = np.repeat(np.arange(len(kept)), kept)
    position = np.arange(len(caption)) - np.repeat(np.cumsum(kept) - kept, kept)
    # The last token that is kept is the caption's last.
    source = np.where(position == kept[caption] - 1, lengths[caption] - 1, position)
    order = np.argsort(starts)
    first_in_row = np.searchsorted(row[order], row[order])
    segment = np.empty(len(kept), np.int32)
    segment[order] = np.arange(len(kept)) - first_in_row + 1
    packed = np.zeros((3, rows * row_tokens), np.int32)
    packed[:, starts[caption] + position] = tokens[caption, source], position, segment[caption]
    shape = (rows, row_tokens)
    fields = (*(each.reshape(shape) for each in packed), (starts + kept - 1).astype(np.int32))
    return fields, int(np.count_nonzero(kept < lengths))
