"""`flair-jax demo`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from flair_jax.commands.parser import Commands, add_command, new_folder, whole
from flair_jax.console import environment_variables
from flair_jax.errors import ConfigError


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "demo",
        _run,
        "show what a small FLAIR has learned on drawn scenes, in a report with attention maps, and train it",
        "Needs the extra `demo`, but neither PyTorch nor a download. The model is shipped, and the first steps of its\n"
        "training are repeated; with --full, all of them are. A demonstration that was stopped resumes where it was.",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=new_folder,
        default=Path("demo"),
        help="folder to fill; made if missing (default demo)",
    )
    parser.add_argument(
        "--full", action="store_true", help="train the model to the end, and report on it instead of the shipped one"
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="with --full, also train the control, the same model with the multi-positive loss alone, and write its "
        "figures to DIR/control.json",
    )
    parser.add_argument("--seed", metavar="N", type=whole, default=0, help="of the training (default %(default)s)")


def _run(options: argparse.Namespace) -> None:
    if (options.control or options.seed) and not options.full:
        raise ConfigError("--control and --seed are for training to the end; add --full")
    # Without a GPU or TPU, one device for each core: XLA keeps several small devices busier than one large one.
    cores = min(os.cpu_count() or 1, 8)
    with environment_variables({"JAX_NUM_CPU_DEVICES": str(1 << (cores.bit_length() - 1))}):
        from flair_jax.demo.run import run_demo

        run_demo(options.output, full=options.full, control=options.control, seed=options.seed)
