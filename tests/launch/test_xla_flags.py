"""Every recommended flag is known to the pinned jaxlib and libtpu: an unknown one ends the process at its start."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from launchers import REPOSITORY

# Partitioned over the TPUs of a topology, with all-gathers and an all-reduce.
COMPILE = """
import jax, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

devices = topologies.get_topology_desc(platform="tpu", topology_name={topology!r}).devices
mesh = Mesh(np.array(devices), ("fsdp",))
rows, columns = (NamedSharding(mesh, P(*axes)) for axes in (("fsdp",), (None, "fsdp")))
matrix = jax.ShapeDtypeStruct((1024, 1024), np.float32)
loss = jax.grad(lambda weights, x: jax.numpy.tanh(x @ weights).sum())
jax.jit(loss, in_shardings=(columns, rows)).lower(matrix, matrix).compile()
print("compiled for", len(devices), devices[0].device_kind)
"""


def recommended(platform: str) -> dict[str, str]:
    """The environment of launch/xla_flags.sh."""
    script = f"set -eu; XLA_FLAGS= LIBTPU_INIT_ARGS=; source launch/xla_flags.sh; recommend {platform}; " + (
        'printf "%s\\n" "${recommended[@]}"'
    )
    out = subprocess.run(["bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in out.splitlines())


def python(code: str, environment: dict[str, str]) -> tuple[int, str, str]:
    # Without a TPU there is no metadata server to ask; another process may be compiling for one as well.
    without_tpu = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment, **without_tpu}, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def test_jaxlib_knows_the_gpu_flags() -> None:
    """jaxlib's CPU build reads the flags of all its platforms."""
    flags = recommended("gpu")["XLA_FLAGS"]
    code = "import jax; jax.numpy.zeros(1).block_until_ready()"
    status, _, err = python(code, {"XLA_FLAGS": flags})
    assert status == 0, err
    status, _, err = python(code, {"XLA_FLAGS": f"{flags} --xla_gpu_no_such_flag=true"})
    assert status != 0
    assert "Unknown flag in XLA_FLAGS: --xla_gpu_no_such_flag" in err


@pytest.mark.parametrize(
    ("platform", "topology"), [("v4", "v4:2x2x1"), ("v5e", "v5e:2x2"), ("v5p", "v5p:2x2x1"), ("v6e", "v6e:2x2")]
)
def test_libtpu_knows_the_tpu_flags(platform: str, topology: str) -> None:
    flags = {"LIBTPU_INIT_ARGS": recommended(platform)["LIBTPU_INIT_ARGS"]}
    status, out, err = python(COMPILE.format(topology=topology), flags)
    assert status == 0, err
    assert out.startswith("compiled for")


def test_libtpu_refuses_an_unknown_flag() -> None:
    """So that the test above can fail."""
    status, _, err = python(COMPILE.format(topology="v5e:2x2"), {"LIBTPU_INIT_ARGS": "--xla_tpu_no_such_flag=true"})
    assert status != 0
    assert "Unknown command line flag 'xla_tpu_no_such_flag'" in err


def test_the_makefile_and_the_launchers_agree_on_the_cpu() -> None:
    """`make demo` was measured with it."""
    variable = f"GLIBC_TUNABLES={recommended('cpu')['GLIBC_TUNABLES']}"
    assert variable in shlex.split((REPOSITORY / "Makefile").read_text().split("flair-jax demo")[0].splitlines()[-1])


def test_flags_are_in_one_place() -> None:
    """Of the launchers only xla_flags.sh names one."""
    naming = {path.name for path in (REPOSITORY / "launch").iterdir() if re.search(r"--xla_\w+=", path.read_text())}
    assert naming == {"xla_flags.sh"}
