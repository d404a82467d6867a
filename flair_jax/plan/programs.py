"""Compiled programs: their text and their size, kept in a folder so that equal ones are compiled once."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import jax

from flair_jax.errors import ConfigError
from flair_jax.files import replace_when_complete
from flair_jax.plan.topology import Topology


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """What is read of a program.

    Attributes:
      text: optimised HLO of one device; "" if it does not fit.
      too_large: the compiler's message if it is too large for the chip, else "".
      temporaries: bytes of activations, gradients and buffers.
      code: bytes of the program itself.
      arguments: bytes of what it is given.
      new: bytes of results that take no argument's place.
    """

    text: str
    too_large: str = ""
    temporaries: int = 0
    code: int = 0
    arguments: int = 0
    new: int = 0


def compile_program(traced: jax.stages.Traced, topology: Topology, cache: Path | None = None) -> CompiledProgram:
    """Compiles for a topology, or reads what was compiled before from an equal program by the same compiler.

    Args:
      traced: the function.
      topology: of the devices in its arguments' shardings.
      cache: folder that keeps compiled programs; made if it is missing. None: nothing is kept.

    Raises:
      ConfigError: if what was kept is damaged.
      OSError: if the folder cannot be read or written.
    """
    lowered = traced.lower()
    if cache is None:
        return _compile(lowered)
    path = cache / f"{_key(lowered, topology)}.json.gz"
    if path.exists():
        try:
            return CompiledProgram(**json.loads(gzip.decompress(path.read_bytes())))
        except (gzip.BadGzipFile, EOFError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: not a program that was kept here ({error}); remove the file") from None
    program = _compile(lowered)
    with replace_when_complete(path) as partial:
        partial.write_bytes(gzip.compress(json.dumps(dataclasses.asdict(program)).encode()))
    return program


def _key(lowered: jax.stages.Lowered, topology: Topology) -> str:
    """The same for equal programs alone: of what is compiled, what for, and by what."""
    versions = {
        each.name: each.version
        for each in importlib.metadata.distributions()
        if each.name in ("jax", "jaxlib", "libtpu")
    }
    flags = [os.environ.get(name, "") for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS")]
    asked = json.dumps([lowered.as_text(), topology.name, topology.slices, sorted(versions.items()), flags])
    return hashlib.sha256(asked.encode()).hexdigest()[:32]


def _compile(lowered: jax.stages.Lowered) -> CompiledProgram:
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        message = str(error).partition("RESOURCE_EXHAUSTED: ")[2].splitlines()[0].rstrip(". ")
        return CompiledProgram("", message)
    sizes: Any = program.memory_analysis()
    return CompiledProgram(
        text=program.as_text() or "",
        temporaries=sizes.temp_size_in_bytes,
        code=sizes.generated_code_size_in_bytes,
        arguments=sizes.argument_size_in_bytes,
        new=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
    )
