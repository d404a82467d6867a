"""CC3M-recap, as published: 32 epochs of 2,823,019 pairs; the original used 8 GPUs with 128 images each.

These are 88,224 steps. The original takes 89,088 (`--config.steps=89088`), because each of its loader's workers rounds
its share of an epoch up to whole batches, repeating some samples.

flair-jax train --config=cc3m_recap --config.data.dir=DIR --workdir=runs/cc3m_recap
"""

import ml_collections

from flair_jax.configs.default import get_config as get_default


def get_config() -> ml_collections.ConfigDict:
    """Published hyper-parameters; `default.py` explains the fields."""
    c = get_default()
    c.data.name = "recaptioned/cc3m"
    c.data.epoch_samples = 2_823_019
    c.batch_size = 1024
    c.captions_per_image = 8
    c.packing.row_tokens = 128
    c.packing.tokens_per_caption = 44.7  # enough for 8 devices (docs/packing.md)
    c.loss.group_size = 128
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.5
    return c
