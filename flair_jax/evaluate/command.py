"""`flair-jax evaluate`: one set, or all that are found, to a table and a JSON file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from flair_jax.checkpoint import load, read_description
from flair_jax.data.retrieval_sets import RETRIEVAL_SETS, RetrievalSet, find_set
from flair_jax.errors import DatasetError
from flair_jax.evaluate import report
from flair_jax.evaluate.blocks import BlockStore
from flair_jax.evaluate.retrieval import Retriever
from flair_jax.evaluate.run import Settings, evaluate


def run(
    checkpoint: Path, dataset: str, data_dir: Path, settings: Settings, *, dtype: str, output: Path | None
) -> list[dict[str, Any]]:
    """Evaluates a checkpoint, prints a table and writes `output`.

    Args:
      checkpoint: its folder.
      dataset: a name in `RETRIEVAL_SETS`, or "all" for every set found in `data_dir` and right below it.
      data_dir: the set's folder.
      settings: how.
      dtype: compute dtype.
      output: JSON file to write, or None. While the run goes on, finished blocks are kept beside it.

    Returns:
      One result a set; see `report.result`.

    Raises:
      FlairError: if the checkpoint, the set or its pictures cannot be read. With "all", after the other sets are done.
    """
    sets = _find_sets(dataset, data_dir)
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
            data = entry.load(folder)
            work = report.identity(checkpoint, environment, str(folder), data.digest())
            blocks = unfinished and unfinished / f"{entry.name}-{work}"
            finished = blocks and blocks.with_suffix(".json")
            if finished and finished.is_file():
                result = json.loads(finished.read_text(encoding="utf-8"))
            else:
                evaluation = evaluate(model, retriever, data, settings, BlockStore(blocks))
                result = report.result(entry.name, folder, evaluation, settings, source)
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
        print(report.table(results, settings.mode))
    if output and results:
        document = results[0] if dataset != "all" else {"results": results}
        report.write_json(output, {**document, **environment})
        shutil.rmtree(f"{output}.partial", ignore_errors=True)
        print(f"written: {output}")
    if failures:
        raise DatasetError("\n".join([f"{len(failures)} of {len(sets)} sets failed:", *failures]))
    return results


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
