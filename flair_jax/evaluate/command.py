"""`flair-jax evaluate`: one set, or all that are found, to a table and a JSON file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flair_jax.checkpoint import load, read_description
from flair_jax.data.retrieval_sets import RETRIEVAL_SETS, choose
from flair_jax.errors import DatasetError
from flair_jax.evaluate import report
from flair_jax.evaluate.blocks import BlockStore
from flair_jax.evaluate.retrieval import Retriever
from flair_jax.evaluate.run import evaluate


@runtime_checkable
class Set(Protocol):
    """What the sets of each task have."""

    @property
    def name(self) -> str:
        """What `--dataset` takes."""
        ...

    def find(self, folder: Path) -> Any:
        """None if the set is not in the folder."""
        ...


@dataclasses.dataclass(frozen=True)
class Task:
    """Something to score a model by.

    Attributes:
      sets: what it can be done on, by name.
      load: (set, folder) -> data, with a method `digest` that says whether it is the same.
      evaluate: (model, retriever, data, settings, store) -> evaluation, with `skipped`; see `run.evaluate`.
      result: (set's name, folder, evaluation, settings, source) -> plain JSON values; see `report.result`.
      table: (results, mode) -> text.
    """

    sets: Mapping[str, Set]
    load: Callable[[Any, Path], Any]
    evaluate: Callable[..., Any]
    result: Callable[..., dict[str, Any]]
    table: Callable[[Sequence[dict[str, Any]], str], str]


RETRIEVAL = Task(RETRIEVAL_SETS, lambda entry, folder: entry.load(folder), evaluate, report.result, report.table)


def run(
    checkpoint: Path,
    dataset: str,
    data_dir: Path,
    settings: Any,
    *,
    dtype: str,
    output: Path | None,
    task: Task = RETRIEVAL,
) -> list[dict[str, Any]]:
    """Evaluates a checkpoint, prints a table and writes `output`.

    Args:
      checkpoint: its folder.
      dataset: a name in the task's sets, or "all" for every set found in `data_dir` and right below it.
      data_dir: the set's folder.
      settings: how; the task's.
      dtype: compute dtype.
      output: JSON file to write, or None. While the run goes on, finished blocks are kept beside it.
      task: what to evaluate.

    Returns:
      One result a set; see `report.result`.

    Raises:
      FlairError: if the checkpoint, the set or its pictures cannot be read. With "all", after the other sets are done.
    """
    sets = _find_sets(task.sets, dataset, data_dir)
    if output and output.is_dir():
        raise DatasetError(f"--output {output}: is a folder; name a JSON file")
    model, params = load(checkpoint, dtype=dtype)
    retriever = Retriever(model, params)
    source = read_description(checkpoint).get("source", {})
    environment = report.environment(checkpoint, source, dtype, settings)
    unfinished = output and Path(f"{output}.partial")

    results, failures = [], []
    for entry, folder in sets:
        print(f"{entry.name}: {folder}", flush=True)
        try:
            data = task.load(entry, folder)
            work = report.identity(checkpoint, environment, str(folder), data.digest())
            blocks = unfinished and unfinished / f"{entry.name}-{work}"
            finished = blocks and blocks.with_suffix(".json")
            if finished and finished.is_file():
                result = json.loads(finished.read_text(encoding="utf-8"))
            else:
                evaluation = task.evaluate(model, retriever, data, settings, BlockStore(blocks))
                result = task.result(entry.name, folder, evaluation, settings, source)
                if finished and not evaluation.skipped:  # broken pictures are looked at anew: they may be mended
                    report.write_json(finished, result)
        except DatasetError as error:
            if len(sets) == 1:
                raise
            failures.append(f"{entry.name}: {error}")
            continue
        if result["skipped"]:
            print(f"left out {len(result['skipped'])} broken picture(s):", *result["skipped"], sep="\n  ")
        results.append(result)
    if results:
        print(task.table(results, settings.mode))
    if output and results:
        document = results[0] if dataset != "all" else {"results": results}
        report.write_json(output, {**document, **environment})
        shutil.rmtree(f"{output}.partial", ignore_errors=True)
        print(f"written: {output}")
    if failures:
        raise DatasetError("\n".join([f"{len(failures)} of {len(sets)} sets failed:", *failures]))
    return results


def _find_sets(sets: Mapping[str, Set], dataset: str, data_dir: Path) -> list[tuple[Set, Path]]:
    """Sets and their folders."""
    if dataset != "all":
        return [(choose(dataset, sets), data_dir)]
    if not data_dir.is_dir():
        raise DatasetError(f"{data_dir}: no such folder; --data-dir must hold the sets' folders")
    folders = [data_dir, *sorted(path for path in data_dir.iterdir() if path.is_dir())]
    found = [(entry, folder) for entry in sets.values() for folder in folders if entry.find(folder)]
    if not found:
        raise DatasetError(
            f"{data_dir}: no set found there or right below; `flair-jax evaluate --help` lists their layouts"
        )
    return found
