"""How far features and logits in bfloat16, with either residual stream, are from those in float32.

    python benchmarks/precision.py

ViT-B/16-FLAIR with random weights, which a trained model's are not: what it prints compares settings with each other.
"""

from __future__ import annotations

import argparse
import dataclasses

import jax
import numpy as np
from made_captions import TRAINING, made_captions

from flair_jax.models.flair import Flair
from flair_jax.models.presets import PRESETS


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="images (default %(default)s)")
    parser.add_argument("--texts", type=int, default=64, help="texts (default %(default)s)")
    options = parser.parse_args()
    config = PRESETS["ViT-B-16-FLAIR"]
    params = jax.jit(Flair(config).init)(jax.random.key(0))
    size = config.vision.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (options.images, size, size, 3), dtype=np.uint8)
    tokens = made_captions(options.texts, TRAINING, config.text)
    found = {}
    for dtype, residual in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")):
        model = Flair(dataclasses.replace(config, dtype=dtype, residual_dtype=residual))
        image, local = jax.jit(model.encode_image)(params, model.normalize(pixels))
        text = jax.jit(model.encode_text)(params, tokens)
        logits = jax.jit(model.logits)(params, model.normalize(pixels), tokens)
        found[dtype, residual] = {"global": image, "local": local, "text": text, "logits": logits}
    exact = found.pop(("float32", "float32"))
    print(f"{options.images} images, {options.texts} texts, against float32: 1 - cosine and logits, at most")
    for (dtype, residual), each in found.items():
        words = [f"{name} {1 - cosines(each[name], exact[name]).min():.1e}" for name in ("global", "local", "text")]
        change = np.abs(np.asarray(each["logits"]) - np.asarray(exact["logits"])).max()
        print(f"dtype={dtype} residual_dtype={residual:<9} {', '.join(words)}, logits {change:.1e}")


def cosines(one: jax.Array, other: jax.Array) -> np.ndarray:
    """Of each vector with its counterpart."""
    one, other = (np.asarray(each, np.float64) for each in (one, other))
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


if __name__ == "__main__":
    main()
