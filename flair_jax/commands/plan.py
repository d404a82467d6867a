"""`flair-jax plan`."""

from __future__ import annotations

import argparse

from flair_jax.commands.parser import Commands, add_command, positive
from flair_jax.console import environment_variables

# Each takes memory and threads of this machine.
_MOST_DEVICES = 4096
_SWEEP = "batch_size=HALF,SAME,TWICE mesh.fsdp=1,ALL remat=none,dots,full"


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "plan",
        _run,
        "compile a training step for chips that need not be there: does it fit, how long may it take, what binds",
        "examples:\n"
        "  flair-jax plan --config=configs/cc3m_recap.py --topology v5e:2x4\n"
        "  flair-jax plan --config=configs/cc12m_recap.py --topology v5p:4x4x2 --config.remat=dots --json\n"
        "  flair-jax plan --config=configs/cc3m_recap.py --topology v5e:16x16 --mesh data=64,fsdp=4 --sweep\n\n"
        "--config=NAME|FILE and --config.FIELD=VALUE are as in `train`. Topologies are v4, v5e, v5p or v6e with the\n"
        "chips along each axis, which needs the extra `tpu` but no TPU; or cpu:N. Times at full rate are floors, the\n"
        "highest of which binds; the compiler's is an estimate and no bound (docs/plan.md). A real run also waits\n"
        "for others and for data.",
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
    from flair_jax.plan.report import Planner, as_json, show, show_changes, sweep
    from flair_jax.train.flags import parse_config

    planner = Planner(parse_config(options.words), options.topology, options.slices, options.mesh)
    if options.sweep is not None:
        sweep(planner, options.sweep, json=options.json)
        return 0
    plans = [planner.training({})]
    if options.evaluate:
        plans.append(planner.scoring())
    if options.json:
        print(as_json(plans))
    else:
        for plan in plans:
            show(plan)
    if plans[0].fits:
        return 0
    if not options.json:
        show_changes(planner)
    return 1
