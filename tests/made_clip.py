"""CLIPs as their makers publish them, small and random."""

from pathlib import Path

import numpy as np
import torch

from flair_jax.models.config import FlairConfig
from flair_jax.weights.param_map import torch_shapes


def clip_tensors(config: FlairConfig) -> dict[str, np.ndarray]:
    """A state dict of open_clip's CLIP with towers of these sizes."""
    rng = np.random.default_rng(0)
    names = {"image_post.proj": "visual.proj", "text_post.proj": "text_projection"}
    return {
        names.get(name, name): np.asarray(rng.normal(0, 0.3, shape), np.float32)
        for name, shape in torch_shapes(config).items()
        if not name.startswith("visual_proj.") and name != "logit_bias"
    }


class _Part(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def save_torchscript(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Saves tensors as parameters of a module, and with a tensor that is none, as OpenAI's archives are."""
    root = _Part()
    for name, tensor in tensors.items():
        part = root
        for step in name.split(".")[:-1]:
            if step not in dict(part.named_children()):
                part.add_module(step, _Part())
            part = part.get_submodule(step)
        if tensor.is_floating_point():
            part.register_parameter(name.split(".")[-1], torch.nn.Parameter(tensor))
        else:
            part.register_buffer(name.split(".")[-1], tensor)
    root.attn_mask = torch.zeros(2, 2)
    torch.jit.save(torch.jit.trace(root, torch.zeros(1)), path)
