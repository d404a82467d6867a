"""One retrieval evaluation, from picture files and captions to metrics: read, embed, score, rank."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from flair_jax.data.image import open_rgb, preprocess
from flair_jax.data.sets.retrieval_data import Picture, RetrievalData, StoredPicture
from flair_jax.data.tokenizer import tokenize_for
from flair_jax.errors import ImageError
from flair_jax.evaluate.retrieval_details import find_worst, recall_by_length
from flair_jax.models.flair import Flair
from flair_jax.models.pooling import PreparedTexts
from flair_jax.parallel.processes import ALONE, Processes
from flair_jax.progress import ProgressBar
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.embedding import CutOff, check_broken, compute_in_blocks, cut_off, embed_tokens
from flair_jax.scoring.metrics import Ties, measure_retrieval
from flair_jax.scoring.ranking import ScoreBlock, best_images, count_ranks
from flair_jax.scoring.scorer import Retriever, top_k

RETRIEVAL_MODES = ("text-conditioned", "top-k", "global")


@dataclasses.dataclass(frozen=True)
class RetrievalSettings:
    """How to evaluate.

    Attributes:
      mode: "text-conditioned" (every pair), "top-k" (only the texts that score best globally for each image), "global".
      top_k: texts per image that "top-k" scores with pooling; all others rank below them.
      batch_size: images, and likewise texts, embedded at once over all devices.
      skip_broken: leave out pictures that cannot be read, and their captions, instead of failing.
    """

    mode: str = "text-conditioned"
    top_k: int = 128
    batch_size: int = 64
    skip_broken: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome.

    Attributes:
      metrics: see `flair_jax.retrieval_metrics`.
      ties: how equal scores affect them.
      images: number of images scored.
      texts: captions scored.
      cut_off: how much of the captions exceeds the model's context.
      skipped: messages about pictures that could not be read.
      seconds: wall time.
      by_length: see `retrieval_details.recall_by_length`.
      worst: see `retrieval_details.find_worst`.
    """

    metrics: dict[str, float]
    ties: Ties
    images: int
    texts: int
    cut_off: CutOff
    skipped: list[str]
    seconds: float
    by_length: list[dict[str, Any]]
    worst: list[dict[str, Any]]


def evaluate(
    model: Flair,
    retriever: Retriever,
    data: RetrievalData,
    settings: RetrievalSettings,
    store: BlockStore,
    processes: Processes = ALONE,
) -> Evaluation:
    """Evaluates retrieval on one set, with progress bars on stderr.

    With several processes, every process must call this. Each reads and embeds its part of the images and texts, and
    scores its images with all texts. They exchange text features, each text's score with its own image, and counts
    of better scores; the whole score matrix is never in one place.

    Args:
      model: for its image size and context length.
      retriever: the model on its devices.
      data: pictures and captions.
      settings: how.
      store: finished blocks go there; those of an earlier, stopped run are taken from there. Emptied at the end.
      processes: that share the work.

    Returns:
      The outcome, the same on all processes except for `seconds`.

    Raises:
      DatasetError: listing the pictures that could not be read, by any process.
    """
    return _Evaluator(model, retriever, settings, store, processes).run(data)


