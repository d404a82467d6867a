"""`flair-jax plan`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flair_jax.commands.parser import Commands, add_command, path, positive
from flair_jax.console import environment_variables

if TYPE_CHECKING:
    from flair_jax.plan.changes import Changes
    from flair_jax.plan.figures import Plan

# Each takes memory and threads of this machine.
_MOST_DEVICES = 4096
_SWEEP = "batch_size=HALF,SAME,TWICE mesh.fsdp=1,ALL remat=EACH"


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "plan",
        _run,
        "compile a training step for chips that need not be there: does it fit, how long may it take, what binds",
        "examples:\n"
        "  flair-jax plan --config=cc3m_recap --topology v5e:2x4\n"
        "  flair-jax plan --config=cc12m_recap --topology v5p:4x4x2 --config.remat=dots --json\n"
        "  flair-jax plan --config=cc3m_recap --topology v5e:16x16 --mesh data=64,fsdp=4 --sweep\n\n"
        "--config=NAME|FILE and --config.FIELD=VALUE are as in `train`. Topologies are v4, v5e, v5p or v6e with the\n"
        "chips along each axis, which needs the extra `tpu` but no TPU; or cpu:N. A step's time is given by the\n"
        "compiler's estimate, which is no bound, by a roofline of the program's operations, and as the floor that\n"
        "the useful FLOPs set (docs/plan.md). If the step does not fit, the plan of the cheapest variant that does\n"
        "follows. A line for each compilation goes to stderr.",
    )
    parser.usage = (  # absl's flags take the configuration
        "flair-jax plan --config=NAME|FILE --topology NAME [--config.FIELD=VALUE ...]\n"
        "       [--slices N] [--mesh SIZES] [--evaluate] [--sweep [FIELD=VALUES ...]] [--parts]\n"
        "       [--cache DIR] [--workdir DIR] [--json] [-h]"
    )
    parser.add_argument("--topology", required=True, metavar="NAME", help="such as v5e:16x16, v5p:4x4x4, or cpu:8")
    parser.add_argument(
        "--slices", metavar="N", type=positive, default=1, help="so many of them, joined by the data-centre network"
    )
    parser.add_argument("--mesh", metavar="SIZES", default="", help="such as data=64,fsdp=4; overrides config.mesh")
    parser.add_argument("--evaluate", action="store_true", help="plan the evaluation's scoring step too")
    parser.add_argument(
        "--sweep",
        nargs="*",
        metavar="FIELD=VALUES",
        help=f"a table over values of fields instead, such as batch_size=512,1024 remat=dots,full (default {_SWEEP})",
    )
    parser.add_argument(
        "--parts", action="store_true", help="also what each part of the model costs (always in --json)"
    )
    parser.add_argument(
        "--cache", type=path, metavar="DIR", help="keep compiled programs there, so that equal ones are compiled once"
    )
    parser.add_argument(
        "--workdir", type=path, metavar="DIR", help="keep the utilisation there: a run in it logs it beside its own"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(takes_more="")


def _run(options: argparse.Namespace) -> int:
    kind, _, count = options.topology.partition(":")
    # Nothing runs on this machine's devices; JAX, if it is not loaded yet, splits the CPU into as many as are planned
    # for.
    known = kind == "cpu" and count.isdecimal() and 0 < int(count) <= _MOST_DEVICES
    devices = {"JAX_NUM_CPU_DEVICES": count} if known else {}
    with environment_variables({"JAX_PLATFORMS": "cpu", **devices}):
        return _plan(options)


def _plan(options: argparse.Namespace) -> int:
    from flair_jax.plan.changes import changes_that_fit
    from flair_jax.plan.planner import Planner
    from flair_jax.plan.report import as_json, show_all
    from flair_jax.plan.sweep import show_sweep, sweep
    from flair_jax.train.flags import parse_config

    planner = Planner(parse_config(options.words), options.topology, options.slices, options.mesh, options.cache)
    if options.workdir is not None:
        planner.check_keeps(options.workdir)
    if options.sweep is not None:
        swept = sweep(planner, options.sweep)
        if options.json:
            print(as_json(swept))
        else:
            show_sweep(swept)
        return 0
    plans: list[tuple[Changes, Plan]] = [({}, planner.training({}))]
    fits = plans[0][1].fits
    if not fits:
        plans += changes_that_fit(planner.training, planner.settings({}), len(planner.topology.devices))
    if options.evaluate:
        plans.append(({}, planner.scoring()))
    if options.workdir is not None:
        planner.keep(plans[0][1], options.workdir)
    if options.json:
        print(as_json(plans))
    else:
        show_all(plans, parts=options.parts)
    return 0 if fits else 1
