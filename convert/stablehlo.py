"""A FLAIR model without its code: three functions in StableHLO, and their parameters, in one folder.

`flair-jax export CHECKPOINT NAME.stablehlo` writes the folder, and `load` reads it, without the model's code:

    description.json     arguments and results of each function, preprocessing, versions, where the weights come from
    encode_image.bin     functions as `jax.export` serialises them, for any number of images and texts, and for CPUs,
    encode_text.bin      CUDA GPUs and TPUs; none can be differentiated
    pool.bin
    params.safetensors   the parameters, once; a function's are those whose names begin with the prefix it is given in
                         the description, and go into it as a flat dict

Such a folder stays readable as long as `jax.export` promises (docs.jax.dev/en/latest/export/export.html): it runs on
jaxlib releases up to 6 months newer, and up to 3 weeks older, than the one that wrote it, which the description names;
release dates count. Each function carries the version of its calling convention (10 since July 2025), and JAX may drop
versions older than 6 months; JAX 0.11.1 and later refuse what is older than they promise to read. A checkpoint has no
such limit, so keep it, and export again.

Load only exports that you trust: a function may call anything that jaxlib offers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax import export as jax_export

from flair_jax.errors import CheckpointError, FlairError
from flair_jax.packages import how_to_install

FORMAT = "flair_jax StableHLO 1"
DESCRIPTION, PARAMS = "description.json", "params.safetensors"
FUNCTIONS = ("encode_image", "encode_text", "pool")
FILES = (DESCRIPTION, PARAMS, *(f"{name}.bin" for name in FUNCTIONS))

AnyArray = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class ExportedFlair:
    """The model's three functions; each may be called inside `jax.jit`, but not differentiated.

    Letters: B images, N texts, T context length, S pixels of a side, L local image tokens, D embedding width. B and N
    are free; the others are as exported.

    Attributes:
      description: the contents of `description.json`.
      params: name -> float32 array.
      functions: name -> function of the parameters with its prefix and of arrays.
    """

    description: dict[str, Any]
    params: dict[str, jax.Array]
    functions: dict[str, Any]

    @property
    def logit_scale(self) -> jax.Array:
        """A scalar, the factor on cosines; text-conditioned logits are `logit_scale * cosine + logit_bias`."""
        return jnp.exp(self.params["logit_scale"])

    @property
    def logit_bias(self) -> jax.Array:
        """What is added to text-conditioned logits, a scalar."""
        return self.params["logit_bias"]

    def encode_image(self, images: AnyArray) -> tuple[jax.Array, jax.Array]:
        """Global [B, D] and local [B, L, D] image tokens of float32 images [B, S, S, 3], normalised as described."""
        return self._call("encode_image", images)

    def encode_text(self, tokens: AnyArray) -> jax.Array:
        """Text features [N, D] of int32 token ids [N, T]."""
        return self._call("encode_text", tokens)

    def pool(self, local: AnyArray, text: AnyArray) -> jax.Array:
        """Every image as seen by every text, [B, N, D], of local tokens [B, L, D] and text features [N, D]."""
        return self._call("pool", local, text)

    def _call(self, name: str, *arrays: AnyArray) -> Any:
        function = self.description["functions"][name]
        arrays = tuple(map(jnp.asarray, arrays))
        for (argument, expected), array in zip(function["arguments"].items(), arrays, strict=True):
            shape = expected["shape"]
            fits = len(shape) == array.ndim and all(
                size == wanted or (isinstance(wanted, str) and size > 0)
                for size, wanted in zip(array.shape, shape, strict=True)
            )
            if not fits or array.dtype != expected["dtype"]:
                raise FlairError(
                    f"{name}: {argument} are {array.dtype}{list(array.shape)}; expected {expected['dtype']}"
                    f"[{', '.join(map(str, shape))}]"
                )
        params = {key: value for key, value in self.params.items() if key.startswith(function["params"])}
        return self.functions[name](params, *arrays)


def load(path: str | Path, *, sharding: jax.sharding.Sharding | None = None) -> ExportedFlair:
    """Reads a folder that `flair-jax export CHECKPOINT NAME.stablehlo` made. Loads none of the model's code.

    Args:
      path: the folder.
      sharding: of every parameter; the first device if not given. With parameters replicated over a mesh, arguments
        sharded by rows over it are computed where they are.

    Raises:
      CheckpointError: if there is no such folder, it is damaged, or this JAX or this platform is not one it is for.
      FlairError: if flatbuffers is not installed.
    """
    path = Path(path)
    require_flatbuffers(f"reading {path}")
    description = _read_description(path)
    functions = {name: _read_function(path / f"{name}.bin", description) for name in FUNCTIONS}
    platform = jax_export.default_export_platform()
    if sharding is None and platform not in description["platforms"]:
        raise CheckpointError(f"{path}: was exported for {', '.join(description['platforms'])}, and this is {platform}")
    expected = description.get("params", {}).get("sha256")  # earlier exports have none
    try:
        found = expected and digest_of_file(path / PARAMS)
        tensors = safetensors.numpy.load_file(path / PARAMS)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path / PARAMS}: cannot be read ({error}); export the model again") from None
    if found != expected:
        raise CheckpointError(f"{path / PARAMS}: is damaged, or of another export; export the model again")
    device = jax.devices()[0] if sharding is None else sharding
    return ExportedFlair(description, {name: jax.device_put(each, device) for name, each in tensors.items()}, functions)


def require_flatbuffers(purpose: str) -> None:
    """Raises FlairError if flatbuffers, with which JAX serialises functions, is not installed."""
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise FlairError(f"{purpose} needs flatbuffers: {how_to_install('export')}") from None


def digest(content: bytes) -> str:
    """The hash of a function's file, which reveals damage before JAX trusts its bytes."""
    return hashlib.sha256(content).hexdigest()


