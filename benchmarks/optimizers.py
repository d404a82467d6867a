"""What each optimiser keeps and computes for a model, as docs/optimizers.md has it; nothing is run.

JAX_PLATFORMS=cpu python benchmarks/optimizers.py [--model ViT-B-16-FLAIR]
"""

from __future__ import annotations

import argparse

import jax

from flair_jax.configs.default import get_config
from flair_jax.models.flair import Flair
from flair_jax.models.presets import read_config
from flair_jax.setting_checks import OPTIMIZER_NAMES
from flair_jax.settings import TrainSettings
from flair_jax.train.flops import count_flops
from flair_jax.train.optim import make_optimizer


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-FLAIR", help="preset (default %(default)s)")
    options = parser.parse_args()
    params = Flair(read_config(options.model)).abstract_params()
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{options.model}: {count:,} parameters")
    print("| optimiser | bytes a parameter | MB | GFLOP an update in matrix products |\n| --- | --- | --- | --- |")
    for name in OPTIMIZER_NAMES:
        config = get_config()
        config.optimizer.name = name
        optimizer = make_optimizer(TrainSettings.from_config(config).optimizer, lambda _: 1e-3, ())
        state = jax.eval_shape(optimizer.init, params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        flops = count_flops(jax.jit(optimizer.update).trace(params, state, params).jaxpr)
        print(f"| `{name}` | {size / count:.2f} | {size / 1e6:,.0f} | {flops / 1e9:,.0f} |")


if __name__ == "__main__":
    main()
