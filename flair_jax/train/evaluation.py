"""Evaluations during a training run, of any task, each at its own interval."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flair_jax.data.formats import examine
from flair_jax.data.sets.retrieval import find_row
from flair_jax.data.sets.retrieval_data import Picture, RetrievalData, read_picture
from flair_jax.errors import ConfigError, DatasetError, ImageError
from flair_jax.evaluate.task import Task
from flair_jax.files import expand
from flair_jax.models.flair import Flair, Params
from flair_jax.parallel.processes import Processes
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.embedding import BrokenPicturesError, list_broken
from flair_jax.scoring.scorer import Retriever
from flair_jax.settings import EvaluationSettings, TrainSettings

# Of segmentation: a number for each class, which would be most of what a run logs.
_NOT_LOGGED = ("iou",)


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """A set, read before training starts, so that errors show at once and not after hours.

    Attributes:
      name: in `config.evaluations`; "" for `config.evaluation`.
      every_steps: its interval.
      model: the model.
      task: what is scored.
      dataset: the set's name.
      folder: where it is.
      data: the set's, as the task loads it.
      settings: the task's.
    """

    name: str
    every_steps: int
    model: Flair
    task: Task
    dataset: str
    folder: Path
    data: Any
    settings: Any

    @classmethod
    def from_settings(cls, name: str, settings: EvaluationSettings, model: Flair) -> RunEvaluation:
        """Reads the set; of retrieval also its picture files, whose structure is checked; they are not decoded.

        Raises:
          ConfigError: if the task or the mode is unknown.
          DatasetError: if the set is unknown or not there, a picture is missing or not one, or a caption is empty.
        """
        where = _where(name)
        if settings.task not in _TASKS:
            raise ConfigError(f"{where}.task={settings.task!r} is unknown; choose one of {', '.join(_TASKS)}")
        task, of_task = _TASKS[settings.task](settings, where)
        folder = expand(settings.dir)

        def read() -> Any:
            data = task.load(find_row(settings.dataset, task.sets), folder)
            if isinstance(data, RetrievalData):
                _check(data, where)
            return data

        data = Processes.all().together(read)
        of_task = task.fit(of_task, data, model.config, settings.dataset)
        return cls(name, settings.every_steps, model, task, settings.dataset, folder, data, of_task)

    @property
    def prefix(self) -> str:
        """What the names of its metrics begin with."""
        return f"evaluation/{self.name}/" if self.name else "evaluation/"

    def run(self, params: Params) -> dict[str, float]:
        """Metrics by name, `evaluation/...`, the same on all processes; every process must call this.

        With them, `..._ties`: the share of ranks decided by equal scores, 1 for a model that has collapsed; and
        `texts_cut_off` and `tokens_cut_off`: the shares of texts and tokens that exceed the model's context. Processes
        share the work of retrieval; any other task each does by itself, and the first one's numbers count.

        While this runs, the parameters are replicated on every device, beside its shard of the training state.

        Raises:
          DatasetError: on all processes, listing the pictures that can no longer be read.
        """
        retriever, processes = Retriever(self.model, params), Processes.all()

        def evaluate() -> Any:
            return self.task.evaluate(self.model, retriever, self.data, self.settings, BlockStore(None))

        try:
            outcome = evaluate() if isinstance(self.data, RetrievalData) else processes.together(evaluate)
        except BrokenPicturesError as error:
            raise DatasetError(list_broken(error.broken, error.images, _advice(_where(self.name)))) from None
        result = self.task.result(self.dataset, self.folder, outcome, self.settings, {})
        ties = {f"{kind}_ties": share for kind, share in result.get("ties", {}).get("share", {}).items()}
        cut = {f"{kind}_cut_off": result["cut_off"][f"{kind}_share"] for kind in ("texts", "tokens")}
        values = {f"{self.prefix}{name}": value for name, value in _flat({**result["metrics"], **ties, **cut})}
        return dict(processes.gather(values)[0])


def find_evaluations(settings: TrainSettings, model: Flair) -> tuple[RunEvaluation, ...]:
    """Those that a run makes: `config.evaluation` and all of `config.evaluations` whose interval is not 0.

    Raises:
      ConfigError: see `RunEvaluation.from_settings`.
      DatasetError: likewise.
    """
    asked = {"": settings.evaluation, **settings.evaluations}
    return tuple(RunEvaluation.from_settings(name, each, model) for name, each in asked.items() if each.every_steps)


def _retrieval(settings: EvaluationSettings, where: str) -> tuple[Task, Any]:
    from flair_jax.evaluate.retrieval import RETRIEVAL_MODES, RetrievalSettings
    from flair_jax.evaluate.retrieval_task import task

    _check_mode(settings, where, RETRIEVAL_MODES)
    return task(Processes.all()), RetrievalSettings(settings.mode, settings.top_k, settings.batch_size)


def _classify(settings: EvaluationSettings, where: str) -> tuple[Task, Any]:
    from flair_jax.data.sets.prompts import read_templates
    from flair_jax.evaluate.classification import CLASSIFICATION_MODES, ClassificationSettings
    from flair_jax.evaluate.classification_task import task

    _check_mode(settings, where, CLASSIFICATION_MODES)
    templates = read_templates(settings.templates) if settings.templates else None
    return task(), ClassificationSettings(settings.mode, templates, batch_size=settings.batch_size)


def _segment(settings: EvaluationSettings, _: str) -> tuple[Task, Any]:
    from flair_jax.evaluate.segmentation import SegmentationSettings
    from flair_jax.evaluate.segmentation_task import task

    return task(settings.templates or None), SegmentationSettings(batch_size=settings.batch_size)


def _point(settings: EvaluationSettings, _: str) -> tuple[Task, Any]:
    from flair_jax.evaluate.pointing import PointSettings
    from flair_jax.evaluate.pointing_task import task

    return task(), PointSettings(settings.batch_size)


def _choose(settings: EvaluationSettings, where: str) -> tuple[Task, Any]:
    from flair_jax.evaluate.choosing import ChooseSettings
    from flair_jax.evaluate.choosing_scores import WAYS
    from flair_jax.evaluate.choosing_task import task

    _check_mode(settings, where, WAYS[:2])
    return task(), ChooseSettings(settings.mode, settings.batch_size)


# `config.evaluations.NAME.task`, as in `flair-jax evaluate --task` -> a function that makes the task and its settings.
_TASKS: Mapping[str, Callable[[EvaluationSettings, str], tuple[Task, Any]]] = {
    "retrieval": _retrieval,
    "classify": _classify,
    "segment": _segment,
    "point": _point,
    "choose": _choose,
}


def _check_mode(settings: EvaluationSettings, where: str, modes: tuple[str, ...]) -> None:
    if settings.mode not in modes:
        raise ConfigError(f"{where}.mode={settings.mode!r} is unknown; choose one of {', '.join(modes)}")


def _where(name: str) -> str:
    return f"config.evaluations.{name}" if name else "config.evaluation"


def _advice(where: str) -> str:
    return f"mend them, or train with --{where}.every_steps=0"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by name, those in groups as GROUP/NAME."""
    for name, value in values.items():
        if name in _NOT_LOGGED or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", float(value)


def _check(data: RetrievalData, where: str) -> None:
    """Raises DatasetError unless no caption is empty and all files can be read and have a picture's structure."""
    empty = [number for number, text in enumerate(data.texts) if not text.strip()]
    if empty:
        raise DatasetError(
            f"{where}: {len(empty)} of {len(data.texts)} captions are empty; {_advice(where)}. The first is of "
            f"{data.images[data.image_of_text[empty[0]]]}"
        )
    with concurrent.futures.ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as pool:  # a shared disk has latency
        harm = pool.map(_harm, data.images)
        broken = {number: message for number, message in enumerate(harm) if message}
    if broken:
        raise DatasetError(f"{where}: {list_broken(broken, len(data.images), _advice(where))}")


def _harm(path: Picture) -> str:
    """What is wrong with a picture; "" if nothing is."""
    try:
        examine(read_picture(path))
    except FileNotFoundError:
        return f"{path}: no such picture"
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    except ImageError as error:
        return f"{path}: {error}"
    return ""
