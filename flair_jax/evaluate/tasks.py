"""`flair-jax evaluate`: one set, or all that are found, to a table and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from flair_jax.checkpoint import load, read_description
from flair_jax.data.sets.retrieval import find_row
from flair_jax.data.sets.retrieval_data import Picture
from flair_jax.errors import DatasetError, FlairError, PeerError, StorageError, WorkerError, plural
from flair_jax.evaluate import report, summary
from flair_jax.evaluate.page import write_report
from flair_jax.evaluate.task import Set, Task
from flair_jax.files import expand, remove_folder
from flair_jax.models.flair import Flair
from flair_jax.parallel.processes import ALONE, Processes
from flair_jax.parallel.sharding import data_mesh
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.scorer import Retriever
from flair_jax.weights.locate import locate, reported_name
from flair_jax.weights.origin import check_pooling, check_texts


class Job(NamedTuple):
    """A task, and how to do it: the task's settings, a dataclass."""

    task: Task
    settings: Any


class _Work(NamedTuple):
    """One set of a job."""

    job: Job
    entry: Set
    folder: Path


def evaluate_checkpoint(
    checkpoint: str | Path,
    dataset: str,
    data_dir: Path,
    *jobs: Job,
    dtype: str,
    output: Path | None,
    reports: Sequence[Path] = (),
    model: Flair | None = None,
    processes: Processes = ALONE,
) -> list[dict[str, Any]]:
    """Evaluates a checkpoint, prints tables and writes `output`; of several processes, the first prints and writes.

    Args:
      checkpoint: as `flair_jax.load` takes it.
      dataset: a name in the task's sets, or "all" for every set found in `data_dir` and right below it.
      data_dir: the set's folder.
      *jobs: what to evaluate, one unless `dataset` is "all".
      dtype: compute dtype.
      output: JSON file to write, or None. While the run is at work, finished blocks are kept beside it.
      reports: pages to write; see `page.write_report`.
      model: the checkpoint's model, if it has modules of its own; see `flair_jax.load`. `dtype` is then its config's.
      processes: that share the work; every process must call this, and the tasks must share their work among them, as
        retrieval does.

    Returns:
      One result a set; see `retrieval_task.result`.

    Raises:
      FlairError: if the checkpoint, the set or its pictures cannot be read. With "all", after the other sets are done.
    """
    works = processes.together(lambda: _find_sets(jobs, dataset, data_dir))
    listed = [[work.job.task.name, work.entry.name, str(work.folder)] for work in works]
    processes.agree(listed, "the sets in --data-dir")
    if output and any(processes.gather(output.is_dir())):
        raise DatasetError(f"--output {output}: is a folder; name a JSON file")
    loaded = _load(checkpoint, dtype, model, jobs, processes)
    check_texts(checkpoint, loaded.source)
    say = print if processes.index == 0 else _say_nothing
    done, failures = _evaluate_sets(works, loaded, output and expand(f"{output}.partial"), say, processes)
    if done:
        _report(done, failures, jobs, output, reports, say, processes)
    if failures:
        kept = [f"what is done is kept in {output}.partial for the same command"] if output and done else []
        raise DatasetError("\n".join([f"{len(failures)} of {len(works)} sets failed:", *failures, *kept]))
    return [each.result for each in done]


def _report(
    done: Sequence[summary.Outcome],
    failures: Sequence[str],
    jobs: Sequence[Job],
    output: Path | None,
    reports: Sequence[Path],
    say: Callable[..., None],
    processes: Processes,
) -> None:
    """Prints the tables, of each task and of all, and writes the files."""
    for job in jobs:
        if results := [each.result for each in done if each.task is job.task]:
            say(job.task.table(results, job.settings))
    if len({each.task.name for each in done}) > 1:
        say(summary.table(done))
    if output:
        listed = [(each.task.name, each.result, each.environment) for each in done]
        document = report.document(listed) | {"summary": summary.figures(done), "failed": failures}
        processes.first_does(partial(report.write_json, output, document))
        if not failures:  # those are tried again, with what is done at hand
            remove_folder(expand(f"{output}.partial"))
        say(f"written: {output}")
    for path in reports:
        processes.first_does(partial(write_report, path, done, failures))
        say(f"written: {path}")


class _Loaded(NamedTuple):
    """A checkpoint on its devices."""

    checkpoint: Path
    name: str
    source: dict[str, str]
    model: Flair
    retriever: Retriever


def _say_nothing(*_: object, **__: object) -> None:
    """`print` on the other processes."""


