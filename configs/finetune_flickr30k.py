"""Our recipe for Flickr30k's retrieval, from a released model: the release has none, and nobody has measured this one.

    flair-jax train --config=finetune_flickr30k --config.data.dir=DIR --workdir=runs/finetune_flickr30k
    flair-jax evaluate --checkpoint runs/finetune_flickr30k --dataset flickr30k-test --data-dir DIR

DIR holds the pictures and `flickr30k_train.json`, the file of ALBEF and BLIP. Evaluate on `flickr30k-test`, and choose
settings on `flickr30k-val`.
"""

import ml_collections

from flair_jax.configs.default import get_config as get_default


def get_config() -> ml_collections.ConfigDict:
    """Settings for Flickr30k; `default.py` explains the fields."""
    c = get_default()
    c.init = "hf://xiaorui638/flair/flair-merged30m.pt"
    c.data.name = "flickr30k-train"
    c.data.dir = "~/datasets/flickr30k"
    c.data.merged_sentences = 1  # the captions as the evaluation has them, not joined
    c.batch_size = 512
    c.captions_per_image = 4
    c.epochs = 10.0
    c.packing.row_tokens = 128
    c.packing.tokens_per_caption = 22.0  # not measured (some 12 words); `flair-jax data stats` says how many
    c.loss.group_size = 128
    c.optimizer.learning_rate = 1e-5
    c.optimizer.warmup_steps = 200
    c.optimizer.eps = 1e-6
    c.optimizer.weight_decay = 0.2
    c.checkpoint.every_steps = 200
    return c
