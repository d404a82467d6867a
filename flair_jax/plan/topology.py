"""Chips that steps are compiled for, which need not be attached."""

from __future__ import annotations

import importlib.util
import math
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from flair_jax.console import environment_variables, quiet_without_tpu
from flair_jax.errors import ConfigError, plural
from flair_jax.packages import how_to_install
from flair_jax.train.flops import CHIPS, Chip

_MOST_CHIPS = 2**16  # more than any pod has, and describing them takes memory


class Topology(NamedTuple):
    """Chips to compile for; `chip` is None for CPUs."""

    name: str
    devices: list[jax.Device]
    chip: Chip | None
    slices: list[int]


def find_topology(name: str, slices: int = 1) -> Topology:
    """A topology by its name; no device need be attached.

    Args:
      name: such as "v5e:16x16" (v4, v5e, v5p, v6e; chips along each axis of the torus), or "cpu:8": devices of this
        host, as many as JAX was started with.
      slices: how many such slices, connected by the data-centre network.

    Raises:
      ConfigError: if it is unknown, or libtpu is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        devices = jax.devices("cpu")
        if not shape.isdecimal() or not 1 <= int(shape) <= len(devices):
            raise ConfigError(f"--topology {name}: JAX was started with {plural(len(devices), 'CPU device')}")
        return Topology(name, devices[: int(shape)], None, [])
    chip = next((chip for chip in CHIPS if chip.name == kind and chip.clock), None)
    if chip is None or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        known = ", ".join(chip.name for chip in CHIPS if chip.clock)
        raise ConfigError(f"--topology {name}: expected one of {known} and a shape, as in v5e:16x16, or cpu:8")
    chips = slices * math.prod(map(int, shape.split("x")))
    if not 0 < chips <= _MOST_CHIPS:
        found = f"{plural(slices, 'slice')}: {plural(chips, 'chip')}"
        raise ConfigError(f"--topology {name}, {found}; there must be 1 to {_MOST_CHIPS:,}")
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(f"--topology {name}: the TPU compiler is not installed; {how_to_install('tpu')}")
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if set(shape.split("x")) == {"1"}:
        options["chips_per_host_bounds"] = (1, 1, 1)  # else a host has four chips at least
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # its two cores as one device
    try:
        # Neither look for chips of this machine nor lock them: nothing will run.
        with environment_variables(
            {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", **quiet_without_tpu()}
        ):
            devices = list(topologies.get_topology_desc(name, platform="tpu", **options).devices)
    except Exception as error:  # JAX raises several kinds
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--topology {name}: the TPU compiler does not know it ({reason})") from None
    return Topology(name, devices, chip, [getattr(device, "slice_index", 0) or 0 for device in devices])
