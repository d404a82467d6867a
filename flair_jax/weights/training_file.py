"""A training checkpoint of the PyTorch release: the weights, and AdamW's state, under the names of tensors.

Facts from open_clip's src/open_clip_train/main.py, which the release's training follows: the file is a dict with
`epoch`, `name`, `state_dict`, `optimizer` and, with automatic mixed precision, `scaler`. `optimizer` is
`torch.optim.AdamW`'s state dict, which numbers the parameters through two groups: first those that do not decay, of
fewer than two dimensions or with `bn`, `ln`, `bias` or `logit_scale` in the name, then the rest, both in the order of
the model's parameters, which is that of the `state_dict`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flair_jax.errors import plural
from flair_jax.weights.param_map import ConversionError
from flair_jax.weights.read import Weights, array_of, check_finite, read_contents, read_weights

_WITHOUT_DECAY = ("bn", "ln", "bias", "logit_scale")
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclasses.dataclass(frozen=True)
class TrainingFile:
    """What such a file holds.

    Attributes:
      weights: the model's.
      mean: AdamW's mean of each tensor's gradients, float32.
      square: of their squares.
      updates: how many AdamW has made.
      epoch: how many are done; None if the file does not say it.
      hyper: AdamW's `b1`, `b2`, `eps` and `weight_decay`, as far as the file says them.
      remarks: on what was not found as it should be, each a sentence.
    """

    weights: Weights
    mean: dict[str, np.ndarray]
    square: dict[str, np.ndarray]
    updates: int
    epoch: int | None
    hyper: dict[str, float]
    remarks: tuple[str, ...]


def read_training_file(path: Path) -> TrainingFile:
    """Reads `epoch_N.pt` or `epoch_latest.pt` of a run of the release.

    Raises:
      ConversionError: if it cannot be read, has no state of AdamW, or one that is not of its own tensors.
    """
    weights, contents = read_weights(path), read_contents(path)
    optimizer = contents.get("optimizer")
    if not isinstance(optimizer, Mapping) or not {"state", "param_groups"} <= optimizer.keys():
        raise ConversionError(
            f"{path}: holds no optimiser's state (`optimizer` with `state` and `param_groups`), as epoch_N.pt of a "
            "training run has; to start from its weights alone, name it as config.init"
        )
    try:
        groups = [dict(group) for group in optimizer["param_groups"]]
        states = {int(number): dict(state) for number, state in optimizer["state"].items()}
        numbers = _numbers(weights.tensors, [list(group["params"]) for group in groups])
        mean, square = ({} for _ in _MOMENTS)
        for name, number in numbers.items():
            moments = [_moment(name, states.get(number, {}), key, weights.tensors[name]) for key in _MOMENTS]
            mean[name], square[name] = moments
        hyper = _hyper(groups[-1])
        counts = {name: int(states[number]["step"]) for name, number in numbers.items() if number in states}
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ConversionError(f"{path}: its `optimizer` is not AdamW's state ({error!r})") from None
    if not counts or max(counts.values()) < 1:
        raise ConversionError(f"{path}: its optimiser has made no update yet; name it as config.init")
    check_finite(path, {f"exp_avg of {name}": moment for name, moment in mean.items()})
    check_finite(path, {f"exp_avg_sq of {name}": moment for name, moment in square.items()})
    updates, epoch = max(counts.values()), contents.get("epoch")
    return TrainingFile(
        *(weights, mean, square, updates),
        epoch=epoch if isinstance(epoch, int) else None,
        hyper=hyper,
        remarks=tuple(_remarks(numbers, counts, updates)),
    )


def _numbers(tensors: Mapping[str, np.ndarray], groups: list[list[int]]) -> dict[str, int]:
    """The number of each tensor in the optimiser's state."""
    names = [name for name, tensor in tensors.items() if tensor.dtype.kind == "f"]
    plain = [name for name in names if tensors[name].ndim < 2 or any(part in name for part in _WITHOUT_DECAY)]
    expected = [plain, [name for name in names if name not in set(plain)]]
    if [len(group) for group in groups] != [len(group) for group in expected]:
        raise ConversionError(
            f"its optimiser has {' and '.join(str(len(group)) for group in groups)} parameters in its groups, the "
            f"model {' and '.join(str(len(group)) for group in expected)} without and with decay; a run with locked "
            "towers, or another optimiser's, cannot be resumed: name it as config.init"
        )
    order = [name for part in expected for name in part]
    numbers = dict(zip(order, (int(number) for group in groups for number in group), strict=True))
    if len(set(numbers.values())) < len(numbers):
        raise ConversionError("its optimiser has one parameter twice")
    return numbers


def _moment(name: str, state: Mapping[str, Any], key: str, tensor: np.ndarray) -> np.ndarray:
    """One of AdamW's moments, float32; zeros where there has never been a gradient."""
    if not state:
        return np.zeros_like(tensor)
    moment = array_of(f"{key} of {name}", state[key]).astype(np.float32, copy=False)
    if moment.shape != tensor.shape:
        raise ConversionError(
            f"{key} of {name} is {list(moment.shape)}, the tensor {list(tensor.shape)}; the optimiser's state is of "
            "another model, or another order of parameters"
        )
    return moment


def _hyper(group: Mapping[str, Any]) -> dict[str, float]:
    betas = group.get("betas")
    found = dict(zip(("b1", "b2"), betas, strict=False)) if isinstance(betas, list | tuple) else {}
    found |= {name: group[name] for name in ("eps", "weight_decay") if name in group}
    return {name: float(value) for name, value in found.items()}


def _remarks(numbers: Mapping[str, int], counts: Mapping[str, int], updates: int) -> list[str]:
    remarks = []
    if missing := [name for name in numbers if name not in counts]:
        remarks.append(
            f"{plural(len(missing), 'tensor')} without an optimiser's state in the file, which starts at zero: "
            f"{', '.join(missing[:5])}"
        )
    if fewer := [name for name, count in counts.items() if count < updates]:
        remarks.append(
            f"{plural(len(fewer), 'tensor')} with fewer than {updates:,} updates, counted as with all: "
            f"{', '.join(fewer[:5])}"
        )
    return remarks
