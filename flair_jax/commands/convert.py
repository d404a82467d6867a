"""`flair-jax convert`."""

from __future__ import annotations

import argparse
from shlex import quote
from typing import TYPE_CHECKING

from flair_jax.commands.parser import Commands, add_command, new_folder
from flair_jax.errors import ConfigError

if TYPE_CHECKING:
    from flair_jax.weights.long_text import Stretch


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "convert",
        _run,
        "import PyTorch weights of FLAIR, or of a CLIP's towers, as a folder that flair_jax loads",
        "examples:\n"
        "  flair-jax convert hf://xiaorui638/flair/flair-cc3m-recap.pt checkpoints/cc3m\n"
        "  flair-jax convert flair-cc3m-recap.pt checkpoints/cc3m --verify\n"
        "  flair-jax convert my-model.safetensors checkpoints/mine --config my-model.json\n"
        "  flair-jax convert run.pt checkpoints/averaged --state-dict ema\n"
        "CLIP's towers, to start training from:\n"
        "  flair-jax convert ViT-B-16.pt checkpoints/clip               # OpenAI's archive\n"
        "  flair-jax convert hf://laion/CLIP-ViT-B-16-laion2B-s34B-b88K checkpoints/clip\n"
        "  flair-jax convert b16_400m.pt checkpoints/clip --activation quick_gelu\n"
        "  flair-jax convert longclip-B.pt checkpoints/longclip         # reads 248 tokens\n"
        "SigLIP 2 and DINOv3, as transformers saves them, to start from:\n"
        "  flair-jax convert hf://google/siglip2-base-patch16-224 checkpoints/siglip2\n"
        "  flair-jax convert hf://facebook/dinov3-vitb16-pretrain-lvd1689m checkpoints/dinov3\n"
        "for longer texts than a model was trained with, to train on:\n"
        "  flair-jax convert hf://xiaorui638/flair/flair-merged30m.pt checkpoints/long --context-length 248\n\n"
        "Every tensor of the file must be used exactly once; if not, all that is missing, left over or misshapen is\n"
        "listed and nothing is written. No code in a file is run. .pt needs PyTorch (its CPU build is enough);\n"
        ".safetensors and OpenAI's archives do not. Downloads keep to the hub library's cache and settings (HF_HOME,\n"
        "HF_TOKEN, HF_ENDPOINT). docs/convert.md says more.",
    )
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a weight file (.pt, .pth, .bin, .ckpt, .safetensors), the .index.json of shards, a folder with one of "
        "these, or one on the hub: hf://OWNER/REPOSITORY[@REVISION][/FILE]",
    )
    parser.add_argument(
        "target", metavar="DST", type=new_folder, help="folder to make; an older checkpoint there is replaced"
    )
    parser.add_argument(
        "--config",
        metavar="NAME|FILE",
        help="the model, and not a training configuration as in other commands: a preset's name, or a JSON file in the "
        "PyTorch release's form. Needed only if its sizes are those of no preset, because tensors do not show the "
        "numbers of attention heads",
    )
    parser.add_argument(
        "--activation",
        choices=("gelu", "quick_gelu"),
        help="what the MLPs were trained with. Needed only for CLIP's towers of which no open_clip_config.json, no "
        "name and nothing in the file says it",
    )
    parser.add_argument(
        "--state-dict", metavar="NAME", help="which one, of a file with several, such as model and ema; they are listed"
    )
    parser.add_argument(
        "--context-length",
        type=int,
        metavar="T",
        help="stretch the text tower's positions to so many tokens, as Long-CLIP does: 248 makes four of each that is "
        "not kept, of 77. Such a model must be trained before long texts mean much to it",
    )
    parser.add_argument(
        "--keep-positions",
        type=int,
        metavar="N",
        help="with --context-length: how many of the first positions stay as they were trained (default: 20)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read DST again and compare its features with PyTorch's own arithmetic on SRC (needs PyTorch)",
    )


def _run(options: argparse.Namespace) -> None:
    from flair_jax.checkpoint import read_description
    from flair_jax.convert.transfer import check_verifiable, convert, verify
    from flair_jax.models.presets import read_config
    from flair_jax.weights.origin import TEXTS, TOWERS
    from flair_jax.weights.write import require_torch

    stretch = _stretch(options.context_length, options.keep_positions)
    if options.verify:
        require_torch("--verify")  # fails before the work, not after it
        check_verifiable(options.source)
    done = convert(
        options.source,
        options.target,
        options.config and read_config(options.config),
        activation=options.activation,
        state_dict=options.state_dict,
        stretch=stretch,
    )
    config = done.config
    print(
        f"{options.target}: vision {config.vision.layers} x {config.vision.width}, patch {config.vision.patch_size}, "
        f"{config.vision.image_size} pixels; text {config.text.layers} x {config.text.width}, "
        f"{config.text.context_length} tokens; "
        f"embedding {config.embed_dim}"
    )
    for remark in done.remarks:
        print(f"  {remark}")
    source = read_description(options.target).get("source", {})
    if TOWERS in source:
        scored = ", or score them as they are with `flair-jax evaluate --mode global`"
        print(
            f"towers of {source[TOWERS]}: start training with {quote(f'--config.init={options.target}')} "
            + quote(f"--config.model={options.target}/config.json")
            + ("; the text tower is random too" if TEXTS in source else scored)
        )
    if options.verify:
        print("largest difference from PyTorch, over the largest value:")
        for name, difference in verify(options.source, options.target, options.state_dict, stretch).items():
            print(f"  {name:<24}{difference:.1e}")


def _stretch(context_length: int | None, keep: int | None) -> Stretch | None:
    from flair_jax.weights.long_text import Stretch

    if context_length is None:
        if keep is not None:
            raise ConfigError(f"--keep-positions {keep} has no meaning without --context-length")
        return None
    return Stretch(context_length) if keep is None else Stretch(context_length, keep)
