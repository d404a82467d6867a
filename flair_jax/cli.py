"""The console command `flair-jax`. Each subcommand loads what it needs when it runs, so that help is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flair_jax import __version__, data_command
from flair_jax.errors import FlairError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
      arguments: words after `flair-jax`; the process's own if not given.

    Returns:
      The exit status: 0, or 2 for bad input, which is explained in one sentence on stderr; 130 if interrupted.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if getattr(options, "takes_more", False):
        options.words = rest  # for absl's flags, or Apache Beam's options
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    sys.unraisablehook = _ignore_orphaned_reads(sys.unraisablehook)
    try:
        return options.run(options) or 0
    except FlairError as error:
        print(f"flair-jax: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # full disk, no permission: the system's own words say what and where
        print(f"flair-jax: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("flair-jax: interrupted", file=sys.stderr)
        return 130


def _ignore_orphaned_reads(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Silences reads under way when another read of a damaged checkpoint failed; that failure is reported."""

    def filtered(unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and "Event loop is closed" in str(unraisable.exc_value)):
            hook(unraisable)

    return filtered


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flair-jax",
        description="FLAIR in JAX: import the released checkpoints, train, and score pictures with texts.",
        epilog="`flair-jax COMMAND --help` explains a command and shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"flair-jax {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_convert(commands)
    _add_export(commands)
    _add_evaluate(commands)
    _add_train(commands)
    data_command.add(commands)
    _add_demo(commands)
    return parser


def _add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], summary: str, details: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_convert(commands: Any) -> None:
    parser = _add_command(
        commands,
        "convert",
        _convert,
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


def _convert(options: argparse.Namespace) -> None:
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


def _add_export(commands: Any) -> None:
    parser = _add_command(
        commands,
        "export",
        _export,
        "write a checkpoint's weights as a file that the PyTorch release loads",
        "examples:\n"
        "  flair-jax export checkpoints/mine mine.safetensors\n"
        "  flair-jax export checkpoints/mine mine.pt\n\n"
        "The file holds the state dict under the PyTorch release's names, bit for bit what `convert` read.\n"
        "Writing .pt needs PyTorch; .safetensors does not.",
    )
    parser.add_argument("source", metavar="SRC", help="a checkpoint's folder")
    parser.add_argument("target", metavar="DST", help=".pt or .safetensors file to write; an older one is replaced")


def _export(options: argparse.Namespace) -> None:
    from flair_jax.convert.transfer import export

    print(f"{options.target}: {export(options.source, options.target)} tensors")


def _add_evaluate(commands: Any) -> None:
    from flair_jax.data.retrieval_sets import RETRIEVAL_SETS
    from flair_jax.models.config import DTYPES

    layouts = "\n".join(f"  {entry.name:<16}{entry.annotations:<40}{entry.source}" for entry in RETRIEVAL_SETS.values())
    parser = _add_command(
        commands,
        "evaluate",
        _evaluate,
        "score a checkpoint on image-text retrieval",
        "examples:\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --dataset coco --data-dir ~/coco --output coco.json\n"
        "  flair-jax evaluate --checkpoint checkpoints/cc3m --dataset all --data-dir ~/datasets\n\n"
        f"sets, the file that marks the folder, and where to get them:\n{layouts}\n\n"
        '`folder` is any folder with one JSON-lines file of {"image": PATH, "caption": TEXT} or {"image": PATH,\n'
        '"captions": [TEXT, ...]}, paths relative to the folder. `all` runs every set in DIR and right below it.\n\n'
        "With --output, a run that was stopped goes on where it was when it is started again.",
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", type=Path, help="folder made by `convert`")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a set's name (below), or all")
    parser.add_argument("--data-dir", required=True, metavar="DIR", type=Path, help="the set's folder as downloaded")
    parser.add_argument(
        "--mode",
        choices=("text-conditioned", "top-k", "global"),
        default="text-conditioned",
        help="text-conditioned: all pairs, as published (default); top-k: only the texts that score best globally for "
        "each image are scored so, the others rank below; global: without pooling, as CLIP does",
    )
    parser.add_argument(
        "--top-k", metavar="K", type=_positive, default=128, help="texts per image in mode top-k (default %(default)s)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="compute dtype (default %(default)s); parameters are float32"
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=_positive,
        default=64,
        help="images embedded at once over all devices (default %(default)s); changes speed and memory, not results",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="write metrics, settings and versions as JSON")
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out pictures that cannot be read, with their captions, and report them, instead of failing",
    )


def _evaluate(options: argparse.Namespace) -> None:
    from flair_jax.evaluate.command import run
    from flair_jax.evaluate.run import Settings

    settings = Settings(options.mode, options.top_k, options.batch_size, options.skip_broken)
    run(options.checkpoint, options.dataset, options.data_dir, settings, dtype=options.dtype, output=options.output)


def _add_train(commands: Any) -> None:
    parser = _add_command(
        commands,
        "train",
        _train,
        "train from one configuration file, on one CPU or a pod",
        "examples:\n"
        "  flair-jax train --config=configs/demo.py --config.data.dir=demo/data --workdir=runs/demo\n"
        "  flair-jax train --config=configs/cc3m_recap.py --config.batch_size=512 --workdir=runs/cc3m\n\n"
        "--config=FILE           an ml_collections configuration; configs/default.py explains every field\n"
        "--config.FIELD=VALUE    changes a field\n"
        "--workdir=DIR           checkpoints and metrics; a run found there goes on where it was\n"
        "--distributed           several hosts: start it on each. TPU pods, SLURM and Kubernetes are recognised;\n"
        "                        elsewhere add --coordinator=HOST:PORT --process=NUMBER --processes=COUNT\n\n"
        "SIGTERM finishes the step, saves and exits with 0. The same as `python -m flair_jax.train`.",
    )
    parser.set_defaults(takes_more=True)


def _train(options: argparse.Namespace) -> int:
    from flair_jax.train import main as train

    return train(options.words)


def _add_demo(commands: Any) -> None:
    parser = _add_command(
        commands,
        "demo",
        _demo,
        "train a small FLAIR on drawn scenes, evaluate it, and write a report with attention maps",
        "Needs the extra `demo`, but neither PyTorch nor a download. Minutes on two CPU cores; a demonstration that\n"
        "was stopped goes on where it was.",
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("demo"), help="folder to fill (default demo)"
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="also train the control, the same model with the multi-positive loss alone; otherwise the report shows "
        "figures of it that were recorded",
    )


def _demo(options: argparse.Namespace) -> None:
    # Without a GPU or TPU, one device for each core: XLA keeps several small devices busier than one large one.
    cores = min(os.cpu_count() or 1, 8)
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(1 << (cores.bit_length() - 1)))
    from flair_jax.demo import run

    run(options.output, control=options.control)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
