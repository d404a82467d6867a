"""`flair-jax status`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flair_jax.commands.parser import Commands, add_command, path
from flair_jax.errors import plural

if TYPE_CHECKING:
    from flair_jax.train.status import Status


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "status",
        _run,
        "tell how a training run is doing, from its folder",
        "examples:\n"
        "  flair-jax status runs/cc3m\n"
        "  flair-jax status runs/cc3m --json\n\n"
        "Works while the run is at work, from any machine that sees the folder, and changes nothing there. A run\n"
        "gives a sign of life every 30 s. docs/health.md explains the rows.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", type=path, help="folder of the run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--verify", action="store_true", help="also read all checkpoints, and compare them with their digests"
    )


def _run(options: argparse.Namespace) -> None:
    import dataclasses
    import json

    from flair_jax.train.status import read_status

    status = read_status(options.workdir, verify=options.verify)
    if options.json:
        print(json.dumps(dataclasses.asdict(status), indent=2))
        return
    print(f"{status.workdir}: {_state(status)}")
    for name, words in _rows(status):
        print(f"  {name:<12} {words}")


def _state(status: Status) -> str:
    if status.seen is None:
        return "whether it is running is not known, for it keeps no record, as runs of earlier versions"
    if status.state == "running":
        at = f" ({status.starts[-1].at})" if status.starts[-1].at else ""
        return f"running{at}, last sign of life {_duration(status.seen)} ago"
    if status.state == "silent":
        return f"no sign of life for {_duration(status.seen)}, and no end: it was killed, or its machine is lost"
    return f"{status.state} {_duration(status.seen)} ago"


def _rows(status: Status) -> Iterator[tuple[str, str]]:
    from flair_jax.train.logger import evaluation_in_words

    run, metrics = status.run, status.metrics
    if run:
        rate = f"{run.get('optimizer.name', 'adamw')} at {run.get('optimizer.learning_rate')}"
        images = f"{run.get('batch_size')} images a step"
        yield "run", f"{run.get('model')} on {run.get('data.name')}, {images}, {rate}, seed {run.get('seed')}"
    if status.starts and status.starts[-1].on:
        yield "on", status.starts[-1].on
    yield "step", _step(status)
    if "images_per_second" in metrics:
        yield "speed", _speed(metrics)
    if status.losses:
        yield "loss", ", ".join(f"{loss:.3f} at {step:,}" for step, loss in list(status.losses.items())[-4:])
    if words := evaluation_in_words(metrics):
        yield "evaluation", words
    if "memory/peak_bytes_in_use" in metrics:
        yield "memory", _memory(metrics)
    yield from _checkpoints(status)
    yield from _starts(status)
    for number, words in enumerate(status.damaged):
        yield "" if number else "damaged", words


def _step(status: Status) -> str:
    if not status.steps:
        return f"{status.step:,}"
    words = f"{status.step:,} of {status.steps:,} ({100 * status.step / status.steps:.1f} %)"
    if status.eta is None:
        return words
    return f"{words}, {_duration(status.eta)} to go" + ("" if status.state == "running" else " once it is resumed")


def _speed(metrics: Any) -> str:
    words = f"{metrics['images_per_second']:,.1f} images/s, {100 * metrics['waiting_for_data']:.1f} % waiting for data"
    if "step_seconds/p50" in metrics:
        words += f"; a step {metrics['step_seconds/p50']:.3g} s (p95 {metrics['step_seconds/p95']:.3g}, at most "
        words += f"{metrics['step_seconds/max']:.3g})"
    if "model_flops_utilisation" in metrics:
        words += f"; MFU {100 * metrics['model_flops_utilisation']:.1f} %"
    if "planned_model_flops_utilisation" in metrics:
        words += f" (planned {100 * metrics['planned_model_flops_utilisation']:.1f} %)"
    return words


def _memory(metrics: Any) -> str:
    used, peak = (metrics[f"memory/{name}"] / 2**30 for name in ("bytes_in_use", "peak_bytes_in_use"))
    limit = f" of {metrics['memory/bytes_limit'] / 2**30:.1f}" if "memory/bytes_limit" in metrics else ""
    return f"{used:.1f} GiB in use, {peak:.1f}{limit} at peak"


def _checkpoints(status: Status) -> Iterator[tuple[str, str]]:
    if not status.saved:
        yield "checkpoints", "none yet"
    for number, each in enumerate(status.saved):
        size = f"{each.bytes / 1e6:,.1f} MB in {plural(each.files, 'file')}"
        yield "" if number else "checkpoints", f"step {each.step:,}: {size}"
    if status.unfinished:
        yield "", f"being saved, or cut off: {', '.join(status.unfinished)}"


def _starts(status: Status) -> Iterator[tuple[str, str]]:
    words = f"restarted {plural(status.restarts, 'time')}"
    if status.repeated_steps:
        words += f", {plural(status.repeated_steps, 'step')} lost and repeated"
    if status.goodput is not None:
        words += f"; goodput {100 * status.goodput:.1f} %"
    yield "starts", words
    for start in status.starts[-4:-1]:
        yield "", f"steps {start.first:,} to {start.last:,} in {_duration(start.seconds)}, then {start.state}"
    if not status.starts:
        return
    newest = status.starts[-1]
    # The first step is one of the steps.
    before = newest.startup.get("total", newest.seconds) - newest.startup.get("first_step", 0.0)
    spent = {"start": before, "steps": newest.stepping, **newest.elsewhere}
    yield (
        "time",
        f"{_duration(newest.seconds)}: "
        + ", ".join(f"{name} {_duration(each)}" for name, each in spent.items() if each >= 0.05),
    )
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in newest.startup.items() if name != "total")
    total = f"after {newest.startup['total']:.1f} s" if "total" in newest.startup else "not yet"
    yield "first step", f"{total}: {phases}"


def _duration(seconds: float) -> str:
    """In the two largest units."""
    for size, large, small in ((86400, "d", "h"), (3600, "h", "min"), (60, "min", "s")):
        if seconds >= size:
            part = {"d": 3600, "h": 60, "min": 1}[large]
            return f"{int(seconds // size)} {large} {int(seconds % size // part)} {small}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
