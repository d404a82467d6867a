"""The demonstration: draw scenes, show what a small FLAIR has learned on them, and train it again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from shlex import quote

import jax
from ml_collections import ConfigDict

import flair_jax
from flair_jax import checkpoint
from flair_jax.configs.demo import get_config
from flair_jax.data.sets import scenes_builder
from flair_jax.demo.choices import choices_in_sugarcrepe_form
from flair_jax.demo.evaluation import ScenesEvaluation, ScenesResult
from flair_jax.demo.phrases import phrases_in_coco_form
from flair_jax.demo.recorded import MODEL, read_recorded
from flair_jax.demo.report import Report, check_packages, examples, print_tables, write_report
from flair_jax.errors import AnotherRunError, CheckpointError
from flair_jax.files import replace_when_complete
from flair_jax.settings import TrainSettings
from flair_jax.train.logger import read_metrics
from flair_jax.train.run import Outcome, train

FIRST_STEPS = 60  # of the training that `run_demo` repeats if it is not asked for all


def run_demo(output: Path, *, full: bool = False, control: bool = False, seed: int = 0) -> None:
    """Prepares the scenes, evaluates a model on those held out, trains, and writes `output`/report.html.

    What is finished in `output` is not done again. After a SIGTERM while it trains, it saves and ends.

    Args:
      output: folder to fill.
      full: train the model to the end, and report on it; otherwise on the one that is shipped, whose training is
        repeated for its first steps only.
      control: if `full`, train the control too, with the multi-positive loss alone.
      seed: of the initial parameters and the order of the data.

    Raises:
      FlairError: if a step fails.
    """
    check_packages()
    config = get_config()
    config.data.dir, config.seed = str(output / "data"), seed
    output.mkdir(parents=True, exist_ok=True)
    print(f"1. scenes: {output / 'data'}", flush=True)
    _, size = config.data.name.split("/")
    scenes_builder.prepare(output / "data", size)
    held_out = scenes_builder.read(output / "data", "test", size)
    write_pictures(output / "held-out", held_out)

    print(f"2. training{'' if full else f', the first {FIRST_STEPS} steps'}: {output / 'run'}", flush=True)
    outcome = _train(config, output / "run", until=None if full else FIRST_STEPS)
    if not outcome.finished:  # SIGTERM came, and training has reported it
        return
    if full and control:
        print(f"   and the control, with the multi-positive loss alone: {output / 'control'}", flush=True)
        config.loss.terms = ("mps",)
        of_control = _train(config, output / "control")
        if not of_control.finished:
            return

    print(f"3. what {output / 'model'} has learned, on {len(held_out)} held-out scenes", flush=True)
    _keep_model(output / "model", outcome.checkpoint if full else None, seed)
    model, params = flair_jax.load(output / "model")
    evaluation = ScenesEvaluation(held_out)
    _write(output / "metrics.json", result := evaluation.run(model, params))
    if full and control:
        _write(output / "control.json", evaluation.run(*flair_jax.load(of_control.checkpoint)))
    report = Report(
        result=result,
        looking=evaluation.look(model, params),
        recorded=read_recorded(),
        shipped=not full,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        losses=[(line["step"], line["loss"]) for line in read_metrics(output / "run")],
        examples=examples(model, params, held_out),
    )
    print_tables(report)
    write_report(output / "report.html", report)
    print(
        f"\nwritten: {output}/report.html\nthe model: {output}/model; try\n"
        f"  flair-jax evaluate --checkpoint {quote(f'{output}/model')} --dataset folder "
        f"--data-dir {quote(f'{output}/held-out')}\n"
        "and the same with --task point or --task choose"
    )


def _keep_model(path: Path, trained: Path | None, seed: int) -> None:
    """Makes `path` the checkpoint that is reported on: what was trained here, or a copy of what is shipped."""
    if trained is None:
        with replace_when_complete(path) as partial:
            shutil.copytree(MODEL, partial)
    else:
        checkpoint.save(path, *flair_jax.load(trained), {"trained by": f"flair-jax demo --full --seed {seed}"})


def _write(path: Path, result: ScenesResult) -> None:
    with replace_when_complete(path) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n", encoding="utf-8")


def _train(config: ConfigDict, workdir: Path, until: int | None = None) -> Outcome:
    try:
        return train(TrainSettings.from_config(config), workdir, until=until)
    except AnotherRunError as error:  # whose advice is for those who choose settings
        raise CheckpointError(
            f"{workdir}: holds a run of another recipe ({error.changes}); remove it, or choose another --output"
        ) from None


def write_pictures(folder: Path, scenes: list[scenes_builder.LabelledScene]) -> None:
    """Writes scenes as sets of the name `folder` for `flair-jax evaluate`: PNG files, and for each task a file.

    For retrieval that has long captions, for pointing the objects' descriptions and outlines, for choosing sentences
    with one word changed: those that the demonstration asks about.
    """
    from PIL import Image

    names = [f"{number:04}.png" for number in range(len(scenes))]
    with replace_when_complete(folder) as partial:
        partial.mkdir()
        lines = []
        for name, labelled in zip(names, scenes, strict=True):
            Image.fromarray(labelled.pixels).save(partial / name)
            lines.append(json.dumps({"image": name, "caption": labelled.long_caption}) + "\n")
        (partial / "captions.jsonl").write_text("".join(lines), encoding="utf-8")
        (partial / "phrases.json").write_text(json.dumps(phrases_in_coco_form(scenes, names)), encoding="utf-8")
        (partial / "choices").mkdir()
        for attribute, records in choices_in_sugarcrepe_form(ScenesEvaluation(scenes).swaps, names).items():
            text = json.dumps(records, indent=1)
            (partial / "choices" / f"{attribute}.json").write_text(text, encoding="utf-8")
