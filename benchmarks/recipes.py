"""The published recipes planned for TPUs, and how one of them scales: the tables of docs/recipes.md.

    python benchmarks/recipes.py --cache plans --output docs/recipes.md

Needs the extra `tpu`, but no TPU. A recipe that does not fit as it stands takes the cheapest settings that do, from
`flair_jax.plan.changes_that_fit`. Each compilation takes two to three minutes of CPU time, and there are about 30; the
folder `plans` keeps what is compiled, so that an interrupted run goes on where it was. `--only` leaves lines out.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flair_jax.data.workers import parallel
from flair_jax.files import replace_when_complete

GIB = 2.0**30
IMAGES_PER_CHIP = 128  # of weak scaling, in loss groups of as many


class Job(NamedTuple):
    """A line of a table.

    Attributes:
      table: "recipe", "variant" or "scaling".
      recipe: name of the configuration.
      topology: see `flair_jax.plan.find_topology`.
      cache: folder of compiled programs, or None.
      changes: fields of the configuration and their values instead.
      search: whether other settings are searched for if these do not fit.
    """

    table: str
    recipe: str
    topology: str
    cache: Path | None
    changes: dict[str, Any] = {}  # noqa: RUF012
    search: bool = False

    def __str__(self) -> str:
        return f"{self.table} {self.recipe} {self.topology}" + "".join(f" {k}={v}" for k, v in self.changes.items())


# Chips as the original's GPUs: 8 for CC3M, 32 for larger sets (the paper's text).
RECIPES = {
    "cc3m_recap": ("v5e:2x4", "v5p:2x2x2", "v6e:2x4"),
    "cc12m_recap": ("v5e:4x8", "v5p:2x4x4"),
    "yfcc15m_recap": ("v5e:4x8", "v5p:2x4x4"),
    "merged30m": ("v5e:4x8", "v5p:2x4x4"),
}
# What packing and kernels give, all else as it is.
VARIANTS = {
    "padded, XLA's attention": {"packing.row_tokens": 0, "attention": "xla"},
    "packed, XLA's attention": {"attention": "xla"},
    "packed, kernels": {},
}
SCALING = {"v5p:2x2x2": 8, "v5p:2x4x4": 32, "v5p:4x4x4": 64, "v5p:4x8x8": 256}


def jobs(cache: Path | None) -> list[Job]:
    """All lines, those of one recipe and topology together."""
    recipes = [Job("recipe", name, topology, cache, search=True) for name, each in RECIPES.items() for topology in each]
    variants = [
        Job("variant", "cc3m_recap", "v5e:2x4", cache, {"remat": "full", **changes}) for changes in VARIANTS.values()
    ]
    scaling = [
        Job("scaling", "cc3m_recap", topology, cache, {"remat": "full", **_scaled(chips)})
        for topology, chips in SCALING.items()
    ]
    return [*recipes, *variants, *scaling]


def _scaled(chips: int) -> dict[str, Any]:
    return {"batch_size": IMAGES_PER_CHIP * chips, "loss.group_size": IMAGES_PER_CHIP}


def main() -> None:
    """Plans all and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="Markdown file to write; printed if not given")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep compiled programs there, to resume")
    parser.add_argument(
        "--only", metavar="REGEX", default="", help="lines such as 'recipe cc3m' or 'v5e', as --list has"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the lines, and plan nothing")
    parser.add_argument("--processes", type=int, default=0, help="compilations at once (default: one a core)")
    options = parser.parse_args()
    chosen = [job for job in jobs(options.cache) if re.search(options.only, str(job))]
    if options.list or not chosen:
        print(*chosen, sep="\n")
        return
    planned = list(
        parallel(plan_one, chosen, processes=options.processes, description="plan", unit="line", progress=False)
    )
    lines = [(job, *found) for job, found in zip(chosen, planned, strict=True)]
    page = "\n".join([*INTRODUCTION, *recipes_table(lines), *variants_table(lines), *scaling_table(lines)]) + "\n"
    if options.output:
        with replace_when_complete(options.output) as partial:
            partial.write_text(page)
    else:
        print(page)


def plan_one(job: Job) -> tuple[dict[str, Any], Any]:
    """The changes with which a recipe fits, and its plan with them."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_STDERR_LOG_LEVEL"] = "3"
    from flair_jax.plan import Planner, changes_that_fit
    from flair_jax.train.flags import parse_config

    config = parse_config([f"--config=configs/{job.recipe}.py"])
    planner = Planner(config, job.topology, cache=job.cache, label=f"{job.recipe} {job.topology}")
    plan = planner.training(job.changes)
    if plan.fits or not job.search:
        return job.changes, plan
    return changes_that_fit(planner.training, planner.settings({}), len(planner.topology.devices))[-1]


INTRODUCTION = [
    "# The published recipes on TPUs",
    "",
    "Planned, not measured: each line is the training step itself, compiled for that topology, by",
    "`python benchmarks/recipes.py --cache plans --output docs/recipes.md` (extra `tpu`; no TPU). Of a step's time",
    "there are three figures, none of them measured, without waiting for other chips and for data: what the compiler",
    "estimates (kernels counted), what the program's operations take one after the other at the chip's peak rates",
    "(roofline), and what its useful FLOPs take at the peak (floor). [plan.md](plan.md) says what each is worth. MFU",
    "counts useful FLOPs, HFU those executed; images/s and hours follow from the compiler's estimate.",
    "",
]
Line = tuple[Job, dict[str, Any], Any]


def recipes_table(lines: Sequence[Line]) -> list[str]:
    """Markdown lines."""
    from flair_jax.train.flops import CHIPS

    rows = [
        "| recipe | chips | settings besides the recipe's | GiB a chip | of | TFLOP a chip, useful | MB sent "
        "| ms: compiler | roofline | floor | MFU: compiler | roofline | HFU: compiler | images/s | hours |",
        "| --- " * 15 + "|",
    ]
    for job, changes, plan in lines:
        if job.table != "recipe":
            continue
        settings = " ".join(f"`{field}={value}`" for field, value in changes.items()) or "none"
        head = f"| {job.recipe} | {plan.topology} ({plan.chips}) | {settings} |"
        if not plan.fits:
            rows.append(f"{head} does not fit: {plan.too_large} |")
            continue
        chip = next(chip for chip in CHIPS if plan.topology.startswith(f"{chip.name}:"))
        compiler = plan.estimates["compiler"]
        rows.append(
            f"{head} {plan.memory.total / GIB:.1f} | {chip.memory / GIB:.0f} | {plan.useful_flops / 1e12:.1f} | "
            f"{sum(plan.wire.values()) / 1e6:,.0f} | {times(plan)} | {compiler.mfu:.0%} | "
            f"{plan.estimates['roofline'].mfu:.0%} | {compiler.hfu:.0%} | {compiler.units_per_second:,.0f} | "
            f"{compiler.hours:,.0f} |"
        )
    return [
        *rows,
        "",
        "Steps are those of full batches: `cc3m_recap` takes 88,224 of them, and 89,088 in the original, whose loader",
        "rounds an epoch up to whole batches for each of its workers. Padding counts as useful work where captions are",
        "padded, so it is images/s that compares packed and padded runs, not MFU.",
        "",
    ]


def times(plan: Any) -> str:
    """Milliseconds by each estimate, as three cells."""
    return " | ".join(f"{1000 * plan.estimates[name].seconds:,.0f}" for name in ("compiler", "roofline", "floor"))


def variants_table(lines: Sequence[Line]) -> list[str]:
    """Markdown lines: what packing and kernels give."""
    names = {str({"remat": "full", **changes}): name for name, changes in VARIANTS.items()}
    rows = [
        f"| {names[str(changes)]} | {plan.memory.total / GIB:.1f} | {plan.flops / 1e12:.1f} | {times(plan)} | "
        f"{plan.estimates['compiler'].units_per_second:,.0f} |"
        for job, changes, plan in lines
        if job.table == "variant" and plan.fits
    ]
    return [
        "## What packing and kernels give",
        "",
        "`cc3m_recap` on v5e:2x4, `remat=full`.",
        "",
        "| captions, attention | GiB a chip | TFLOP a chip, executed | ms: compiler | roofline | floor | images/s |",
        "| --- " * 7 + "|",
        *rows,
        "",
    ]


def scaling_table(lines: Sequence[Line]) -> list[str]:
    """Markdown lines: what grows with the chips when each has as many images."""
    from flair_jax.configs.cc3m_recap import get_config
    from flair_jax.models.presets import read_config

    config = get_config()
    captions, model = config.captions_per_image, read_config(config.model)
    page = [
        "## Weak scaling",
        "",
        f"`cc3m_recap` with {IMAGES_PER_CHIP} images on each chip, `remat=full`. The towers' work stays; the loss",
        "compares each image with the captions of all groups, so it grows with the chips, as do the caption features",
        "that every chip receives and whose gradients it sends back (counted by ring all-gather and reduce-scatter).",
        "All else is the gradients of the parameters, and what the compiler's way of adding up the captions' gradients",
        "takes beyond that.",
        "",
        "| chips | images | TFLOP a chip: towers | loss | MB sent: features | all else | GiB a chip |",
        "| --- " * 7 + "|",
    ]
    for job, _, plan in lines:
        if job.table != "scaling":
            continue
        features = 4 * plan.units * captions * model.embed_dim * (plan.chips - 1) / plan.chips * 2
        size = plan.memory.total / GIB if plan.memory else float("nan")
        page.append(
            f"| {plan.chips} | {plan.units:,} | {(plan.flops - plan.loss_flops) / 1e12:.2f} | "
            f"{plan.loss_flops / 1e12:.2f} | "
            f"{features / 1e6:,.0f} | {(sum(plan.wire.values()) - features) / 1e6:,.0f} | {size:.1f} |"
        )
    return page


if __name__ == "__main__":
    main()
