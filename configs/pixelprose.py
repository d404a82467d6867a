"""PixelProse, whose one long caption is split into sentences when it is read; the hyper-parameters of CC12M-recap.

flair-jax train --config=pixelprose --config.data.dir=DIR --workdir=runs/pixelprose
"""

import ml_collections

from flair_jax.configs.default import get_config as get_default


def get_config() -> ml_collections.ConfigDict:
    """Published hyper-parameters; `default.py` explains the fields."""
    c = get_default()
    c.data.name = "recaptioned/pixelprose"
    c.batch_size = 6144
    c.captions_per_image = 8
    c.packing.row_tokens = 128
    c.packing.tokens_per_caption = 51.0  # not measured: those of other long captions (docs/packing.md)
    c.loss.group_size = 192
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.5
    return c
