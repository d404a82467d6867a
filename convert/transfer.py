"""Conversion both ways, with verification: a PyTorch file to a checkpoint folder, and back."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from flair_jax import checkpoint
from flair_jax.convert.folder import load_tensors, preprocessing, warn_of_release
from flair_jax.convert.functions import random_inputs
from flair_jax.data.tokenizer import find_tokenizer
from flair_jax.errors import ConfigError
from flair_jax.files import absolute, expand
from flair_jax.models.config import FlairConfig
from flair_jax.models.description import config_from_json
from flair_jax.models.flair import Flair
from flair_jax.weights import hub
from flair_jax.weights.activation import ACTIVATIONS, settle, told_by
from flair_jax.weights.infer import infer_config
from flair_jax.weights.layouts import read_towers
from flair_jax.weights.long_text import KEPT_POSITIONS, Stretch, is_long_clip, joined_tables
from flair_jax.weights.origin import REPOSITORY, TOWERS
from flair_jax.weights.param_map import ConversionError, complete, is_clip, params_from_torch, towers_of_clip
from flair_jax.weights.read import OPENAI_SIZES, Weights, read_weights
from flair_jax.weights.sources import FoundWeights, find_weights
from flair_jax.weights.write import require_torch, write_tensors

# Largest difference of features, over the largest feature, that float32 rounding explains, with room for accelerators,
# whose sums run in another order. CPUs differ by a few 1e-6.
VERIFY_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The model that was converted, and remarks on how, each a phrase."""

    config: FlairConfig
    remarks: tuple[str, ...]


def convert(
    source: str,
    target: str | Path,
    config: FlairConfig | None = None,
    *,
    activation: str | None = None,
    state_dict: str | None = None,
    stretch: Stretch | None = None,
) -> Conversion:
    """Imports PyTorch weights as a checkpoint that `flair_jax.load` reads.

    From a CLIP of open_clip, OpenAI or Long-CLIP, the towers and projections are taken, as a start for training; the
    rest is initialised at random. So it is with the models of `flair_jax.weights.layouts`, which are transformers'.

    Args:
      source: a weight file, the `.index.json` of shards, a folder with one of them, or one of these on the hub
        (`hf://OWNER/REPOSITORY[@REVISION][/FILE]`).
      target: folder to make.
      config: the model, needed where its sizes match no preset: tensors do not show the numbers of attention heads.
      activation: "gelu" or "quick_gelu", where neither the file nor its description says it.
      state_dict: which state dict, where the file holds several.
      stretch: a longer context for the text tower; training is what makes use of it.

    Raises:
      ConversionError: if the file cannot be read, its tensors are not exactly the model's, or the activation of a CLIP
        is not known.
      ConfigError: if the numbers of heads are not known, or the context cannot be stretched so.
      CheckpointError: if `target` exists and is something else.
    """
    target = absolute(expand(target))
    checkpoint.check_target(target)
    found = find_weights(source)
    weights = read_weights(found.file, state_dict)
    if found.layout:
        return _convert_layout(source, target, found, weights, config, activation or stretch)
    clip = is_clip(weights.tensors)
    try:
        tensors = _tensors(weights.tensors)
        given, not_followed = _given(found, config)
        described = infer_config(tensors, given)
        _check_sizes(weights, described)
        told = _told(weights, found, config)
        quick_gelu, who = (ACTIVATIONS[activation], "--activation") if activation else settle(told, clip=clip)
        described = dataclasses.replace(described, quick_gelu=quick_gelu)
        remarks = [*weights.remarks, *not_followed, *_other_preparation(found, described)]
        trained_length = described.text.context_length
        if stretch:
            described, tensors = stretch.config(described), stretch.tensors(tensors)
        remarks += _about_positions(weights, trained_length, stretch)
        params = params_from_torch(complete(tensors, described) if clip else tensors, described)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}") from None
    checkpoint.save(target, Flair(described), params, _origin(source, found, weights, clip, stretch))
    contrary = [who for who, quick in told.items() if quick != quick_gelu]
    activation_remark = f"activation: {'QuickGELU' if quick_gelu else 'exact GELU'}, by {who}" + (
        f", against {', '.join(contrary)}" if contrary else ""
    )
    return Conversion(described, (activation_remark, *remarks))


