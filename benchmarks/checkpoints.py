"""What digests cost: saving a run's checkpoint, loading its model and going on from it, with and without them.

    JAX_PLATFORMS=cpu python benchmarks/checkpoints.py --folder DIR

The checkpoint is of a random model with AdamW's moments, written to DIR and removed at the end; files are read from the
system's cache if they fit. Each time is the best of the rounds, with and without digests in turn; the seconds of cores
are what the process used of them, which other programs on the machine hardly change.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import jax
import numpy as np

import flair_jax
from flair_jax.configs.default import get_config
from flair_jax.models.flair import Flair
from flair_jax.parallel.sharding import make_mesh
from flair_jax.settings import TrainSettings
from flair_jax.train.checkpoints import RunCheckpoints
from flair_jax.train.identity import describe_run
from flair_jax.train.optim import make_optimizer, make_schedule
from flair_jax.train.step import TrainState, abstract_state
from flair_jax.weights import digests

WITH, WITHOUT = "with", "without"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's folder for such files)")
    parser.add_argument("--model", default="ViT-B-16-FLAIR", help="preset (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each (default %(default)s)")
    options = parser.parse_args()
    config = get_config()
    config.model = options.model
    settings = TrainSettings.from_config(config)
    mesh = make_mesh(settings.mesh)
    model = Flair(settings.model_config())
    optimizer = make_optimizer(settings.optimizer, make_schedule(settings.optimizer, 10**6), settings.lock)
    target = abstract_state(model, optimizer, mesh)
    state = random_state(target)
    seconds: dict[str, dict[str, list[tuple[float, float]]]] = {}

    def add(what: str, how: str, work: Callable[[], object]) -> None:
        start, start_of_cores = time.perf_counter(), time.process_time()
        work()
        taken = (time.perf_counter() - start, time.process_time() - start_of_cores)
        seconds.setdefault(what, {}).setdefault(how, []).append(taken)

    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        jax.set_mesh(mesh),
        RunCheckpoints(Path(folder), settings.checkpoint, model, describe_run(settings, 1)) as checkpoints,
    ):
        for number in range(2 * options.rounds):
            how, step = (WITHOUT, WITH)[number % 2], number + 1
            with checked(how):
                add("save: the devices wait", how, lambda step=step: checkpoints.save(state, step))
                add("save: in the background", how, checkpoints.wait)
        newest = checkpoints.path(2 * options.rounds)
        for number in range(2 * options.rounds):
            how = (WITHOUT, WITH)[number % 2]
            with checked(how):
                add("flair_jax.load", how, lambda: flair_jax.load(newest))
                add("going on from it", how, lambda: checkpoints.restore(target, optimizer))
        sizes = [f"{part} {size(newest / part) / 1e6:,.0f} MB" for part in ("params", "optimizer")]
    print(f"on disk: {', '.join(sizes)}")
    print(f"{'seconds':<26}{WITHOUT:>10}{WITH:>10}{'of cores: ' + WITHOUT:>24}{WITH:>10}")
    for what, sides in seconds.items():
        best = [min(each[kind] for each in sides[how]) for kind in (0, 1) for how in (WITHOUT, WITH)]
        print(f"{what:<26}{best[0]:>10.2f}{best[1]:>10.2f}{best[2]:>24.2f}{best[3]:>10.2f}")


def random_state(target: TrainState) -> TrainState:
    """Random parameters and moments, which do not compress."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jax.device_put(rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype), leaf.sharding),
        target,
    )


@contextlib.contextmanager
def checked(how: str) -> Iterator[None]:
    """Without: checkpoints are neither hashed when they are written nor when they are read."""
    if how == WITH:
        yield
        return
    write = lambda folder, entries: (folder / digests.FILE).write_text("")  # noqa: E731
    with mock.patch.object(digests, "write", write), mock.patch.object(digests, "find_damage", return_value=None):
        yield


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
