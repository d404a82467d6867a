"""The demonstration of `make demo`: seconds on a laptop's CPU, nothing to download."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Settings of the demonstration."""
    config = ml_collections.ConfigDict()
    config.model = "tiny"  # preset whose weights are drawn
    config.seed = 0  # of the weights
    config.modes = ("text-conditioned", "top-k", "global")  # evaluated one after the other
    config.top_k = 8  # texts per image in mode top-k
    config.batch_size = 8  # images embedded at once
    return config.lock()
