"""`flair-jax export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flair_jax.commands.own_model import add_config, own_model
from flair_jax.commands.parser import Commands, add_command, new_file, new_folder, path
from flair_jax.errors import FlairError


def add(commands: Commands) -> None:
    """Adds the command."""
    from flair_jax.models.config import DTYPES

    parser = add_command(
        commands,
        "export",
        _run,
        "write a checkpoint for other programs: weights, a folder for the hub, StableHLO or ONNX",
        "examples:\n"
        "  flair-jax export checkpoints/mine mine.safetensors  # the state dict, for the PyTorch release; or mine.pt\n"
        "  flair-jax export checkpoints/mine mine/             # a folder for the hub, which flair_jax.load reads too\n"
        "  flair-jax export checkpoints/mine hf://me/mine      # the same, put on the hub\n"
        "  flair-jax export checkpoints/mine mine.stablehlo    # functions that need JAX and none of this code\n"
        "  flair-jax export checkpoints/mine mine.onnx         # functions that need ONNX Runtime and no JAX\n\n"
        "DST's ending decides: .pt, .safetensors, .stablehlo or .onnx; a name without an ending, or with / at its\n"
        "end, is a folder; hf://OWNER/REPOSITORY[@BRANCH] is on the hub, where a missing repository is made, private.\n"
        "Weights are under the PyTorch release's names, bit for bit what `convert` read. Writing .pt needs PyTorch,\n"
        ".stablehlo the extra `export`, .onnx the extra `onnx`, and uploading a token (`hf auth login`).",
    )
    parser.add_argument("source", metavar="SRC", help="a checkpoint: its folder, or hf://OWNER/REPOSITORY[@REVISION]")
    parser.add_argument("target", metavar="DST", type=_target, help="what to write; an older one is replaced")
    add_config(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="compute dtype of .stablehlo functions (default float32)")


def _target(text: str) -> str:
    """As it was written; if it cannot be made, that is an error before any work is done."""
    from flair_jax.weights.write import SUFFIXES

    if _is_on_hub(text):
        return text
    if Path(text).suffix in SUFFIXES and not _is_folder(text):
        new_file(text)
    elif not path(text).is_file():  # else the exporter says what it does not replace
        new_folder(text)
    return text


def _is_on_hub(target: str) -> bool:
    return target.startswith("hf://")


def _is_folder(target: str) -> bool:
    return target.endswith("/") or not Path(target).suffix


def _run(options: argparse.Namespace) -> None:
    target, ending = options.target, Path(options.target).suffix
    on_hub, is_folder = _is_on_hub(target), _is_folder(target)
    as_functions = ending in (".stablehlo", ".onnx") and not on_hub and not is_folder
    if options.config and not as_functions:
        raise FlairError(
            f"--config: {target} would have the PyTorch release's form, which has no place for a model with modules of "
            "its own; choose a DST that ends in .stablehlo or .onnx"
        )
    if options.dtype and not (as_functions and ending == ".stablehlo"):
        raise FlairError("--dtype: only .stablehlo has a compute dtype; all else is written in float32")
    if on_hub:
        from flair_jax.convert.folder import push

        print(f"{target}: {push(options.source, target)}")
    elif is_folder:
        from flair_jax.convert.folder import export_folder

        print(f"{target}: {export_folder(options.source, target)} tensors")
    elif ending == ".stablehlo":
        from flair_jax.convert.stablehlo_export import export as export_stablehlo

        dtype = options.dtype or "float32"
        description = export_stablehlo(options.source, target, dtype=dtype, model=own_model(options, dtype))
        names, platforms = (", ".join(description[key]) for key in ("functions", "platforms"))
        print(f"{target}: {names}; computing in {description['compute_dtype']} on {platforms}")
    elif ending == ".onnx":
        from flair_jax.convert.onnx_export import export as export_onnx

        description = export_onnx(options.source, target, model=own_model(options, "float32"))
        differences = [each["largest_difference"] for each in description["functions"].values()]
        print(
            f"{target}: {', '.join(description['functions'])}; opset {description['opset']}, in ONNX Runtime within "
            f"{max(differences):.1e} of JAX's largest values"
        )
    else:
        from flair_jax.convert.transfer import export
        from flair_jax.weights.write import SUFFIXES

        if ending not in SUFFIXES:
            raise FlairError(
                f"{target}: nothing is written with the ending {ending}; choose {', '.join(SUFFIXES)}, .stablehlo "
                "or .onnx, or put / behind the name of a folder"
            )
        print(f"{target}: {export(options.source, target)} tensors")
