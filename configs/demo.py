"""A small FLAIR on drawn scenes, for `make demo`.

    flair-jax train --config=demo --config.data.dir=DIR --workdir=runs/demo

`flair-jax demo` prepares the data set `scenes` in DIR first. The recipe was chosen on scenes' validation split. What it
takes to learn more than colours in so few steps:

- Muon: with AdamW the image tower does not tell shapes or places apart in as many steps, not even with labels.
- A slow text tower: a common direction is all that it can learn before the image tower can read anything, and it soon
  drowns what its words differ by.
- The model's own scale of pixels, logit scale and bias; see the preset.
"""

import ml_collections

from flair_jax.configs.default import get_config as get_default


def get_config() -> ml_collections.ConfigDict:
    """Settings of the demonstration; `default.py` explains the fields."""
    c = get_default()
    c.model = "scenes"
    c.dtype = "float32"
    c.unroll = 2
    c.batch_size = 48
    c.captions_per_image = 3
    c.steps = 1500
    c.loss.group_size = 0
    c.optimizer.name = "muon"
    c.optimizer.learning_rate = 0.01
    c.optimizer.text_rate = 0.1
    c.optimizer.warmup_steps = 50
    c.optimizer.weight_decay = 0.1
    c.optimizer.clip_norm = 1.0
    c.data.name = "scenes/full"
    c.data.workers = 0
    c.data.merged_sentences = 3
    c.data.crop_scale = (1.0, 1.0)
    c.checkpoint.every_steps = 500
    c.log_every_steps = 20
    return c
