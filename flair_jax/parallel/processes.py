"""The processes that share one run: how they connect, and what they exchange. Loads JAX when used."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from flair_jax import errors
from flair_jax.errors import ConfigError, DatasetError, FlairError
from flair_jax.parallel import peers

if TYPE_CHECKING:
    from jax.sharding import Mesh

_Result = TypeVar("_Result")

# Options of a command that can run as several processes: name, type, meaning. With `--distributed` alone, JAX finds the
# processes of a TPU pod, SLURM, Open MPI or Kubernetes.
CLUSTER_OPTIONS: tuple[tuple[str, type[str] | type[int], str], ...] = (
    ("coordinator", str, "HOST:PORT of process 0"),
    ("process", int, "number of this process, from 0"),
    ("processes", int, "how many processes there are, on all machines"),
)


def check_cluster(distributed: bool, options: dict[str, Any]) -> None:
    """Checks the options of `CLUSTER_OPTIONS`, None where not given.

    Raises:
      ConfigError: if they do not go together, or one is invalid.
    """
    given = [value is not None for value in options.values()]
    if any(given) and not (distributed and all(given)):
        raise ConfigError("--coordinator, --process and --processes go together, and with --distributed")
    if not any(given):
        return
    host, _, port = options["coordinator"].rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigError(f"--coordinator={options['coordinator']}: expected HOST:PORT, as in 10.0.0.1:1234")
    if not 0 <= options["process"] < options["processes"]:
        raise ConfigError(
            f"--process={options['process']}: with --processes={options['processes']}, processes have the numbers "
            f"from 0 to {options['processes'] - 1}"
            if options["processes"] > 0
            else f"--processes={options['processes']}: at least one is needed"
        )


def join_cluster(options: dict[str, Any], *, sigterm_saves: bool) -> None:
    """Connects this process with the others; call before any JAX computation. From then on, this process learns of the
    others' end; put its work under `peers.ending_together`.

    Args:
      options: of `CLUSTER_OPTIONS`, None where not given.
      sigterm_saves: whether the program asks at which step to stop after a SIGTERM; if not, SIGTERM ends it at once.

    Raises:
      ConfigError: if the others are not found.
    """
    import jax

    peers.dead_after()  # which may be invalid
    before = jax.config.values["jax_enable_preemption_service"]
    jax.config.update("jax_enable_preemption_service", sigterm_saves)
    try:
        jax.distributed.initialize(options["coordinator"], options["processes"], options["process"])
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"--distributed: the other processes are not found ({reason}); outside of TPU pods, SLURM and Kubernetes "
            "add --coordinator=HOST:PORT --process=NUMBER --processes=COUNT"
        ) from None
    finally:
        jax.config.update("jax_enable_preemption_service", before)
    peers.watch()


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes that share a piece of work, each with its own devices.

    Every process must call the methods that communicate, in the same order.

    Attributes:
      index: number of this process, from 0.
      count: number of processes.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def all(cls) -> Processes:
        """All processes that JAX knows of."""
        import jax

        return cls(jax.process_index(), jax.process_count())

    def part(self, total: int) -> range:
        """This process's contiguous slice of range(total), in process order; sizes differ by at most one."""
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)

    def gather(self, value: Any) -> list[Any]:
        """Every process's plain JSON value, in the order of the processes; every process must call this."""
        if self.count == 1:
            return [value]
        return [json.loads(each) for each in _gather_bytes(json.dumps(value).encode())]

    def gather_arrays(self, array: np.ndarray) -> list[np.ndarray]:
        """Every process's array [n, ...], in process order; they agree in dtype and in all axes but the first."""
        if self.count == 1:
            return [array]
        parts = _gather_bytes(np.ascontiguousarray(array).tobytes())
        return [np.frombuffer(each, array.dtype).reshape(-1, *array.shape[1:]) for each in parts]

    def agree(self, value: Any, what: str) -> None:
        """Raises DatasetError if a JSON value differs between processes; every process must call this."""
        if any(each != value for each in self.gather(value)):
            raise DatasetError(f"{what} differ between the processes; give all of them the same")

    def together(self, work: Callable[[], _Result]) -> _Result:
        """`work()`, which must not communicate. If it fails on one process, it fails on all, so that none waits for
        another.

        Raises:
          FlairError: of the type and with the message of the first process that failed, if this one did not fail
            itself.
        """
        if self.count == 1:
            return work()
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # whatever it is, the other processes must learn of it
            failure = error
        outcomes = self.gather(failure and [type(failure).__name__, str(failure)])
        if failure is not None:
            raise failure
        for number, outcome in enumerate(outcomes):
            if outcome:
                raise getattr(errors, outcome[0], FlairError)(f"process {number}: {outcome[1]}")
        return result

    def first_does(self, work: Callable[[], None]) -> None:
        """`work()` on process 0 alone; the others wait for it, and fail if it fails."""
        self.together(work if self.index == 0 else lambda: None)


_PATIENCE_MS = 7 * 24 * 3600 * 1000  # a dead process is noticed much earlier, by `peers`
_meetings = itertools.count()

# A single process that does everything, the default everywhere.
ALONE = Processes()


def connect_devices(mesh: Mesh) -> None:
    """Lets the CPU devices of several processes connect before a run's first program; elsewhere it does nothing.

    Gloo connects a group of devices at its first collective, which fails on all of them unless all join within 30
    seconds. On busy machines processes are that far apart once each has compiled a large program. Connected groups wait
    for as long as it takes.

    Args:
      mesh: over the devices of all processes, every one of which must call this.
    """
    import jax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    if jax.process_count() == 1 or mesh.devices.flat[0].platform != "cpu":
        return
    axes = [axis for axis, size in mesh.shape.items() if size > 1]
    groups = [group for size in range(1, len(axes) + 1) for group in itertools.combinations(axes, size)]
    meet = jax.shard_map(
        lambda one: [jax.lax.psum(one, group) for group in groups],
        mesh=mesh,
        in_specs=P(),
        out_specs=[P()] * len(groups),
        check_vma=False,
    )
    one = jax.ShapeDtypeStruct((), np.float32, sharding=NamedSharding(mesh, P()))
    program = jax.jit(meet).lower(one).compile()
    _wait_for_all()
    jax.block_until_ready(program(jax.make_array_from_callback((), one.sharding, lambda _: np.float32(1))))


def _wait_for_all() -> None:
    from orbax.checkpoint import multihost

    multihost.get_barrier_sync_fn()(key=f"flair_jax.parallel.processes.{next(_meetings)}", timeout_ms=_PATIENCE_MS)


def _gather_bytes(data: bytes) -> list[bytes]:
    """Every process's bytes, over the network of the devices; JAX gathers arrays of one shape only."""
    from jax.experimental import multihost_utils

    _wait_for_all()  # one process may work hours longer than another, and Gloo connects within 30 s or not at all
    sizes = multihost_utils.process_allgather(np.uint32(len(data))).tolist()
    padded = np.zeros(max(*sizes, 1), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]
