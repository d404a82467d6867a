"""Our recipe for COCO's retrieval, from a released model: the release has none, and nobody has measured this one.

    flair-jax train --config=finetune_coco --config.data.dir=DIR --workdir=runs/finetune_coco
    flair-jax evaluate --checkpoint runs/finetune_coco --dataset coco --data-dir DIR

DIR holds `images/train2017/` and `annotations/captions_train2017.json`. Evaluate on COCO's val2017, no picture of which
is among them. Karpathy's test split is no test of this model: it is of val2014, and most of that is in train2017.
For that one, train with `--config.data.name=coco-karpathy-train` (docs/data.md).
"""

import ml_collections

from flair_jax.configs.default import get_config as get_default


def get_config() -> ml_collections.ConfigDict:
    """Settings for COCO; `default.py` explains the fields."""
    c = get_default()
    c.init = "hf://xiaorui638/flair/flair-merged30m.pt"
    c.data.name = "coco-train"
    c.data.dir = "~/datasets/coco"
    c.data.merged_sentences = 1  # the captions as the evaluation has them, not joined
    c.batch_size = 512
    c.captions_per_image = 4
    c.epochs = 5.0
    c.packing.row_tokens = 128
    c.packing.tokens_per_caption = 18.0  # not measured (some 10 words); `flair-jax data stats` says how many
    c.loss.group_size = 128
    c.optimizer.learning_rate = 1e-5
    c.optimizer.warmup_steps = 200
    c.optimizer.eps = 1e-6
    c.optimizer.weight_decay = 0.2
    c.checkpoint.every_steps = 200
    return c
