"""A small FLAIR on drawn scenes, for `make demo`: some three minutes and a half of training on two CPU cores.

    flair-jax train --config=configs/demo.py --config.data.dir=DIR --workdir=runs/demo

`flair-jax demo` prepares the data set `scenes` in DIR first. The recipe was chosen on scenes' validation split.
"""

import ml_collections

from flair_jax.configs.default import get_config as get_default


def get_config() -> ml_collections.ConfigDict:
    """Settings of the demonstration; `default.py` explains the fields."""
    c = get_default()
    c.model = "scenes"
    c.dtype = "float32"
    c.unroll = 4
    c.batch_size = 32
    c.captions_per_image = 4
    c.steps = 1500
    c.loss.group_size = 0
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup_steps = 50
    c.optimizer.weight_decay = 0.2
    c.optimizer.clip_norm = 1.0
    c.data.name = "scenes/full"
    c.data.workers = 0
    c.data.merged_sentences = 1
    c.checkpoint.every_steps = 500
    c.log_every_steps = 20
    return c
