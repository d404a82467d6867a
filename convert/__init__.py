"""Whole conversions: the PyTorch release's weights in and back out, folders for other software, and StableHLO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.convert.folder import export_folder as export_folder
    from flair_jax.convert.folder import load_tensors as load_tensors
    from flair_jax.convert.folder import push as push
    from flair_jax.convert.stablehlo import ExportedFlair as ExportedFlair
    from flair_jax.convert.torch_forward import TorchFlair as TorchFlair
    from flair_jax.convert.transfer import Conversion as Conversion
    from flair_jax.convert.transfer import convert as convert
    from flair_jax.convert.transfer import export as export
    from flair_jax.convert.transfer import verify as verify
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "folder": ["export_folder", "load_tensors", "push"],
            "stablehlo": ["ExportedFlair"],
            "torch_forward": ["TorchFlair"],
            "transfer": ["Conversion", "convert", "export", "verify"],
        },
    )
