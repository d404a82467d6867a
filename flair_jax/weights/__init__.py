"""Reading others' weights: files, archives, the hub, and the table that maps their tensors to parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.weights.hub import download as download
    from flair_jax.weights.hub import upload as upload
    from flair_jax.weights.infer import infer_config as infer_config
    from flair_jax.weights.param_map import ConversionError as ConversionError
    from flair_jax.weights.param_map import params_from_torch as params_from_torch
    from flair_jax.weights.param_map import torch_from_params as torch_from_params
    from flair_jax.weights.param_map import torch_shapes as torch_shapes
    from flair_jax.weights.read import Weights as Weights
    from flair_jax.weights.read import check_finite as check_finite
    from flair_jax.weights.read import read_weights as read_weights
    from flair_jax.weights.write import save_safetensors as save_safetensors
    from flair_jax.weights.write import write_tensors as write_tensors
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "hub": ["download", "upload"],
            "infer": ["infer_config"],
            "param_map": ["ConversionError", "params_from_torch", "torch_from_params", "torch_shapes"],
            "read": ["Weights", "check_finite", "read_weights"],
            "write": ["save_safetensors", "write_tensors"],
        },
    )
