"""The three recaptioned sets together, as in the original's script: 32 epochs of 27,000,000 pairs; 8 GPUs x 128 images.

The paper's text says 32 GPUs for all sets larger than CC3M; for that, batch_size is 4096.

    flair-jax train --config=merged30m --config.data.dir=DIR --workdir=runs/merged30m
"""

import ml_collections

from flair_jax.configs.default import get_config as get_default


def get_config() -> ml_collections.ConfigDict:
    """Published hyper-parameters; `default.py` explains the fields."""
    c = get_default()
    c.data.name = "recaptioned/cc3m::recaptioned/cc12m::recaptioned/yfcc15m"
    c.data.epoch_samples = 27_000_000
    c.batch_size = 1024
    c.captions_per_image = 10
    c.packing.row_tokens = 128
    c.packing.tokens_per_caption = 48.4  # enough for 32 devices (docs/packing.md)
    c.loss.group_size = 128
    c.optimizer.eps = 1e-6
    c.optimizer.weight_decay = 0.2
    return c
