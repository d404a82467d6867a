"""`flair-jax evaluate`: one set, or all that are found, to a table and a JSON file."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from flair_jax.checkpoint import load, read_description
from flair_jax.data.retrieval_sets import RETRIEVAL_SETS, RetrievalSet
from flair_jax.errors import DatasetError
from flair_jax.evaluate import report
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
    description = read_description(checkpoint)
    model, params = load(checkpoint, dtype=dtype)
    retriever = Retriever(model, params)
    source = description.get("source", {})
    environment = report.environment(checkpoint, source, dtype, settings)
    identity = {**environment, "model": description, "written": (checkpoint / "config.json").stat().st_mtime_ns}

    results, failures = [], []
    for entry, folder in sets:
        print(f"{entry.name}: {folder}", flush=True)
        blocks = output and output.with_name(f"{output.name}.partial") / entry.name
        try:
            evaluation = evaluate(model, retriever, entry.load(folder), settings, blocks, identity)
        except DatasetError as error:
            if len(sets) == 1:
                raise
            failures.append(f"{entry.name}: {error}")
            continue
        if evaluation.skipped:
            print(f"left out {len(evaluation.skipped)} broken picture(s):", *evaluation.skipped, sep="\n  ")
        results.append(report.result(entry.name, folder, evaluation, settings, source))
    if results:
        print(report.table(results, settings.mode))
    if output and results:
        found = results[0] if dataset != "all" else {"results": results}
        report.write_json(output, {**found, **environment})
        print(f"written: {output}")
    if failures:
        raise DatasetError("\n".join([f"{len(failures)} of {len(sets)} sets failed:", *failures]))
    return results


def _find_sets(dataset: str, data_dir: Path) -> list[tuple[RetrievalSet, Path]]:
    """Sets and their folders."""
    if dataset in RETRIEVAL_SETS:
        return [(RETRIEVAL_SETS[dataset], data_dir)]
    if dataset != "all":
        close = difflib.get_close_matches(re.sub(r"[_\s]+", "-", dataset.lower()), RETRIEVAL_SETS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(RETRIEVAL_SETS)}, all"
        raise DatasetError(f"--dataset {dataset}: no such set; {hint}")
    if not data_dir.is_dir():
        raise DatasetError(f"{data_dir}: no such folder; --data-dir must hold the sets' folders")
    folders = [data_dir, *sorted(path for path in data_dir.iterdir() if path.is_dir())]
    found = [(entry, folder) for entry in RETRIEVAL_SETS.values() for folder in folders if entry.find(folder)]
    if not found:
        raise DatasetError(
            f"{data_dir}: no set found there or right below; `flair-jax evaluate --help` lists their layouts"
        )
    return found
