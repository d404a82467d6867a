"""A fingerprint of a model's weights, so that an index is never searched with other weights."""

from __future__ import annotations

import hashlib
import json

import jax
import numpy as np

from flair_jax.models.description import config_to_json
from flair_jax.models.flair import Flair, Params


def fingerprint(model: Flair, params: Params) -> str:
    """SHA-256 over the model's description and every parameter's name, shape and bytes.

    The same weights have the same fingerprint wherever they are stored and whatever the compute dtype.
    """
    digest = hashlib.sha256(json.dumps(config_to_json(model.config), sort_keys=True).encode())
    if model.own_classes:
        digest.update(json.dumps(model.own_classes, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()
