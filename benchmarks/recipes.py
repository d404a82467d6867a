"""The published recipes planned for TPUs, and how one of them scales: the tables of docs/recipes.md.

    python benchmarks/recipes.py --output docs/recipes.md

Needs the extra `tpu`, but no TPU. A recipe that does not fit as it stands takes the first settings that do, from
`flair_jax.plan.changes.changes_that_fit`. Minutes: each line compiles a training step of ViT-B/16, some several.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from flair_jax.data.workers import parallel
from flair_jax.files import replace_when_complete

# Recipe, topologies; chips as the original's GPUs: 8 for CC3M, 32 for larger sets (the paper's text).
RECIPES = [
    (name, topology)
    for name, topologies in {
        "cc3m_recap": ("v5e:2x4", "v5p:2x2x2"),
        "cc12m_recap": ("v5e:4x8", "v5p:2x4x4"),
        "yfcc15m_recap": ("v5e:4x8", "v5p:2x4x4"),
        "merged30m": ("v5e:4x8", "v5p:2x4x4"),
    }.items()
    for topology in topologies
]
# Weak scaling of cc3m_recap: so many images on each chip, in loss groups of as many.
SCALING = ("v5p:2x2x2", "v5p:2x4x4", "v5p:4x4x4", "v5p:4x8x8")
IMAGES_PER_CHIP = 128
GIB = 2.0**30


def main() -> None:
    """Plans all and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="Markdown file to write; printed if not given")
    parser.add_argument("--processes", type=int, default=0, help="compilations at once (default: one a core)")
    options = parser.parse_args()
    jobs = [*RECIPES, *(("cc3m_recap", topology, IMAGES_PER_CHIP) for topology in SCALING)]
    plans = list(parallel(plan_one, jobs, processes=options.processes, description="plan", unit="line"))
    page = "\n".join([*recipes_table(plans[: len(RECIPES)]), "", *scaling_table(plans[len(RECIPES) :]), ""])
    if options.output:
        with replace_when_complete(options.output) as partial:
            partial.write_text(page)
    else:
        print(page)


def plan_one(job: tuple[Any, ...]) -> tuple[dict[str, Any], Any]:
    """The changes that a recipe takes to fit, and its plan with them."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_STDERR_LOG_LEVEL"] = "3"
    from flair_jax.plan.changes import changes_that_fit
    from flair_jax.plan.report import Planner
    from flair_jax.train.flags import parse_config

    name, topology, *per_chip = job
    planner = Planner(parse_config([f"--config=configs/{name}.py"]), topology)
    chips = len(planner.topology.devices)
    fixed = {"batch_size": per_chip[0] * chips, "loss.group_size": per_chip[0], "remat": "full"} if per_chip else {}
    plan = planner.training(fixed)
    if plan.fits or per_chip:
        return fixed, plan
    return changes_that_fit(planner.training, planner.settings({}), chips)[-1]


def recipes_table(plans: list[tuple[dict[str, Any], Any]]) -> list[str]:
    """Markdown lines."""
    lines = [
        "# The published recipes on TPUs",
        "",
        "Planned, not measured: each line is the training step itself, compiled for that topology, by",
        "`python benchmarks/recipes.py --output docs/recipes.md` (extra `tpu`; no TPU). Milliseconds a step are the",
        "compiler's estimate, without waiting for other chips and for data; images/s and hours follow from it. It is",
        "neither the least nor the most that a step can take: see [plan.md](plan.md), also for what binds a step.",
        "",
        "| recipe | chips | settings besides the recipe's | GiB a chip | of | TFLOP a chip | MB sent | ms, estimated "
        "| images/s, estimated | hours, estimated |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    from flair_jax.train.flops import CHIPS

    for (name, _), (changes, plan) in zip(RECIPES, plans, strict=True):
        settings = " ".join(f"`{field}={value}`" for field, value in changes.items()) or "none"
        if not plan.fits:
            lines.append(f"| {name} | {plan.topology} ({plan.chips}) | {settings} | does not fit: {plan.too_large} |")
            continue
        chip = next(chip for chip in CHIPS if plan.topology.startswith(f"{chip.name}:"))
        lines.append(
            f"| {name} | {plan.topology} ({plan.chips}) | {settings} | {plan.memory.total / GIB:.1f} | "
            f"{chip.memory / GIB:.0f} | {plan.flops / 1e12:.1f} | {sum(plan.wire.values()) / 1e6:,.0f} | "
            f"{1000 * plan.seconds:,.0f} | {plan.units / plan.seconds:,.0f} | {plan.steps * plan.seconds / 3600:,.0f} |"
        )
    lines += [
        "",
        "Steps are those of full batches: `cc3m_recap` takes 88,224 of them, and 89,088 in the original, whose loader",
        "rounds an epoch up to whole batches for each of its workers.",
    ]
    return lines


def scaling_table(plans: list[tuple[dict[str, Any], Any]]) -> list[str]:
    """Markdown lines: what grows with the chips when each has as many images."""
    from flair_jax.configs.cc3m_recap import get_config
    from flair_jax.models.presets import read_config

    config = get_config()
    captions, model = config.captions_per_image, read_config(config.model)
    lines = [
        "## Weak scaling",
        "",
        f"`cc3m_recap` with {IMAGES_PER_CHIP} images on each chip, `remat=full`. The towers' work stays; the loss",
        "compares each image with the captions of all groups, so it grows with the chips, as do the caption features",
        "that every chip receives and whose gradients it sends back (counted by ring all-gather and reduce-scatter).",
        "All else is the gradients of the parameters, and what the compiler's way of adding up the captions' gradients",
        "takes beyond that.",
        "",
        "| chips | images | TFLOP a chip: towers | loss | MB sent: features | all else | GiB a chip |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for _, plan in plans:
        features = 4 * plan.units * captions * model.embed_dim * (plan.chips - 1) / plan.chips * 2
        size = plan.memory.total / GIB if plan.memory else float("nan")
        lines.append(
            f"| {plan.chips} | {plan.units:,} | {(plan.flops - plan.loss_flops) / 1e12:.2f} | "
            f"{plan.loss_flops / 1e12:.2f} | "
            f"{features / 1e6:,.0f} | {(sum(plan.wire.values()) - features) / 1e6:,.0f} | {size:.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