def _tensors(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """A file's tensors under FLAIR's names, as many as it has."""
    if is_long_clip(tensors):
        tensors = joined_tables(tensors)
    return towers_of_clip(tensors) if is_clip(tensors) else tensors


def _about_positions(weights: Weights, trained_length: int, stretch: Stretch | None) -> Iterator[str]:
    """Remarks on a position table that is not the file's own; `trained_length` is that of the file."""
    if is_long_clip(weights.tensors):
        yield f"positions: Long-CLIP's, the first {KEPT_POSITIONS} of one table and the others of the other"
    if stretch:
        times = (stretch.context_length - stretch.keep) / (trained_length - stretch.keep)
        yield (
            f"context: {trained_length} -> {stretch.context_length} tokens; the first {stretch.keep} "
            f"positions are kept, and of the others there are {times:.3g} times as many. Texts of more than "
            f"{stretch.keep} tokens have other features than before, until training mends that"
        )


def _convert_layout(
    source: str,
    target: Path,
    found: FoundWeights,
    weights: Weights,
    config: FlairConfig | None,
    other: object,
) -> Conversion:
    """`convert` of a model in the layout of transformers; `other` are settings that it does not have."""
    if other:
        raise ConversionError(
            f"{source}: its config.json says the activation, and its text tower, if it has one, cannot be stretched; "
            "leave --activation and --context-length out"
        )
    try:
        towers = read_towers(weights.tensors, found.layout, found.file.parent, config)
        find_tokenizer(towers.config.text.tokenizer)  # a damaged file is said now
    except (ConversionError, ConfigError) as error:
        raise ConversionError(f"{source}: {error}") from None
    origin = {**_origin(source, found, weights, clip=False, stretch=None), **towers.origin}
    checkpoint.save(target, Flair(towers.config), towers.params, origin)
    return Conversion(towers.config, (*weights.remarks, *towers.remarks))


def _given(found: FoundWeights, config: FlairConfig | None) -> tuple[FlairConfig | None, list[str]]:
    """The model by --config, or else by the file beside the weights; and remarks on a description not followed."""
    if not found.description:
        return config, []
    try:
        beside = config_from_json(found.description, where=found.described_in)
    except ConfigError as error:
        if config is None:
            raise
        return config, [f"--config holds against what is beside the weights, which is no model of ours: {error}"]
    return config or beside, []


def _origin(source: str, found: FoundWeights, weights: Weights, clip: bool, stretch: Stretch | None) -> dict[str, str]:
    """Where the weights come from, for the checkpoint's description."""
    origin = {"file": found.file.name, "sha256": _sha256(found.file)}
    origin |= {f"sha256 of {shard.name}": _sha256(shard) for shard in weights.files[1:]}
    if source.startswith(hub.PREFIX):
        origin[REPOSITORY] = hub.split(source)[0]
    if clip:
        origin[TOWERS] = "CLIP; the pooling is random and must be trained"
    if stretch:
        origin["context"] = f"stretched to {stretch.context_length} tokens, of which {stretch.keep} were kept"
    return origin


def _told(weights: Weights, found: FoundWeights, config: FlairConfig | None) -> dict[str, bool]:
    """Every source of the activation, and whether it says QuickGELU: file, name, description, the model asked for."""
    told = told_by(weights, found.name)
    if config is not None and config.quick_gelu:
        told["--config"] = True
    if found.description:  # where open_clip does not write it, it means the exact GELU
        told[found.described_in] = bool(found.description.get("model_cfg", found.description).get("quick_gelu"))
    return told


def _check_sizes(weights: Weights, config: FlairConfig) -> None:
    shown = {"image_size": config.vision.image_size, **dataclasses.asdict(config.text)}
    wrong = [
        f"{name} is {size}, and the tensors show {shown[OPENAI_SIZES[name]]}"
        for name, size in weights.sizes.items()
        if size != shown[OPENAI_SIZES[name]]
    ]
    if wrong:
        raise ConversionError(f"the file contradicts itself: {'; '.join(wrong)}")


def _other_preparation(found: FoundWeights, config: FlairConfig) -> list[str]:
    """How the preprocessing of images for these weights differs from ours, as remarks."""
    theirs, ours = found.description.get("preprocess_cfg", {}), preprocessing(config)
    return [
        f"{found.described_in}: images were prepared with {name} {theirs[name]}, and are here with {ours[name]}"
        for name in ("mean", "std", "interpolation", "resize_mode")
        if isinstance(theirs, dict) and theirs.get(name, ours[name]) != ours[name]
    ]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def export(source: str | Path, target: str | Path) -> int:
    """Writes a checkpoint's weights as a file that the PyTorch release loads.

    Args:
      source: a checkpoint's folder.
      target: `.pt` or `.safetensors` file to write.

    Returns:
      The number of tensors written.

    Raises:
      CheckpointError: if `source` is not a checkpoint.
      ConversionError: if `target` has another ending, or is `.pt` and torch is missing.
    """
    model, tensors = load_tensors(source)
    warn_of_release(Path(target).name, model.config)
    write_tensors(target, tensors, quick_gelu=model.config.quick_gelu)
    return len(tensors)


def check_verifiable(source: str) -> Path:
    """The weight file; raises ConversionError if `verify` cannot compute what is in it."""
    found = find_weights(source)
    if found.layout:
        raise ConversionError(
            f"{source}: --verify computes FLAIR's and CLIP's towers alone; convert without it (the tests compare these "
            "towers with transformers)"
        )
    return found.file


def verify(
    source: str, target: str | Path, state_dict: str | None = None, stretch: Stretch | None = None
) -> dict[str, float]:
    """Compares PyTorch's arithmetic on the source file with ours on the converted checkpoint, on a fixed random input.

    Args:
      source: as for `convert`.
      target: the checkpoint's folder.
      state_dict: as for `convert`.
      stretch: as for `convert`.

    Returns:
      Output name -> largest absolute difference over the largest absolute value.

    Raises:
      ConversionError: if torch is missing, or a difference exceeds `VERIFY_TOLERANCE`.
    """
    torch = require_torch("--verify")
    file = check_verifiable(source)
    from flair_jax.convert.torch_forward import TorchFlair

    model, params = checkpoint.load(target)
    held = read_weights(file, state_dict).tensors
    tensors = _tensors(held) if stretch is None else stretch.tensors(_tensors(held))
    if is_clip(held):
        tensors = complete(tensors, model.config)
    reference = TorchFlair({name: torch.from_numpy(np.array(each)) for name, each in tensors.items()}, model.config)
    images, tokens = random_inputs(model.config, images=2, texts=3)

    with torch.no_grad():
        theirs_global, theirs_local = reference.encode_image(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        theirs_text = reference.encode_text(torch.from_numpy(tokens).long())
        theirs_pooled = reference.pool(theirs_local, theirs_text)
    ours_global, ours_local = jax.jit(model.encode_image)(params, images)
    ours_text = jax.jit(model.encode_text)(params, tokens)
    ours_pooled = jax.jit(model.pool)(params, ours_local, ours_text)

    pairs = {
        "global image features": (ours_global, theirs_global),
        "local image features": (ours_local, theirs_local),
        "text features": (ours_text, theirs_text),
        "pooled features": (ours_pooled, theirs_pooled),
    }
    differences = {
        name: float(np.abs(np.asarray(ours) - theirs.numpy()).max() / np.abs(theirs.numpy()).max())
        for name, (ours, theirs) in pairs.items()
    }
    # `not <=` rather than `>`, so that NaN fails.
    wrong = [f"{name} {value:.1e}" for name, value in differences.items() if not value <= VERIFY_TOLERANCE]
    if wrong:
        raise ConversionError(
            f"{target}: differs from PyTorch's arithmetic by more than {VERIFY_TOLERANCE:.0e}: {', '.join(wrong)}"
        )
    return differences
