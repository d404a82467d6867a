"""`flair-jax evaluate`: one set, or all that are found, to a table and a JSON file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from flair_jax.checkpoint import description_file, load, read_description
from flair_jax.data.retrieval_sets import RETRIEVAL_SETS, RetrievalSet, find_set
from flair_jax.errors import DatasetError
from flair_jax.evaluate import report
from flair_jax.evaluate.blocks import BlockStore
from flair_jax.evaluate.retrieval import Retriever
from flair_jax.evaluate.run import Settings, evaluate
from flair_jax.hosts import ALONE, Hosts
from flair_jax.sharding import data_mesh


def run(
    checkpoint: Path,
    dataset: str,
    data_dir: Path,
    settings: Settings,
    *,
    dtype: str,
    output: Path | None,
    hosts: Hosts = ALONE,
) -> list[dict[str, Any]]:
    """Evaluates a checkpoint, prints a table and writes `output`; of several hosts, the first does these two.

    Args:
      checkpoint: its folder.
      dataset: a name in `RETRIEVAL_SETS`, or "all" for every set found in `data_dir` and right below it.
      data_dir: the set's folder.
      settings: how.
      dtype: compute dtype.
      output: JSON file to write, or None. While the run goes on, finished blocks are kept beside it.
      hosts: that share the work; all must call this.

    Returns:
      One result a set; see `report.result`.

    Raises:
      FlairError: if the checkpoint, the set or its pictures cannot be read. With "all", after the other sets are done.
    """
    sets = hosts.together(lambda: _find_sets(dataset, data_dir))
    hosts.agree([[entry.name, str(folder)] for entry, folder in sets], "the sets in --data-dir")
    if output and any(hosts.gather(output.is_dir())):
        raise DatasetError(f"--output {output}: is a folder; name a JSON file")
    description = hosts.together(lambda: read_description(checkpoint))
    everywhere = NamedSharding(data_mesh(jax.devices()), PartitionSpec())
    model, params = hosts.together(lambda: load(checkpoint, dtype=dtype, sharding=everywhere))
    retriever = Retriever(model, params)
    source = description.get("source", {})
    environment = report.environment(checkpoint, source, dtype, settings)
    identity = [description, *_identity(checkpoint, dtype, settings, environment)]
    say = print if hosts.index == 0 else _say_nothing

    def evaluate_set(entry: RetrievalSet, folder: Path) -> dict[str, Any]:
        data = hosts.together(lambda: entry.load(folder))
        blocks = output and Path(f"{output}.partial", f"{entry.name}-{_digest([identity, str(folder), data.digest()])}")
        finished = blocks and blocks.with_suffix(".json")
        known = hosts.gather(_read_json(finished) if finished else None)[0]
        if known is not None:
            return dict(known)
        evaluation = evaluate(model, retriever, data, settings, BlockStore(blocks), hosts)
        result = report.result(entry.name, folder, evaluation, settings, source)
        if finished and not evaluation.skipped:  # broken pictures are looked at anew: they may be mended
            hosts.first_does(lambda: report.write_json(finished, result))
        return result

    results, failures = [], []
    for entry, folder in sets:
        say(f"{entry.name}: {folder}", flush=True)
        try:
            result = evaluate_set(entry, folder)
        except DatasetError as error:
            if len(sets) == 1:
                raise
            failures.append(f"{entry.name}: {error}")
            continue
        if result["skipped"]:
            say(f"left out {len(result['skipped'])} broken picture(s):", *result["skipped"], sep="\n  ")
        results.append(result)
    if results:
        say(report.table(results, settings.mode))
    if output and results:
        document = results[0] if dataset != "all" else {"results": results}
        hosts.first_does(lambda: report.write_json(output, {**document, **environment}))
        shutil.rmtree(f"{output}.partial", ignore_errors=True)
        say(f"written: {output}")
    if failures:
        raise DatasetError("\n".join([f"{len(failures)} of {len(sets)} sets failed:", *failures]))
    return results


def _say_nothing(*_: object, **__: object) -> None:
    """The other hosts' `print`."""


def _identity(checkpoint: Path, dtype: str, settings: Settings, environment: dict[str, Any]) -> list[Any]:
    """All that blocks depend on but the data; what is skipped is not in it, since blocks with gaps are not kept."""
    written = description_file(checkpoint).stat().st_mtime_ns
    how = dataclasses.asdict(dataclasses.replace(settings, skip_broken=False))
    return [str(checkpoint), written, dtype, how, *(environment[name] for name in ("versions", "device", "processes"))]


def _read_json(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _digest(values: Any) -> str:
    """A short hash of plain JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _find_sets(dataset: str, data_dir: Path) -> list[tuple[RetrievalSet, Path]]:
    """Sets and their folders."""
    if dataset != "all":
        return [(find_set(dataset), data_dir)]
    if not data_dir.is_dir():
        raise DatasetError(f"{data_dir}: no such folder; --data-dir must hold the sets' folders")
    folders = [data_dir, *sorted(path for path in data_dir.iterdir() if path.is_dir())]
    found = [(entry, folder) for entry in RETRIEVAL_SETS.values() for folder in folders if entry.find(folder)]
    if not found:
        raise DatasetError(
            f"{data_dir}: no set found there or right below; `flair-jax evaluate --help` lists their layouts"
        )
    return found
