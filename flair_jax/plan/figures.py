"""What is known about a step that was compiled for given chips."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each chip; `temporaries` are activations, gradients and buffers, and `total` is the peak."""

    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    program: int
    total: int


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
      flops: FLOPs of matrix products, rematerialisation included.
      loss_flops: of these, the loss's; 0 for other steps.
      useful_flops: FLOPs excluding rematerialisation; see `step_flops`.
      wire: bytes that a chip sends, by kind of collective; `network:` before those between slices.
      bounds: lower bounds in seconds for the FLOPs ("compute"), memory traffic ("memory") and the wire ("interconnect",
        "network"), each at the chip's peak; empty for a CPU.
      compiler_seconds: the compiler's estimate of the computation, without waiting for other chips; 0 where it gives
        none. It is not a bound: docs/plan.md says how it is calibrated.
      steps: of the whole run; 0 if that depends on the data.
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
    steps: int

    @property
    def binds(self) -> str:
        """The name of the highest bound."""
        return max(self.bounds, key=self.bounds.__getitem__)

    @property
    def seconds(self) -> float:
        """Estimated seconds of a step: the compiler's estimate, or the highest bound where that is more."""
        return max(self.compiler_seconds, *self.bounds.values())

    @property
    def fits(self) -> bool:
        """Whether the program fits in the chip's memory."""
        return self.memory is not None