def digest_of_file(file: Path) -> str:
    """`digest` of a file that need not fit in memory."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_description(path: Path) -> dict[str, Any]:
    file = path / DESCRIPTION
    if not file.is_file():
        raise CheckpointError(
            f"{path}: no exported model here (no {DESCRIPTION}); make one with "
            "`flair-jax export CHECKPOINT NAME.stablehlo`"
        )
    try:
        description = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error}); export the model again") from None
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{file}: has the format {description.get('format')!r}, and this reads {FORMAT!r}")
    if missing := list(_missing(description)):
        raise CheckpointError(f"{file}: is damaged (without {', '.join(missing)}); export the model again")
    return description


def _missing(description: dict[str, Any]) -> Iterator[str]:
    """Names of what reading and calling need and a description lacks, or has of another kind."""
    kinds = {"platforms": list, "calling_convention_version": int, "versions": dict, "functions": dict}
    lacking = [name for name, kind in kinds.items() if not isinstance(description.get(name), kind)]
    yield from lacking
    for name in FUNCTIONS if "functions" not in lacking else ():
        function = description["functions"].get(name)
        for key, kind in {"sha256": str, "params": str, "arguments": dict}.items():
            if not isinstance(function, dict) or not isinstance(function.get(key), kind):
                yield f"functions.{name}.{key}"


def _read_function(file: Path, description: dict[str, Any]) -> Any:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); export the model again") from None
    if digest(content) != description["functions"][file.stem]["sha256"]:
        raise CheckpointError(f"{file}: is damaged, or of another export; export the model again")
    version = description["calling_convention_version"]
    written_by = ", ".join(f"{name} {number}" for name, number in description["versions"].items())
    oldest = jax_export.minimum_supported_calling_convention_version
    newest = jax_export.maximum_supported_calling_convention_version
    if not oldest <= version <= newest:
        raise CheckpointError(
            f"{file}: has calling convention {version} (written by {written_by}), and JAX {jax.__version__} runs "
            f"{oldest} to {newest}; export the model again"
        )
    try:
        return jax.jit(jax_export.deserialize(bytearray(content)).call)
    except Exception as error:  # JAX raises many kinds for what is too old or too new for it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{file}: JAX {jax.__version__} cannot read it, which {written_by} wrote ({reason}); export the model again"
        ) from error
