"""Runs the demonstration to the end with several seeds, and records what it shows: the shipped model and its figures.

    python benchmarks/demonstration.py --output runs/demonstration

Each seed takes a folder, and what is finished there is not done again. Afterwards `flair_jax/demo/model`, the
model of the first seed, and `flair_jax/demo/recorded.json` are new. Prints the table of
docs/demonstration.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

import flair_jax
from flair_jax import checkpoint
from flair_jax.configs.demo import get_config
from flair_jax.data.sets import scenes
from flair_jax.data.tokenizer import tokenize_for
from flair_jax.demo.evaluation import ScenesResult
from flair_jax.demo.recorded import FIGURES, MODEL, Recorded
from flair_jax.demo.report import HEADING, tables
from flair_jax.files import replace_when_complete
from flair_jax.models.flair import Flair, Params
from flair_jax.train.logger import read_metrics
from flair_jax.weights import digests
from flair_jax.weights.write import CONFIG

COMMAND = "flair-jax demo --full --control --seed SEED"


def main() -> None:
    """Runs what is missing, and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of a folder for each seed")
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", default=[0, 1, 2], help="default 0 1 2")
    options = parser.parse_args()
    for seed in options.seeds:
        folder = options.output / str(seed)
        if not (folder / "control.json").exists():
            words = COMMAND.replace("SEED", str(seed)).split()
            subprocess.run([sys.executable, "-m", "flair_jax.cli", *words[1:], "--output", folder], check=True)
    folders = [options.output / str(seed) for seed in options.seeds]
    config = get_config()
    config.seed = options.seeds[0]
    model, params = flair_jax.load(folders[0] / "run" / "checkpoints" / str(config.steps))
    checkpoint.save(MODEL, model, _without_unread_words(model, params), {"trained by": COMMAND})
    (MODEL / checkpoint.PARAMS / "commit_success.txt").unlink()  # Orbax writes this machine's path there
    digests.write(MODEL, (CONFIG, checkpoint.PARAMS))
    recorded = Recorded(
        command=COMMAND,
        machine=f"{len(os.sched_getaffinity(0))} cores of {_processor()}",
        minutes=(_minutes(folders[0] / "run"), _minutes(folders[0] / "control")),
        settings=config.to_dict(),
        losses=[(line["step"], line["loss"]) for line in read_metrics(folders[0] / "run")],
        models=[_read(folder / "metrics.json") for folder in folders],
        controls=[_read(folder / "control.json") for folder in folders],
    )
    with replace_when_complete(FIGURES) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(recorded), indent=1) + "\n", encoding="utf-8")
    *_, (_, rows) = tables(recorded.models[0], recorded)
    for row in [HEADING, ["---"] * len(HEADING), *([name, *cells] for name, cells in rows)]:
        print("|", " | ".join(map(str, row)), "|")


def _without_unread_words(model: Flair, params: Params) -> Params:
    """The parameters, with zeros in the word table for words that no sentence has: they compress to nothing."""
    rng = np.random.default_rng(0)
    drawn = [scenes.draw_scene(rng, for_training=True) for _ in range(2000)]
    sentences = {f"{sentence}." for scene in drawn for sentence, _ in scenes.draw_sentences(scene, rng)}
    read = np.unique(tokenize_for(model.config.text, sorted(sentences)))
    table = np.zeros_like(params["text"]["token_embedding"])
    table[read] = np.asarray(params["text"]["token_embedding"])[read]
    return {**params, "text": {**params["text"], "token_embedding": jax.numpy.asarray(table)}}


def _read(path: Path) -> ScenesResult:
    return ScenesResult(**json.loads(path.read_text(encoding="utf-8")))


def _minutes(workdir: Path) -> float:
    """How long the steps of a run took, by the rates that it logged."""
    config, previous, seconds = get_config(), 0, 0.0
    for line in read_metrics(workdir):
        seconds += (line["step"] - previous) * config.batch_size / line["images_per_second"]
        previous = line["step"]
    return round(seconds / 60, 1)


def _processor() -> str:
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"an {names[0]}" if names else platform.machine()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
