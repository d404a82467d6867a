"""What is known about a step that was compiled for given chips."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from flair_jax.plan.kernels import Kernel
from flair_jax.plan.parts import Part


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each chip; `temporaries` are activations, gradients and buffers, and `total` is the peak."""

    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    program: int
    total: int


class Estimate(NamedTuple):
    """A time of a step, and what follows from it; docs/plan.md says what each is worth.

    Attributes:
      seconds: of a step.
      mfu: model FLOPs utilisation: useful FLOPs, as a share of what the chip's peak makes in that time.
      hfu: hardware FLOPs utilisation: likewise of all FLOPs that are executed, for the floor none but useful ones.
      units_per_second: images or pairs, over all chips.
      hours: of the whole run; None if its length depends on the data.
    """

    seconds: float
    mfu: float
    hfu: float
    units_per_second: float
    hours: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """One compiled step; bytes, FLOPs and seconds are of each chip.

    Attributes:
      topology: as asked for.
      chips: how many.
      mesh: sizes of its axes.
      unit: what the step is counted in, "image" or "pair".
      units: how many of them one step processes, over all chips.
      memory: None if it does not fit.
      too_large: the compiler's message if it does not fit, else "".
      flops: FLOPs of matrix products that are executed, rematerialisation and padding included.
      loss_flops: of these, the loss's; 0 for other steps.
      useful_flops: FLOPs excluding rematerialisation; see `step_flops`.
      wire: bytes that a chip sends, by kind of collective; `network:` before those between slices.
      bounds: lower bounds in seconds, each at the chip's peak: for the FLOPs executed ("compute"), memory traffic
        ("memory"), the wire ("interconnect", "network"), and of any such program the useful FLOPs ("useful"); empty for
        a CPU.
      compiler_seconds: the compiler's estimate of the computation, and `kernels`, without waiting for other chips; 0
        where it gives none. It is not a bound: docs/plan.md says how it is calibrated.
      roofline_seconds: of the computation, operation by operation, each at the chip's peak rates; 0 for a CPU.
      parts: the computation by part of the model; empty for a CPU.
      kernels: custom kernels, for which the compiler has no estimate, and how each was counted.
      steps: of the whole run; 0 if that depends on the data.
      settings: what was compiled that decides the time, such as the implementation of attention.
      not_counted: what the figures lack, in words.
    """

    topology: str
    chips: int
    mesh: dict[str, int]
    unit: str
    units: int
    memory: Memory | None
    too_large: str
    flops: float
    loss_flops: float
    useful_flops: float
    wire: dict[str, float]
    bounds: dict[str, float]
    compiler_seconds: float
    roofline_seconds: float
    parts: tuple[Part, ...]
    kernels: tuple[Kernel, ...]
    steps: int
    settings: dict[str, int | float | str]
    not_counted: tuple[str, ...]

    @property
    def binds(self) -> str:
        """The name of the highest bound of the program: "compute", "memory", "interconnect" or "network"."""
        return max((name for name in self.bounds if name != "useful"), key=self.bounds.__getitem__)

    @property
    def seconds(self) -> float:
        """Estimated seconds of a step: the compiler's estimate, or the highest bound if that is more; 0 for a CPU."""
        return max((self.compiler_seconds, *self.bounds.values()))

    @property
    def estimates(self) -> dict[str, Estimate]:
        """A step's time by the "compiler", its "roofline" and its physical "floor"; {} if it does not fit, or on CPUs.

        The floor is that of the useful FLOPs and the wire alone; a program's own traffic is no part of it.
        """
        if not self.bounds or not self.fits:
            return {}
        wire = max(self.bounds["interconnect"], self.bounds["network"])
        return {
            "compiler": self._estimate(self.seconds, self.bounds["compute"]),
            "roofline": self._estimate(max(self.roofline_seconds, wire), self.bounds["compute"]),
            "floor": self._estimate(max(self.bounds["useful"], wire), self.bounds["useful"]),
        }

    def _estimate(self, seconds: float, executed: float) -> Estimate:
        return Estimate(
            seconds=seconds,
            mfu=self.bounds["useful"] / seconds,
            hfu=executed / seconds,
            units_per_second=self.units / seconds,
            hours=self.steps * seconds / 3600 or None,
        )

    @property
    def fits(self) -> bool:
        """Whether the program fits in the chip's memory."""
        return self.memory is not None
