"""Weights as those that the documents name: a FLAIR's, a CLIP's, a training run's of the release, small and random."""

import json
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
import torch
from documents import ROOT
from made_clip import clip_tensors, save_torchscript
from test_from_release import Release

from flair_jax import checkpoint
from flair_jax.convert.transfer import convert
from flair_jax.models.config import FlairConfig, TextConfig, VisionConfig
from flair_jax.models.description import config_to_json
from flair_jax.models.flair import Flair
from flair_jax.models.presets import PRESETS
from flair_jax.weights.param_map import torch_shapes

_CLIP = PRESETS["tiny"]


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return {name: torch.from_numpy(rng.normal(0, 0.1, shape).astype(np.float32)) for name, shape in shapes.items()}


def write_flair_file(path: Path) -> None:
    torch.save({"state_dict": random_tensors(torch_shapes(PRESETS["tiny"]))}, path)


def make_flair(path: Path) -> None:
    write_flair_file(path.with_suffix(".pt"))
    convert(str(path.with_suffix(".pt")), path)


def make_least_flair(path: Path) -> None:
    """So small that ImageNet's 80,000 sentences take seconds."""
    config = FlairConfig(
        embed_dim=8,
        pooling_heads=2,
        vision=VisionConfig(image_size=32, patch_size=16, width=8, layers=1, head_width=4),
        text=TextConfig(context_length=16, width=8, layers=1, heads=2),
    )
    model = Flair(config)
    checkpoint.save(path, model, jax.jit(model.init)(jax.random.key(0)), {"file": "flair-merged30m.pt"})


def write_openai(path: Path) -> None:
    sizes = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
    tensors = {name: torch.from_numpy(each) for name, each in clip_tensors(_CLIP).items()}
    save_torchscript(path, {**tensors, **{name: torch.tensor(size) for name, size in sizes.items()}})


def write_long_clip(path: Path) -> None:
    """With its two tables of positions, of 248 rows."""
    tensors = {name: torch.from_numpy(each) for name, each in clip_tensors(_CLIP).items()}
    width = tensors["positional_embedding"].shape[1]
    tables = random_tensors({"positional_embedding": (248, width), "positional_embedding_res": (248, width)})
    torch.save({**tensors, **tables}, path)


def write_several(path: Path) -> None:
    tensors = random_tensors(torch_shapes(PRESETS["tiny"]))
    averaged = {name: each * 0.5 for name, each in tensors.items()}
    torch.save({"model": tensors, "ema": averaged}, path)


def write_release_run(path: Path) -> None:
    """A checkpoint of the PyTorch release's training, after a step."""
    names = json.loads((ROOT / "tests/golden/ViT-B-16-FLAIR.keys.json").read_text())["tensors"]
    release = Release(PRESETS["tiny"], list(names), lambda step: 1e-3)
    release.step(0)
    release.save(path)


def make_open_clip(path: Path) -> None:
    path.mkdir()
    safetensors.numpy.save_file(clip_tensors(_CLIP), path / "open_clip_model.safetensors")
    model = {name: value for name, value in config_to_json(_CLIP).items() if name != "pooling_heads"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