def _load(
    checkpoint: str | Path, dtype: str, model: Flair | None, jobs: Sequence[Job], processes: Processes
) -> _Loaded:
    files = processes.together(lambda: locate(checkpoint))
    processes.agree(files.name, "the newest checkpoints in --checkpoint")
    everywhere = NamedSharding(data_mesh(jax.devices()), PartitionSpec())
    model, params = processes.together(lambda: load(files, model=model, dtype=dtype, sharding=everywhere))
    source = processes.together(lambda: read_description(files).get("source", {}))
    for _, settings in jobs:
        if getattr(settings, "mode", "global") != "global":  # of choosing None, which means every way
            check_pooling(checkpoint, source, "score them with --mode global, as a CLIP is")
        if getattr(settings, "segment_by", "patches") != "patches":
            check_pooling(checkpoint, source, "segment with --segment-by patches")
    return _Loaded(files, reported_name(checkpoint, files), source, model, Retriever(model, params))


def _evaluate_sets(
    works: Sequence[_Work], loaded: _Loaded, unfinished: Path | None, say: Callable[..., None], processes: Processes
) -> tuple[list[summary.Outcome], list[str]]:
    """The outcomes, and what failed: one set's failure does not end the work on the others."""
    done, failures = list[summary.Outcome](), list[str]()
    for work in works:
        say(f"{work.entry.name}: {work.folder}", flush=True)
        try:
            done.append(_evaluate_set(work, loaded, unfinished, processes))
        except FlairError as error:  # one set's: what it lacks, or a package for it, or what this model cannot do
            if len(works) == 1 or isinstance(error, PeerError | StorageError | WorkerError):
                raise
            failures.append(f"{work.entry.name}: {error}")
            continue
        if skipped := done[-1].result["skipped"]:
            say(f"left out {plural(len(skipped), 'broken picture')}:", *skipped, sep="\n  ")
    return done, failures


def _evaluate_set(work: _Work, loaded: _Loaded, unfinished: Path | None, processes: Processes) -> summary.Outcome:
    """The outcome on one set; with a folder for unfinished work, resumes where a run was stopped."""
    (task, asked), entry, folder = work
    data = processes.together(lambda: task.load(entry, folder))
    settings = task.fit(asked, data, loaded.model.config, entry.name)
    environment = report.environment(loaded.name, loaded.source, loaded.model.config.dtype, settings)
    identity = report.identity(loaded.checkpoint, environment, str(folder), data.digest(), *task.extra)
    blocks = unfinished and unfinished / f"{entry.name}-{identity}"
    finished = blocks and blocks.with_suffix(".json")
    known = processes.gather(_read_json(finished) if finished else None)[0]
    if known is not None:
        return summary.Outcome(task, asked, dict(known), environment, _pictures_of(known, data))
    evaluation = task.evaluate(loaded.model, loaded.retriever, data, settings, BlockStore(blocks))
    result = task.result(entry.name, folder, evaluation, settings, loaded.source)
    if finished and not evaluation.skipped:  # broken pictures are tried again: they may have been repaired
        processes.first_does(lambda: report.write_json(finished, result))
    return summary.Outcome(task, asked, result, environment, _pictures_of(result, data))


def _pictures_of(result: Mapping[str, Any], data: Any) -> dict[str, Picture]:
    """The pictures that a result of retrieval names, which may be parts of files."""
    named = {query[key] for query in result.get("worst", ()) for key in ("image", "first")}
    return {str(picture): picture for picture in data.images if str(picture) in named} if named else {}


def _read_json(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _find_sets(jobs: Sequence[Job], dataset: str, data_dir: Path) -> list[_Work]:
    """Sets and their folders."""
    if dataset != "all":
        return [_Work(job, find_row(dataset, job.task.sets), data_dir) for job in jobs]
    if not data_dir.is_dir():
        raise DatasetError(f"{data_dir}: no such folder; --data-dir must hold the sets' folders")
    folders = [data_dir, *sorted(path for path in data_dir.iterdir() if path.is_dir())]
    found, marks = list[_Work](), set[tuple[str, str, str]]()
    for job in jobs:
        for entry in job.task.sets.values():
            for folder in folders:
                mark = entry.find(folder)  # a path below, of sets whose folder may be one above: then seen twice
                if mark and (seen := (job.task.name, entry.name, str(mark))) not in marks:
                    marks.add(seen)
                    found.append(_Work(job, entry, folder))
    if not found:
        raise DatasetError(
            f"{data_dir}: no set found there or right below; `flair-jax evaluate --help` lists their layouts"
        )
    return found
