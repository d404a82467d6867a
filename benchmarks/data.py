"""Training data from 20,000 samples in tars: samples/s per core here and by the original's pipeline, in one run.

    pip install --no-deps webdataset open_clip_torch
    python benchmarks/data.py --folder FOLDER
    python benchmarks/data.py --folder FOLDER --verify --builder VENV/bin/flair-jax

Both sides read the same tars, decode, cut a random part to 224 x 224, and draw and tokenise 8 captions, each alone on
one core, in turns. The original's side is webdataset with PIL and open_clip's tokenizer, as its release has them; it is
spared the conversion to float and the normalisation, which are the device's work here. `--verify` reads epochs instead:
with 1, 2 and 4 processes, killed and started again, and from an `array_record` set that the other environment's
`flair-jax data build` makes of the tars; all must give the same samples in the same order, to the last pixel and token.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from flair_jax.data import pipeline, tokenizer
from flair_jax.data.captions import CAPTION_LISTS, sentences_of
from flair_jax.data.image import open_rgb, random_crop_box
from flair_jax.data.pipeline import SampleSettings, batches
from flair_jax.data.sources import Source, TfdsSource
from flair_jax.data.tars import TarSource
from flair_jax.data.workers import parallel

SIDES = ("webdataset", "flair_jax")
SETTINGS = SampleSettings(seed=0, image_size=224, context_length=77, captions_per_image=8)
IN_A_TAR = 1000
BATCH = 64
WARM = 1280  # samples that a side reads before it is timed
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)


def main() -> None:
    """Makes the tars, then prints the table of one of the two questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for the tars, about 1 GB; kept")
    parser.add_argument("--samples", type=int, default=20_000, help="in thousands (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default %(default)s)")
    parser.add_argument("--timed", type=int, default=1920, help="samples in a turn (default %(default)s)")
    parser.add_argument("--verify", action="store_true", help="compare order and pixels instead of speed")
    parser.add_argument("--builder", help="flair-jax of an environment with the extra `beam`, for --verify")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.samples % IN_A_TAR or options.samples <= 0:
        parser.error(f"--samples {options.samples} must be a multiple of {IN_A_TAR}")
    if WARM + options.timed > options.samples:
        parser.error(f"--timed {options.timed} needs at least --samples {WARM + options.timed}")
    if options.verify and not options.builder:
        parser.error("--verify needs --builder")
    if options.side:
        run_side(options)
        return
    make_tars(options)
    if options.verify:
        verify(options)
    else:
        compare_speed(options)


# The tars


def pattern(options: argparse.Namespace) -> str:
    """Pattern of all tars."""
    return f"{options.folder}/tars/{{00000..{options.samples // IN_A_TAR - 1:05}}}.tar"


