"""The demonstration: draw scenes, train a small FLAIR, and show what it learned."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

import flair_jax
from flair_jax.configs.demo import get_config
from flair_jax.data.sets import scenes_builder
from flair_jax.demo.choices import choices_in_sugarcrepe_form
from flair_jax.demo.evaluation import ScenesEvaluation, ScenesResult
from flair_jax.demo.phrases import phrases_in_coco_form
from flair_jax.demo.report import Control, examples, print_tables, write_report
from flair_jax.errors import AnotherRunError, CheckpointError
from flair_jax.files import replace_when_complete
from flair_jax.settings import TrainSettings
from flair_jax.train.logger import read_metrics
from flair_jax.train.run import Outcome, train

# What `flair-jax demo --control` measured: the same model, data and steps, with the multi-positive loss alone.
RECORDED_CONTROL = Path(__file__).parent / "control.json"


def run_demo(output: Path, *, control: bool = False) -> None:
    """Prepares the scenes, trains, evaluates on held-out scenes and writes `output`/report.html.

    What is finished in `output` is not done again. After a SIGTERM while it trains, it saves and ends.

    Args:
      output: folder to fill.
      control: train the control, with the multi-positive loss alone, too; otherwise its recorded figures are shown.

    Raises:
      FlairError: if a step fails.
    """
    config = get_config()
    config.data.dir = str(output / "data")
    output.mkdir(parents=True, exist_ok=True)
    print(f"1. scenes: {output / 'data'}", flush=True)
    _, size = config.data.name.split("/")
    scenes_builder.prepare(output / "data", size)
    held_out = scenes_builder.read(output / "data", "test", size)
    write_pictures(output / "held-out", held_out)

    print(f"2. training: {output / 'run'}", flush=True)
    checkpoint, finished = _train(config, output / "run")
    if control and finished:
        print(f"   and the control, with the multi-positive loss alone: {output / 'control'}", flush=True)
        config.loss.terms = ("mps",)
        control_checkpoint, finished = _train(config, output / "control")
    if not finished:  # SIGTERM came, and training has reported it
        return

    print(f"3. what it learned, on {len(held_out)} held-out scenes", flush=True)
    evaluation = ScenesEvaluation(held_out)
    with tqdm(total=1 + control, desc="evaluate", unit="model") as bar:
        model, params = flair_jax.load(checkpoint)
        result = evaluation.run(model, params)
        bar.update()
        if control:
            other = evaluation.run(*flair_jax.load(control_checkpoint), trained_pooling=False)
            by = f"the same model, data and steps, trained by flair-jax demo --control on {jax.default_backend()}"
            config.data.dir = ""  # where it lay changes nothing
            recorded = {"by": by, "settings": config.to_dict(), "result": dataclasses.asdict(other)}
            with replace_when_complete(output / "control.json") as partial:
                partial.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
            bar.update()
    source = output / "control.json" if control else RECORDED_CONTROL
    recorded = json.loads(source.read_text(encoding="utf-8"))
    compared = Control(recorded["by"], ScenesResult(**recorded["result"]))
    with replace_when_complete(output / "metrics.json") as partial:
        partial.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n", encoding="utf-8")
    print_tables(result, compared)
    write_report(
        output / "report.html", result, compared, read_metrics(output / "run"), examples(model, params, held_out)
    )
    print(
        f"\nwritten: {output / 'report.html'}\n"
        f"the model: {checkpoint}; try\n"
        f"  flair-jax evaluate --checkpoint {checkpoint} --dataset folder --data-dir {output / 'held-out'}\n"
        "and the same with --task point or --task choose"
    )


def _train(config: ConfigDict, workdir: Path) -> Outcome:
    try:
        return train(TrainSettings.from_config(config), workdir)
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
