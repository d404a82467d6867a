"""`flair-jax convert`."""

from __future__ import annotations

import argparse
from typing import Any

from flair_jax.commands.parser import add_command


def add(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "convert",
        _run,
        "import a PyTorch FLAIR checkpoint as a folder that flair_jax loads",
        "examples:\n"
        "  flair-jax convert hf://xiaorui638/flair/flair-cc3m-recap.pt checkpoints/cc3m\n"
        "  flair-jax convert flair-cc3m-recap.pt checkpoints/cc3m --verify\n"
        "  flair-jax convert my-model.safetensors checkpoints/mine --config my-model.json\n"
        "  flair-jax convert open_clip_model.safetensors checkpoints/clip   # CLIP's towers, to start training from\n\n"
        "Every tensor of the file must be used exactly once; if not, all that is missing, left over or misshapen is\n"
        "listed and nothing is written. Reading .pt needs PyTorch (its CPU build is enough); .safetensors does not.\n"
        "Downloads keep to the hub library's cache and settings (HF_HOME, HF_TOKEN, HF_ENDPOINT).",
    )
    parser.add_argument(
        "source", metavar="SRC", help=".pt or .safetensors file, or hub name hf://OWNER/REPOSITORY[@REVISION]/FILE"
    )
    parser.add_argument("target", metavar="DST", help="folder to make; an older checkpoint there is replaced")
    parser.add_argument(
        "--config",
        metavar="NAME|FILE",
        help="the model: a preset's name, or a JSON file in the PyTorch release's form. Needed only if its sizes are "
        "those of no preset, because tensors do not show the numbers of attention heads",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read DST again and compare its features with PyTorch's own arithmetic on SRC (needs PyTorch)",
    )


def _run(options: argparse.Namespace) -> None:
    from flair_jax.checkpoint import read_description
    from flair_jax.convert.files import require_torch
    from flair_jax.convert.transfer import convert, verify
    from flair_jax.models.config import read_config

    if options.verify:
        require_torch("--verify")  # before the work, not after it
    config = convert(options.source, options.target, options.config and read_config(options.config))
    print(
        f"{options.target}: vision {config.vision.layers} x {config.vision.width}, patch {config.vision.patch_size}, "
        f"{config.vision.image_size} pixels; text {config.text.layers} x {config.text.width}; "
        f"embedding {config.embed_dim}"
    )
    towers = read_description(options.target).get("source", {}).get("towers")
    if towers:
        print(f"towers of {towers}: start training with --config.init={options.target}")
    if options.verify:
        print("largest difference from PyTorch, over the largest value:")
        for name, difference in verify(options.source, options.target).items():
            print(f"  {name:<24}{difference:.1e}")
