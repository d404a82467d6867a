"""YFCC15M-recap, as in the original's script: 32 epochs of 14,065,827 pairs; 8 GPUs with 192 images each.

The paper's text says 32 GPUs for all sets larger than CC3M; for that, batch_size is 6144.

    flair-jax train --config=yfcc15m_recap --config.data.dir=DIR --workdir=runs/yfcc15m_recap
"""

import ml_collections

from flair_jax.configs.default import get_config as get_default


def get_config() -> ml_collections.ConfigDict:
    """Published hyper-parameters; `default.py` explains the fields."""
    c = get_default()
    c.data.name = "recaptioned/yfcc15m"
    c.data.epoch_samples = 14_065_827
    c.batch_size = 1536
    c.captions_per_image = 10
    c.packing.row_tokens = 128
    c.packing.tokens_per_caption = 47.0  # enough for 32 devices (docs/packing.md)
    c.loss.group_size = 192
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.5
    return c
