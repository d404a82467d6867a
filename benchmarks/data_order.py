"""Training data from made samples in tars: the same order, pixels and tokens, whoever reads them.

    python benchmarks/data_order.py --folder FOLDER --builder VENV/bin/flair-jax

Reads an epoch with 1, 2 and 4 processes, killed and started again, and from an `array_record` set that the other
environment's `flair-jax data build` makes of the tars; all must give the same samples in the same order, to the last
pixel and token.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from sample_tars import add_tars, make_tars, pattern

from flair_jax.data.pipeline import SampleSettings, batches
from flair_jax.data.sources import Source, TfdsSource
from flair_jax.data.tars import TarSource

SETTINGS = SampleSettings(seed=0, image_size=224, context_length=77, captions_per_image=8)
BATCH = 64


def main() -> None:
    """Makes the tars, reads them in four ways, and prints each one's digest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_tars(parser)
    parser.add_argument("--builder", required=True, help="flair-jax of an environment with the extra `beam`")
    options = parser.parse_args()
    make_tars(parser, options)
    verify(options)


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
    """Reads the epoch in four ways, prints each one's digest, and fails if they differ."""
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
