"""`flair-jax demo`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from flair_jax.commands.parser import Commands, add_command, new_folder
from flair_jax.console import environment_variables


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "demo",
        _run,
        "train a small FLAIR on drawn scenes, evaluate it, and write a report with attention maps",
        "Needs the extra `demo`, but neither PyTorch nor a download. Minutes on two CPU cores; a demonstration that\n"
        "was stopped resumes where it was.",
    )
    parser.add_argument(
        "--output", metavar="DIR", type=new_folder, default=Path("demo"), help="folder to fill (default demo)"
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="also train the control, the same model with the multi-positive loss alone; otherwise the report shows "
        "figures of it that were recorded",
    )


def _run(options: argparse.Namespace) -> None:
    # Without a GPU or TPU, one device for each core: XLA keeps several small devices busier than one large one.
    cores = min(os.cpu_count() or 1, 8)
    with environment_variables({"JAX_NUM_CPU_DEVICES": str(1 << (cores.bit_length() - 1))}):
        from flair_jax.demo.run import run_demo

        run_demo(options.output, control=options.control)