@dataclasses.dataclass(frozen=True)
class _Evaluator:
    """`evaluate`, step by step; its arguments."""

    model: Flair
    retriever: Retriever
    settings: RetrievalSettings
    store: BlockStore
    processes: Processes

    @property
    def batch_size(self) -> int:
        """Images, and texts, that one process embeds at once."""
        return -(-self.settings.batch_size // self.processes.count)

    def run(self, data: RetrievalData) -> Evaluation:
        start, processes = time.monotonic(), self.processes
        if processes.count > 1:
            processes.agree(data.digest(), "the pictures or captions")
        first = processes.part(len(data.images)).start
        blocks, own_broken = processes.together(lambda: self.embed_images(data.images))
        broken = {number: message for each in processes.gather(list(own_broken.items())) for number, message in each}
        check_broken(broken, len(data.images), skip=self.settings.skip_broken)
        data = data.keep_images(np.array([number not in broken for number in range(len(data.images))]))
        first -= sum(number < first for number in broken)
        # Which texts and rows there are depends on what was left out, and a picture may be repaired before the next
        # run.
        left_out = hashlib.sha256(str(sorted(broken)).encode()).hexdigest()[:8]
        text, distinct = self.embed_texts(data.texts, left_out)
        scores = processes.together(lambda: self.score(blocks, text, distinct, f"scores-{left_out}", first))
        counts, image_ranks = count_ranks(scores, first, data.image_of_text, processes)
        metrics, ties = measure_retrieval(counts, image_ranks)
        text_ranks = counts[0] + counts[1]
        worst = find_worst(data, text_ranks, partial(best_images, scores, first, processes=processes))
        self.store.remove()
        return Evaluation(
            metrics,
            ties,
            len(data.images),
            len(data.texts),
            cut_off(data.texts, self.model.config.text),
            list(broken.values()),
            time.monotonic() - start,
            recall_by_length(data.texts, text_ranks, self.model.config.text),
            worst,
        )

    def read_image(self, picture: Picture) -> np.ndarray:
        """uint8 [S, S, 3]; raises ImageError that names the picture."""
        if not isinstance(picture, StoredPicture):
            return preprocess(str(picture), size=self.model.config.vision)
        try:
            return preprocess(open_rgb(picture.read()), size=self.model.config.vision)
        except ImageError as error:
            raise ImageError(f"{picture.name}: {error}", error.kind) from None

    def embed_images(self, paths: Sequence[Picture]) -> tuple[list[ScoreBlock], dict[int, str]]:
        """Blocks of this process's images without the broken pictures, and the latter's messages."""
        part, with_local = self.processes.part(len(paths)), self.settings.mode != "global"
        pad_to = min(self.batch_size, len(part))
        return compute_in_blocks(
            [paths[number] for number in part],
            self.read_image,
            lambda pixels: self.retriever.encode_images(np.stack(pixels), with_local=with_local, pad_to=pad_to),
            self.store,
            size=self.batch_size,
            skip_broken=self.settings.skip_broken,
            first=part.start,
            progress=self.processes.index == 0,
        )

    def embed_texts(self, texts: Sequence[str], left_out: str) -> tuple[np.ndarray, np.ndarray]:
        """Features [U, D] of the distinct texts, and int64 [N], the index among these of each text.

        Texts with the same tokens share one feature and so one score: they tie in whatever batch and process.
        """
        tokens, distinct = np.unique(tokenize_for(self.model.config.text, texts), axis=0, return_inverse=True)
        part = self.processes.part(len(tokens))

        def embed() -> np.ndarray:
            with ProgressBar(total=len(part), description="texts", unit="text", shown=self.processes.index == 0) as bar:
                own = tokens[part.start : part.stop]
                return embed_tokens(self.model, self.retriever, own, self.batch_size, bar)

        name = f"distinct-texts-{left_out}-{part.start:08d}"
        here = self.processes.together(lambda: self.store.get_or_compute(name, embed))
        return np.concatenate(self.processes.gather_arrays(here)), distinct.reshape(-1)

    def score(
        self, blocks: Sequence[ScoreBlock], text: np.ndarray, distinct: np.ndarray, name: str, first: int
    ) -> list[ScoreBlock]:
        """Scores [b, N] of each block of this process's images; -inf for pairs that the mode does not score.

        Args:
          blocks: image tokens.
          text: features of the distinct texts.
          distinct: [N], each text's index among these.
          name: prefix of the scores' names in the store, before the number of their first image.
          first: number of this process's first image.
        """
        pad_to = max((block.images for block in blocks), default=0)
        score = partial(self.score_block, text, self.retriever.prepare_texts(text), distinct, pad_to)
        per_image = min(self.settings.top_k, len(distinct)) if self.settings.mode == "top-k" else len(distinct)
        pairs = per_image * sum(block.images for block in blocks)
        scored: list[ScoreBlock] = []
        with ProgressBar(total=pairs, description="scores", unit="pair", shown=self.processes.index == 0) as bar:
            for block in blocks:
                called = f"{name}-{first + sum(block.images for block in scored):08d}"
                if called not in self.store:
                    self.store.put(called, score(block.read()))
                scored.append(ScoreBlock(block.images, partial(self.store.get, called)))
                bar.update(block.images * per_image)
        return scored

    def score_block(
        self, text: np.ndarray, prepared: PreparedTexts, distinct: np.ndarray, pad_to: int, tokens: np.ndarray
    ) -> np.ndarray:
        """Scores of one block, whose image tokens are [b, 1 + L, D]; `text` and `prepared` are the distinct texts."""
        if self.settings.mode == "text-conditioned":
            return self.retriever.score_all(tokens[:, 1:], prepared, pad_to=pad_to).take(distinct, axis=1)
        scores = self.retriever.score_global(tokens[:, 0], text, pad_to=pad_to).take(distinct, axis=1)
        if self.settings.mode == "global":
            return scores
        candidates = top_k(scores, self.settings.top_k)
        chosen = distinct[candidates]
        pooled = self.retriever.score_top_k(chosen, tokens[:, 1:], prepared, pad_to=pad_to)
        reranked = np.empty((len(scores), len(text)), np.float32)
        np.put_along_axis(reranked, chosen, pooled, axis=1)
        scores = np.full_like(scores, -np.inf)
        np.put_along_axis(scores, candidates, np.take_along_axis(reranked, chosen, axis=1), axis=1)
        return scores
