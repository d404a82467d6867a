"""`flair-jax evaluate`: one set, or all that are found, to a table and a JSON file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from flair_jax.checkpoint import load, read_description
from flair_jax.data.sets.retrieval import find_row
from flair_jax.errors import DatasetError
from flair_jax.evaluate import report, retrieval_task
from flair_jax.evaluate.task import Set, Task
from flair_jax.files import expand
from flair_jax.models.flair import Flair
from flair_jax.parallel.processes import ALONE, Processes
from flair_jax.parallel.sharding import data_mesh
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.scorer import Retriever
from flair_jax.weights.locate import locate, reported_name
from flair_jax.weights.origin import check_pooling, check_texts


def evaluate_checkpoint(
    checkpoint: str | Path,
    dataset: str,
    data_dir: Path,
    settings: Any,
    *,
    dtype: str,
    output: Path | None,
    task: Task | None = None,
    model: Flair | None = None,
    processes: Processes = ALONE,
) -> list[dict[str, Any]]:
    """Evaluates a checkpoint, prints a table and writes `output`; of several processes, the first prints and writes.

    Args:
      checkpoint: as `flair_jax.load` takes it.
      dataset: a name in the task's sets, or "all" for every set found in `data_dir` and right below it.
      data_dir: the set's folder.
      settings: how; the task's.
      dtype: compute dtype.
      output: JSON file to write, or None. While the run is at work, finished blocks are kept beside it.
      task: what to evaluate; retrieval if not given.
      model: the checkpoint's model, if it has modules of its own; see `flair_jax.load`. `dtype` is then its config's.
      processes: that share the work; every process must call this, and the task must share its work among them, as
        retrieval does.

    Returns:
      One result a set; see `retrieval_task.result`.

    Raises:
      FlairError: if the checkpoint, the set or its pictures cannot be read. With "all", after the other sets are done.
    """
    work = task or retrieval_task.task(processes)
    sets = processes.together(lambda: _find_sets(work.sets, dataset, data_dir))
    processes.agree([[entry.name, str(folder)] for entry, folder in sets], "the sets in --data-dir")
    if output and any(processes.gather(output.is_dir())):
        raise DatasetError(f"--output {output}: is a folder; name a JSON file")
    loaded = _load(checkpoint, dtype, model, settings, processes)
    say = print if processes.index == 0 else _say_nothing
    unfinished = output and expand(f"{output}.partial")
    results, failures = list[dict[str, Any]](), list[str]()
    for entry, folder in sets:
        say(f"{entry.name}: {folder}", flush=True)
        try:
            results.append(_evaluate_set(work, entry, folder, loaded, settings, unfinished, processes))
        except DatasetError as error:
            if len(sets) == 1:
                raise
            failures.append(f"{entry.name}: {error}")
            continue
        if skipped := results[-1]["skipped"]:
            say(f"left out {len(skipped)} broken picture(s):", *skipped, sep="\n  ")
    if results:
        say(work.table(results, settings))
    if output and results:
        _write(output, report.document(results, loaded.environment), processes)
        say(f"written: {output}")
    if failures:
        raise DatasetError("\n".join([f"{len(failures)} of {len(sets)} sets failed:", *failures]))
    return results


class _Loaded(NamedTuple):
    """A checkpoint on its devices, and the environment that its results depend on."""

    checkpoint: Path
    source: dict[str, str]
    model: Flair
    retriever: Retriever
    environment: dict[str, Any]


def _say_nothing(*_: object, **__: object) -> None:
    """`print` on the other processes."""


def _load(checkpoint: str | Path, dtype: str, model: Flair | None, settings: Any, processes: Processes) -> _Loaded:
    files = processes.together(lambda: locate(checkpoint))
    processes.agree(files.name, "the newest checkpoints in --checkpoint")
    everywhere = NamedSharding(data_mesh(jax.devices()), PartitionSpec())
    model, params = processes.together(lambda: load(files, model=model, dtype=dtype, sharding=everywhere))
    source = processes.together(lambda: read_description(files).get("source", {}))
    check_texts(checkpoint, source)
    if getattr(settings, "mode", "") in ("text-conditioned", "top-k"):
        check_pooling(checkpoint, source, "score them with --mode global, as a CLIP is")
    environment = report.environment(reported_name(checkpoint, files), source, model.config.dtype, settings)
    return _Loaded(files, source, model, Retriever(model, params), environment)


def _evaluate_set(
    task: Task, entry: Set, folder: Path, loaded: _Loaded, settings: Any, unfinished: Path | None, processes: Processes
) -> dict[str, Any]:
    """The result on one set; with a folder for unfinished work, resumes from where an earlier run was stopped."""
    data = processes.together(lambda: task.load(entry, folder))
    work = report.identity(loaded.checkpoint, loaded.environment, str(folder), data.digest())
    blocks = unfinished and unfinished / f"{entry.name}-{work}"
    finished = blocks and blocks.with_suffix(".json")
    known = processes.gather(_read_json(finished) if finished else None)[0]
    if known is not None:
        return dict(known)
    evaluation = task.evaluate(loaded.model, loaded.retriever, data, settings, BlockStore(blocks))
    result = task.result(entry.name, folder, evaluation, settings, loaded.source)
    if finished and not evaluation.skipped:  # broken pictures are tried again: they may have been repaired
        processes.first_does(lambda: report.write_json(finished, result))
    return result


def _write(output: Path, document: dict[str, Any], processes: Processes) -> None:
    """Writes the report, after which unfinished work beside it is of no use."""
    processes.first_does(lambda: report.write_json(output, document))
    shutil.rmtree(f"{output}.partial", ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _find_sets(sets: Mapping[str, Set], dataset: str, data_dir: Path) -> list[tuple[Set, Path]]:
    """Sets and their folders."""
    if dataset != "all":
        return [(find_row(dataset, sets), data_dir)]
    if not data_dir.is_dir():
        raise DatasetError(f"{data_dir}: no such folder; --data-dir must hold the sets' folders")
    folders = [data_dir, *sorted(path for path in data_dir.iterdir() if path.is_dir())]
    found = [(entry, folder) for entry in sets.values() for folder in folders if entry.find(folder)]
    if not found:
        raise DatasetError(
            f"{data_dir}: no set found there or right below; `flair-jax evaluate --help` lists their layouts"
        )
    return found
