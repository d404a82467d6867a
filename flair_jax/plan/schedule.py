"""Compiles kernels one by one for a TPU and prints the cycles of their schedules; `flair_jax.plan.kernels` starts it.

The compiler writes schedules only if told so when it is loaded. So this is a process of its own, which reads JSON from
its input, and prints a list: the cycles of each kernel, or null where they are not known.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from flair_jax.plan.bundles import count_cycles

_DTYPES = {"bf16": "bfloat16", "pred": "bool", "f": "float", "s": "int", "u": "uint"}


def main() -> None:
    """Reads {"topology": a small one, "kernels": [{"config", "operands", "results"}]}; arrays are [dtype, shape]."""
    asked = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        flags = (
            f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=^final_bundles"
        )
        os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {flags}".strip()
        from flair_jax.plan.topology import find_topology

        device = find_topology(asked["topology"]).devices[0]
        cycles = [_cycles(kernel, device, Path(folder)) for kernel in asked["kernels"]]
    print(json.dumps(cycles))


def _cycles(kernel: dict[str, Any], device: Any, folder: Path) -> int | None:
    import jax

    sharding = jax.sharding.SingleDeviceSharding(device)
    operands = [jax.ShapeDtypeStruct(shape, _dtype(name), sharding=sharding) for name, shape in kernel["operands"]]
    results = [jax.ShapeDtypeStruct(shape, _dtype(name)) for name, shape in kernel["results"]]
    call = jax.ffi.ffi_call(
        "tpu_custom_call",
        results if len(results) > 1 else results[0],
        custom_call_api_version=1,
        legacy_backend_config=json.dumps(kernel["config"]),
    )
    before = set(folder.iterdir())
    try:
        jax.jit(lambda *arrays: call(*arrays)).lower(*operands).compile()
    except jax.errors.JaxRuntimeError as error:
        print(f"a kernel cannot be compiled alone: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    written = [path for path in set(folder.iterdir()) - before if "-ffi_call" in path.name]
    schedules = [path for path in written if path.name.endswith("-final_bundles.txt")]
    return count_cycles(schedules[0].read_text()) if len(schedules) == 1 else None


def _dtype(name: str) -> str:
    """The name of a dtype of HLO in JAX."""
    return _DTYPES.get(name) or _DTYPES[name[0]] + name[1:]


if __name__ == "__main__":
    main()
