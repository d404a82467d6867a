"""CC12M-recap, as published: 32 epochs of 10,010,225 pairs; the original used 32 GPUs with 192 images each.

flair-jax train --config=cc12m_recap --config.data.dir=DIR --workdir=runs/cc12m_recap
"""

import ml_collections

from flair_jax.configs.default import get_config as get_default


def get_config() -> ml_collections.ConfigDict:
    """Published hyper-parameters; `default.py` explains the fields."""
    c = get_default()
    c.data.name = "recaptioned/cc12m"
    c.data.epoch_samples = 10_010_225
    c.batch_size = 6144
    c.captions_per_image = 8
    c.packing.row_tokens = 128
    c.packing.tokens_per_caption = 44.0  # enough for 32 devices (docs/packing.md)
    c.loss.group_size = 192
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.5
    return c
