"""Our recipe for descriptions of a paragraph, 248 tokens: the release has none, and nobody has measured this one.

    flair-jax convert hf://xiaorui638/flair/flair-merged30m.pt checkpoints/merged30m-248 --context-length 248
    flair-jax train --config=finetune_long --config.data.dir=DIR --workdir=runs/finetune_long

DIR holds ShareGPT4V: `sharegpt4v_instruct_gpt4-vision_cap100k.json` and the pictures at the paths in it (docs/data.md).
`--config.data.name=sharegpt4v-pt` is the 1.2 million of its captioner; a pattern of tars will do as well. Warm-up,
epochs and weight decay are those that Long-CLIP recommends for its own model (train/train.md of its repository), the
learning rate is ten times its 1e-6.
"""

import ml_collections

from flair_jax.configs.default import get_config as get_default


def get_config() -> ml_collections.ConfigDict:
    """Settings for long captions; `default.py` explains the fields."""
    c = get_default()
    c.model = "ViT-B-16-FLAIR-248"
    c.init = "checkpoints/merged30m-248"
    c.data.name = "sharegpt4v"
    c.data.dir = "~/datasets/sharegpt4v"
    c.data.merged_sentences = 8  # from one sentence to all of a usual caption, so that short texts are not unlearnt
    c.batch_size = 1024
    c.captions_per_image = 8
    c.epochs = 6.0
    c.packing.row_tokens = 256
    c.packing.tokens_per_caption = 150.0  # not measured; `flair-jax data stats` says how many yours need
    c.loss.group_size = 128
    c.optimizer.learning_rate = 1e-5
    c.optimizer.warmup_steps = 200
    c.optimizer.eps = 1e-6
    c.optimizer.weight_decay = 0.01
    c.checkpoint.every_steps = 200
    return c