def make_tars(options: argparse.Namespace) -> None:
    """Tars as img2dataset writes them; those that are there are kept."""
    (options.folder / "tars").mkdir(parents=True, exist_ok=True)
    names = [options.folder / "tars" / f"{number:05}.tar" for number in range(options.samples // IN_A_TAR)]
    missing = [name for name in names if not name.exists()]
    for _ in parallel(make_tar, missing, description="make", unit="tar"):
        pass


def make_tar(path: Path) -> None:
    """Crops of photographs at 500 x 375 pixels, each with seven lists of sentences."""
    rng = np.random.default_rng(int(path.stem))
    sources = photographs()
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for number in range(IN_A_TAR):
            picture = sources[int(rng.integers(len(sources)))]
            top, left, height, width = random_crop_box(*picture.size, rng, (0.3, 1.0), (1.32, 1.34))
            cut = picture.crop((left, top, left + width, top + height)).resize((500, 375), Image.Resampling.BICUBIC)
            stream = io.BytesIO()
            cut.save(stream, "jpeg", quality=int(rng.integers(85, 96)))
            key = f"{int(path.stem):05}{number:04}"
            document = {
                "url": f"https://pictures.example/{key}.jpg",
                "key": key,
                "status": "success",
                "error_message": None,
            }
            document |= {"width": 500, "height": 375, "original_width": 500, "original_height": 375, "exif": "{}"}
            for name in CAPTION_LISTS:
                count = int(rng.integers(4, 9)) if name.startswith("long") else 1
                document[name] = [sentence(rng) for _ in range(count)]
            for suffix, data in (
                ("jpg", stream.getvalue()),
                ("json", json.dumps(document).encode()),
                ("txt", document["raw_caption"][0].encode()),
            ):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    partial.rename(path)


@functools.cache
def photographs() -> list[Image.Image]:
    """Those of scikit-image that have colours."""
    package = importlib.util.find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "data"
    return [open_rgb(folder / name) for name in PHOTOGRAPHS]


@functools.cache
def words() -> tuple[list[str], np.ndarray]:
    """Words of CLIP's vocabulary and how often each comes: by Zipf's law, as in texts."""
    ids = tokenizer._vocabulary()._ids
    found = [
        name[:-4] for name in ids if name.endswith("</w>") and name[:-4].isalpha() and name.isascii() and len(name) > 5
    ]
    frequency = 1 / np.arange(1, len(found) + 1)
    return found, np.cumsum(frequency / frequency.sum())


def sentence(rng: np.random.Generator) -> str:
    """6 to 20 words."""
    found, sums = words()
    chosen = np.searchsorted(sums, rng.random(int(rng.integers(6, 21))))
    return " ".join(found[min(int(index), len(found) - 1)] for index in chosen).capitalize()


# Speed


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
    print(f"{options.samples:,} samples of 500 x 375 pixels, K = {SETTINGS.captions_per_image}, one core")
    print(f"{'':<34}{SIDES[0]:>12}{SIDES[1]:>12}")
    middle = [statistics.median(rates[side]) for side in SIDES]
    print(f"{'samples/s, median':<34}{middle[0]:>12.1f}{middle[1]:>12.1f}{middle[1] / middle[0]:>9.2f} x")
    for stage in stages[SIDES[0]][0]:
        cost = [statistics.median(each[stage] for each in stages[side]) for side in SIDES]
        print(f"{'  ms a sample: ' + stage:<34}{cost[0]:>12.3f}{cost[1]:>12.3f}{cost[0] / cost[1]:>9.2f} x")


def run_side(options: argparse.Namespace) -> None:
    """Prints as JSON the samples per second of one side on one core, and milliseconds a sample in each stage."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    timer = Timer()
    stream = (webdataset_side if options.side == "webdataset" else flair_side)(options, timer)
    # The first samples fill caches and, there, the buffer that shuffles.
    for _ in range(WARM // BATCH):
        next(stream)
    timer.seconds.clear()
    start = time.perf_counter()
    count = options.timed // BATCH
    for _ in range(count):
        next(stream)
    seconds = time.perf_counter() - start
    stages = {name: timer.seconds[name] for name in ("decode", "crop and resize", "draw captions", "tokenise")}
    stages["read, JSON, shuffle, batch"] = seconds - sum(stages.values())
    scale = 1000 / (count * BATCH)
    print(
        json.dumps({"rate": count * BATCH / seconds, "stages": {k: v * scale for k, v in stages.items()}}), flush=True
    )
    os._exit(0)  # threads that read ahead need not finish


class Timer:
    """Seconds spent in functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted."""

        def run(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return run


def flair_side(options: argparse.Namespace, timer: Timer) -> Iterator[Any]:
    """Our stream, with the stages' functions timed in place."""
    pipeline.open_training_picture = timer.timed("decode", pipeline.open_training_picture)
    pipeline.resized_crop = timer.timed("crop and resize", pipeline.resized_crop)
    pipeline.sample_caption = timer.timed("draw captions", pipeline.sample_caption)
    pipeline.tokenize = timer.timed("tokenise", pipeline.tokenize)
    return batches([TarSource(pattern(options))], SETTINGS, BATCH, first=options.turn * 31)


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
        return tokenize(draw(document, SETTINGS.captions_per_image))

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


# Order and pixels


@dataclasses.dataclass(frozen=True)
class Part:
    """One process's part of an epoch, written as lines to a file: number of the batch, its samples, their hash."""

    where: str  # pattern of tars, or TFDS's folder
    is_tars: bool
    process: int
    processes: int
    first: int
    last: int
    output: Path

    def open(self) -> Source:
        """The source."""
        return (
            TarSource(self.where, progress=False)
            if self.is_tars
            else TfdsSource("recaptioned/custom", Path(self.where), "train")
        )

    def run(self) -> None:
        """Goes on behind the lines that are there."""
        done = len(self.output.read_text().splitlines()) if self.output.exists() else 0
        stream = batches(
            [self.open()], SETTINGS, BATCH, first=self.first + done, process=self.process, processes=self.processes
        )
        with self.output.open("a", buffering=1) as lines:
            for number in range(self.first + done, self.last):
                batch = next(stream)
                rows = BATCH // self.processes
                content = [
                    hashlib.sha256(pixels.tobytes() + tokens.tobytes()).hexdigest()
                    for pixels, tokens in zip(batch.pixels, batch.tokens.reshape(rows, -1), strict=True)
                ]
                lines.write(json.dumps([number, batch.samples.tolist(), content]) + "\n")
        stream.close()


def verify(options: argparse.Namespace) -> None:
    """Reads the epoch in five ways, prints each one's digest, and fails if they differ."""
    folder = options.folder / "epochs"
    for old in folder.glob("*"):
        old.unlink()
    folder.mkdir(exist_ok=True)
    count = options.samples // BATCH
    prepared = str(options.folder / "tfds")
    start = time.perf_counter()
    subprocess.run([options.builder, "data", "build", "custom", pattern(options), "--data-dir", prepared], check=True)
    print(f"built array_record in {time.perf_counter() - start:.0f} s", flush=True)
    TarSource(pattern(options))
    answers = {}
    for name, is_tars, processes, kill in (
        ("tars, 1 process", True, 1, False),
        ("tars, 2 processes", True, 2, False),
        ("tars, 4 processes, killed thrice", True, 4, True),
        ("array_record, 2 processes", False, 2, False),
    ):
        where = pattern(options) if is_tars else prepared
        output = [
            folder / f"{'tars' if is_tars else 'array_record'}-{process}-of-{processes}" for process in range(processes)
        ]
        parts = [Part(where, is_tars, process, processes, 0, count, output[process]) for process in range(processes)]
        begin = time.perf_counter()
        run_parts(parts, kill)
        seconds = time.perf_counter() - begin
        halves = [[json.loads(line) for line in path.read_text().splitlines()] for path in output]
        seen = [{sample for _, samples, _ in half for sample in samples} for half in halves]
        disjoint = sum(map(len, seen)) == len(set().union(*seen))
        rows = [row for each in zip(*halves, strict=True) for row in each]
        order = [sample for _, samples, _ in rows for sample in samples]
        digest = hashlib.sha256("".join(text for _, _, content in rows for text in content).encode()).hexdigest()
        answers[name] = (order, digest)
        print(
            f"{name:<36}{len(order):>8,} samples, {len(set(order)):,} different, "
            f"{'disjoint' if disjoint else 'NOT DISJOINT'}, pixels and tokens {digest[:16]}, {seconds:.0f} s",
            flush=True,
        )
        if not disjoint or len(set(order)) != count * BATCH:
            sys.exit("the parts do not make an epoch")
    if len({(tuple(order), digest) for order, digest in answers.values()}) != 1:
        sys.exit("they differ")
    print("all the same")


def run_parts(parts: list[Part], kill: bool) -> None:
    """All parts at once in processes of their own; killed after a second or more if asked to, and started again."""
    context = multiprocessing.get_context("spawn")
    rng = random.Random(0)
    for attempt in range(4 if kill else 1):
        processes = [context.Process(target=part.run) for part in parts]
        for process in processes:
            process.start()
        if kill and attempt < 3:
            wait_for_lines(parts, more=rng.randint(3, 30))
            for process in processes:
                os.kill(process.pid, signal.SIGKILL)
        for process in processes:
            process.join()
        if (not kill or attempt == 3) and any(process.exitcode for process in processes):
            sys.exit("a process failed")
        for part in parts:  # a line that was cut off is no line
            text = part.output.read_text()
            part.output.write_text(text[: text.rfind("\n") + 1])


def wait_for_lines(parts: list[Part], more: int) -> None:
    """Until all parts together have so many lines more."""

    def lines() -> int:
        return sum(part.output.read_text().count("\n") for part in parts if part.output.exists())

    aim = lines() + more
    while lines() < aim:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
