"""Training data from made samples in tars: samples/s per core here and by the original's pipeline, in one run.

    pip install --no-deps webdataset open_clip_torch
    python benchmarks/data.py --folder FOLDER

Both sides read the same tars, decode, cut a random part to 224 x 224, and draw and tokenise 8 captions, each alone on
one core, in turns. Time is that of the processor, which other programs hardly change. Ours packs the captions into
rows, too. The original's side is webdataset with PIL and open_clip's tokenizer, as its release has them; it is spared
the conversion to float and the normalisation, which are the device's work here.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sample_tars import add_tars, make_tars, pattern
from tqdm import tqdm

from flair_jax.data import pipeline
from flair_jax.data.captions import sentences_of
from flair_jax.data.image import random_crop_box
from flair_jax.data.packing import Packing, rows_of
from flair_jax.data.pipeline import SampleSettings, batches
from flair_jax.data.tars import TarSource
from flair_jax.data.tokenizer import TOKENIZERS

SIDES = ("webdataset", "flair_jax")
BATCH, CAPTIONS = 64, 8
ROW_TOKENS, TOKENS_PER_CAPTION = 128, 46.0
WARM = 1280  # samples that a side reads before it is timed


def main() -> None:
    """Makes the tars, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_tars(parser)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default %(default)s)")
    parser.add_argument("--timed", type=int, default=1920, help="samples in a turn (default %(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if WARM + options.timed > options.samples:
        parser.error(f"--timed {options.timed} needs at least --samples {WARM + options.timed}")
    if options.side:
        run_side(options)
        return
    make_tars(parser, options)
    compare_speed(options)


def compare_speed(options: argparse.Namespace) -> None:
    """Prints both sides' samples per second and core, and where the time goes."""
    TarSource(pattern(options))  # indexed once, as before a training run
    for name in sorted((options.folder / "tars").glob("*.tar")):
        name.read_bytes()  # so that both sides read from memory
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    stages: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in tqdm(range(options.rounds), unit="round"):
        for side in SIDES:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--turn", str(turn)]
            answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            rates[side].append(answer["rate"])
            stages[side].append(answer["stages"])
    print(f"{options.samples:,} samples of 500 x 375 pixels, K = {CAPTIONS}, one core")
    print(f"{'':<43}{SIDES[0]:>12}{SIDES[1]:>12}")
    middle = [statistics.median(rates[side]) for side in SIDES]
    print(f"{'samples/s of processor time':<43}{middle[0]:>12.1f}{middle[1]:>12.1f}{middle[1] / middle[0]:>9.2f} x")
    for stage in stages[SIDES[0]][0]:
        cost = [statistics.median(each[stage] for each in stages[side]) for side in SIDES]
        ratio = f"{cost[0] / cost[1]:>9.2f} x" if cost[0] else ""
        print(f"{'  ms a sample: ' + stage:<43}{cost[0]:>12.3f}{cost[1]:>12.3f}{ratio}")


def run_side(options: argparse.Namespace) -> None:
    """Prints as JSON the samples per second of the processor of one side, and milliseconds a sample in each stage."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    timer = Timer()
    stream = (webdataset_side if options.side == "webdataset" else flair_side)(options, timer)
    # The first samples fill caches and, there, the buffer that shuffles.
    for _ in range(WARM // BATCH):
        next(stream)
    timer.seconds.clear()
    start = time.process_time()
    count = options.timed // BATCH
    for _ in range(count):
        next(stream)
    seconds = time.process_time() - start
    names = ("decode", "crop and resize", "draw captions", "tokenise", "pack captions")
    stages = {name: timer.seconds[name] for name in names}
    stages["read, JSON, shuffle, batch"] = seconds - sum(stages.values())
    scale = 1000 / (count * BATCH)
    print(
        json.dumps({"rate": count * BATCH / seconds, "stages": {k: v * scale for k, v in stages.items()}}), flush=True
    )
    os._exit(0)  # threads that read ahead need not finish


class Timer:
    """Seconds of the processor spent in functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted."""

        def run(*arguments: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.seconds[name] += time.thread_time() - start

        return run


def flair_side(options: argparse.Namespace, timer: Timer) -> Iterator[Any]:
    """Our stream, with the stages' functions timed in place."""
    pipeline.open_training_picture = timer.timed("decode", pipeline.open_training_picture)
    pipeline.resized_crop = timer.timed("crop and resize", pipeline.resized_crop)
    pipeline.sample_caption = timer.timed("draw captions", pipeline.sample_caption)
    Packing.pack = timer.timed("pack captions", Packing.pack)  # type: ignore[method-assign]
    rows = rows_of(BATCH * CAPTIONS, TOKENS_PER_CAPTION, ROW_TOKENS)
    clip = TOKENIZERS["clip"]
    settings = SampleSettings(
        seed=0,
        image_size=224,
        context_length=77,
        captions_per_image=CAPTIONS,
        tokenizer=dataclasses.replace(clip, tokenize=timer.timed("tokenise", clip.tokenize)),
        packing=Packing(ROW_TOKENS, rows, devices=1, parts=1, end_of_text_id=None),
    )
    for batch in batches([TarSource(pattern(options))], settings, BATCH, first=options.turn * 31):
        if batch.cut:
            sys.exit(f"{batch.cut} captions were cut")
        yield batch


def webdataset_side(options: argparse.Namespace, timer: Timer) -> Iterator[Any]:
    """The original's pipeline: shards and samples shuffled in buffers, PIL, its way to draw captions, its tokenizer."""
    import webdataset as wds

    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        sys.exit("the comparison needs the original's pieces: pip install --no-deps webdataset open_clip_torch")
    # By its file, because the package imports torchvision.
    located = importlib.util.spec_from_file_location("tokenizer", Path(spec.origin).with_name("tokenizer.py"))
    assert located is not None
    assert located.loader is not None
    module = importlib.util.module_from_spec(located)
    located.loader.exec_module(module)
    tokenize = timer.timed("tokenise", module.SimpleTokenizer())
    draw = timer.timed("draw captions", original_captions)

    def texts(document: dict[str, Any]) -> Any:
        return tokenize(draw(document, CAPTIONS))

    dataset = wds.DataPipeline(
        wds.SimpleShardList(pattern(options), seed=options.turn),
        wds.shuffle(2000, initial=500),
        wds.tarfile_to_samples(),
        wds.shuffle(5000, initial=1000),
        wds.select(lambda sample: "json" in sample and "jpg" in sample),
        wds.map(timer.timed("decode", wds.autodecode.Decoder([wds.imagehandler("pilrgb")], only=["jpg", "json"]))),
        wds.rename(image="jpg;png;jpeg;webp", text="json"),
        wds.map_dict(image=timer.timed("crop and resize", original_crop), text=texts),
        wds.to_tuple("image", "text"),
        wds.batched(BATCH),
    )
    return iter(dataset)


def original_crop(picture: Image.Image) -> np.ndarray:
    """RandomResizedCrop of torchvision (224, scale=(0.9, 1), interpolation=BICUBIC) of a PIL image."""
    top, left, height, width = random_crop_box(*picture.size, np.random.default_rng(random.getrandbits(64)))
    return np.array(picture.crop((left, top, left + width, top + height)).resize((224, 224), Image.Resampling.BICUBIC))


def original_captions(document: dict[str, Any], count: int) -> list[str]:
    """FLAIR's diverse sampling with Python's own random numbers."""
    sentences = sentences_of(document)
    drawn = []
    for _ in range(count):
        merged = random.randint(1, 3)
        if merged == 1:
            drawn.append(random.choice(sentences))
        elif random.random() < 0.5:
            start = random.randrange(len(sentences) - merged) if len(sentences) > merged else 0
            drawn.append(". ".join(sentences[start : start + merged]))
        else:
            drawn.append(". ".join(random.sample(sentences, merged)))
    return drawn


if __name__ == "__main__":
    main()
