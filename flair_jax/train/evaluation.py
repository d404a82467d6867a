"""Retrieval evaluation during a training run."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from pathlib import Path

from flair_jax.data.formats import examine, read_file
from flair_jax.data.sets.retrieval import RetrievalData, find_retrieval_set
from flair_jax.errors import ConfigError, DatasetError, ImageError
from flair_jax.evaluate.retrieval import RETRIEVAL_MODES, RetrievalSettings, evaluate
from flair_jax.files import expand
from flair_jax.models.flair import Flair, Params
from flair_jax.parallel.processes import Processes
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.embedding import BrokenPicturesError, list_broken
from flair_jax.scoring.scorer import Retriever
from flair_jax.settings import EvaluationSettings

_ADVICE = "mend them, or train with --config.evaluation.every_steps=0"


@dataclasses.dataclass(frozen=True)
class RetrievalEvaluation:
    """A retrieval set, read before training starts, so that errors show at once and not after hours.

    Attributes:
      model: the model.
      data: pictures and captions.
      settings: how to evaluate.
    """

    model: Flair
    data: RetrievalData
    settings: RetrievalSettings

    @classmethod
    def from_settings(cls, settings: EvaluationSettings, model: Flair) -> RetrievalEvaluation:
        """Reads the set and its picture files, and checks their structure; they are not decoded.

        Raises:
          ConfigError: if the mode is unknown.
          DatasetError: if the set is unknown or not there, a picture is missing or not one, or a caption is empty.
        """
        if settings.mode not in RETRIEVAL_MODES:
            raise ConfigError(
                f"config.evaluation.mode={settings.mode!r} is unknown; choose one of {', '.join(RETRIEVAL_MODES)}"
            )

        def read() -> RetrievalData:
            data = find_retrieval_set(settings.dataset).load(expand(settings.dir))
            _check(data)
            return data

        data = Processes.all().together(read)
        return cls(model, data, RetrievalSettings(settings.mode, settings.top_k, settings.batch_size))

    def run(self, params: Params) -> dict[str, float]:
        """Metrics by name, `evaluation/...`, the same on all processes; every process must call this.

        With them, `..._ties`: the share of ranks decided by equal scores, 1 for a model that has collapsed; and
        `texts_cut_off` and `tokens_cut_off`: the shares of texts and tokens that exceed the model's context.

        While this runs, the parameters are replicated on every device, beside its shard of the training state.

        Raises:
          DatasetError: on all processes, listing the pictures that can no longer be read.
        """
        retriever = Retriever(self.model, params)
        try:
            outcome = evaluate(self.model, retriever, self.data, self.settings, BlockStore(None), Processes.all())
        except BrokenPicturesError as error:
            raise DatasetError(list_broken(error.broken, error.images, _ADVICE)) from None
        ties = {f"{direction}_ties": share for direction, share in outcome.ties.share.items()}
        cut = {"texts_cut_off": outcome.cut_off.texts_share, "tokens_cut_off": outcome.cut_off.tokens_share}
        return {f"evaluation/{name}": value for name, value in (outcome.metrics | ties | cut).items()}


def _check(data: RetrievalData) -> None:
    """Raises DatasetError unless no caption is empty and all files can be read and have a picture's structure."""
    empty = [number for number, text in enumerate(data.texts) if not text.strip()]
    if empty:
        raise DatasetError(
            f"config.evaluation: {len(empty)} of {len(data.texts)} captions are empty; {_ADVICE}. The first is of "
            f"{data.images[data.image_of_text[empty[0]]]}"
        )
    with concurrent.futures.ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as pool:  # a shared disk has latency
        harm = pool.map(_harm, data.images)
        broken = {number: message for number, message in enumerate(harm) if message}
    if broken:
        raise DatasetError(f"config.evaluation: {list_broken(broken, len(data.images), _ADVICE)}")


def _harm(path: Path) -> str:
    """What is wrong with a picture; "" if nothing is."""
    try:
        examine(read_file(path))
    except FileNotFoundError:
        return f"{path}: no such picture"
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    except ImageError as error:
        return f"{path}: {error}"
    return ""
