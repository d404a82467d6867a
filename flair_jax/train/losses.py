"""FLAIR's loss (Xiao et al., CVPR 2025, arXiv 2412.03561): a sum of terms over all pairs of a batch, sharded.

`flair_jax.train.terms` has the terms; this module exchanges features and adds up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Flair, Params
from flair_jax.settings import LossSettings
from flair_jax.train.loss_context import CaptionSampler, Features, LossContext
from flair_jax.train.sums import Summand
from flair_jax.train.terms import TERMS, LossSizes, Term, sample_captions


class LossValues(NamedTuple):
    """A loss and its parts.

    Attributes:
      total: the scalar that is differentiated.
      terms: scalars by name, each of which is logged under it; not differentiated.
    """

    total: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]


# What is logged beside the terms.
METRICS = (
    *("step", "loss", "grad_norm", "logit_scale", "learning_rate", "images_per_second", "waiting_for_data"),
    *("skipped_samples", "cut_captions", "model_flops_utilisation", "planned_model_flops_utilisation"),
    *("goodput", "restarts"),
)

GROUPS = ("step_seconds/", "startup/", "memory/", "evaluation/")


def check_values(values: object) -> None:
    """Raises ConfigError if what a loss has returned are not `LossValues` that can be differentiated and logged."""
    if not isinstance(values, LossValues):
        raise ConfigError(f"a loss must return LossValues, not {type(values).__name__}")
    if jnp.shape(values.total) or not jnp.issubdtype(jnp.result_type(values.total), jnp.floating):
        raise ConfigError(f"a loss's total must be a scalar of floating point, not {_described(values.total)}")
    if not isinstance(values.terms, dict) or not all(isinstance(name, str) for name in values.terms):
        raise ConfigError("a loss's terms must be a dict with texts as names")
    for name, term in values.terms.items():
        if not jax.tree_util.all_leaves([term]) or jnp.shape(term):
            raise ConfigError(f"the loss's term {name} must be a scalar, not {_described(term)}")
        if name in METRICS or name.startswith(GROUPS):
            raise ConfigError(f"the loss has a term named {name}, as another metric is; give it another name")


def _described(value: Any) -> str:
    if not jax.tree_util.all_leaves([value]):
        return type(value).__name__
    return f"{jnp.result_type(value)} [{', '.join(map(str, jnp.shape(value)))}]"


@runtime_checkable
class Loss(Protocol):
    """A loss, as `make_train_step` takes it: any function of these arguments, jittable and differentiable."""

    def __call__(
        self, model: Flair, params: Params, features: Features, key: Array, teacher: Features | None, /
    ) -> LossValues:
        """The loss of a batch.

        Args:
          model: the model.
          params: all of its parameters.
          features: of the whole batch by `params`, not normalised, float32; rows are sharded over the mesh.
          key: from `jax.random.key`, a new one each step.
          teacher: features of the same batch by the averaged parameters, without a gradient; None where
            `config.optimizer.ema_decay` is 0. They cost nothing if unused.
        """
        ...


@runtime_checkable
class CountedLoss(Loss, Protocol):
    """A loss that states its FLOPs; for any other, utilisation and plans count the towers alone."""

    def flops(self, sizes: LossSizes) -> float:
        """FLOPs of its matrix products in one step, forward and backward, over all devices; counted as of a `Term`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class TermsLoss:
    """A `Loss` that is a weighted sum of terms of a table; `make_loss` checks and makes it, `flair_loss` explains it.

    Attributes:
      terms: by name, each with its weight.
      group_size: B.
      pairs_per_block: how many (image, caption) pairs a device pools at once.
      sampler: draws captions; None: `sample_captions`.
    """

    terms: Mapping[str, tuple[Term, float]]
    group_size: int
    pairs_per_block: int
    sampler: CaptionSampler | None = None

    def __call__(
        self, model: Flair, params: Params, features: Features, key: Array, teacher: Features | None = None, /
    ) -> LossValues:
        """See `Loss`.

        Raises:
          ConfigError: if the batch does not divide into groups, or over the mesh.
        """
        count, captions = len(features.image), len(features.text) // max(len(features.image), 1)
        if len(features.text) != count * captions or count % self.group_size:
            raise ConfigError(
                f"{len(features.text)} captions and loss groups of {self.group_size} do not divide a batch of {count} "
                "images"
            )
        mesh = jax.sharding.get_abstract_mesh()
        axes = () if mesh.empty else mesh.axis_names
        if count % (mesh.size if axes else 1):
            raise ConfigError(f"a batch of {count} images does not divide over {mesh.size} devices")
        params = {name: leaves for name, leaves in params.items() if name not in ("vision", "text")}
        shares = partial(self._sums, model, axes, captions)
        if axes:
            rows = P(axes)
            shares = jax.shard_map(shares, in_specs=(P(), rows, P(), rows), out_specs=P())
        return LossValues(*shares(params, features, key, teacher))

    def _sums(
        self,
        model: Flair,
        axes: tuple[str, ...],
        captions: int,
        params: Params,
        features: Features,
        key: Array,
        teacher: Features | None,
    ) -> tuple[Array, dict[str, Array]]:
        """The fields of `LossValues`, added up over all devices; `features` are one device's."""
        if axes:  # otherwise the gradients of the parameters would be summed over devices in every block
            params = lax.pcast(params, axes, to="varying")
        text = lax.all_gather(features.text, axes, tiled=True) if axes else features.text
        context = LossContext(
            *(model, params, key, features, teacher),
            text=text.reshape(-1, self.group_size * captions, text.shape[-1]),
            group_size=self.group_size,
            captions=captions,
            pairs_per_block=self.pairs_per_block,
            sampler=self.sampler or partial(sample_captions, group_size=self.group_size, captions_per_image=captions),
            axes=axes,
        )
        found = {name: term.share(context) for name, (term, _) in self.terms.items()}
        of_group = {name: share for name, share in found.items() if callable(share)}
        total, shares = self._weighted({name: share for name, share in found.items() if not callable(share)})
        if of_group:
            more, of_groups = context.sum_over_groups(
                lambda group: self._weighted({name: share(group) for name, share in of_group.items()})
            )
            total, shares = total + more, shares | of_groups
        sums = (total, {name: shares[name] for name in self.terms})
        return lax.psum(sums, axes) if axes else sums

    def _weighted(self, shares: dict[str, Any]) -> Summand:
        """The weighted sum of shares, and the shares."""
        for name, share in shares.items():
            if not jax.tree_util.all_leaves([share]) or jnp.shape(share):
                raise ConfigError(f"the share of the term {name} must be a float32 scalar, not {_described(share)}")
        weighted = (self.terms[name][1] * share for name, share in shares.items())
        return sum(weighted, start=jnp.zeros(())), shares

    def flops(self, sizes: LossSizes) -> float:
        """The sum of the terms' FLOPs; see `Term`."""
        return sum(term.flops(sizes, self.group_size) for term, _ in self.terms.values())


def make_loss(
    settings: LossSettings,
    group_size: int,
    *,
    table: Mapping[str, Term] = TERMS,
    sampler: CaptionSampler | None = None,
) -> TermsLoss:
    """The loss that a run's settings ask for.

    Args:
      settings: of the loss.
      group_size: B, such as `TrainSettings.group_size`.
      table: of terms that the settings may name.
      sampler: replaces `sample_captions`.

    Raises:
      ConfigError: if a term is not in the table, or has no weight while others have one.
    """
    terms, weights = settings.terms, settings.weights
    if not terms or not set(terms) <= set(table):
        raise ConfigError(f"config.loss.terms={tuple(terms)} are not among {', '.join(table)}")
    if weights and len(weights) != len(terms):
        raise ConfigError(f"config.loss.weights={tuple(weights)}: {len(terms)} terms need as many, or none")
    weights = weights or (1 / len(terms),) * len(terms)
    weighted = {name: (table[name], weight) for name, weight in zip(terms, weights, strict=True)}
    return TermsLoss(weighted, group_size, settings.pairs_per_block, sampler)


def flair_loss(
    model: Flair,
    params: Params,
    features: Features,
    key: Array,
    *,
    group_size: int,
    terms: Sequence[str] = tuple(TERMS),
    weights: Sequence[float] = (),
    pairs_per_block: int = 8192,
    sampler: CaptionSampler | None = None,
) -> LossValues:
    """FLAIR's loss over groups of B images; pure, and sharded over the mesh that is set.

    With s = exp(logit_scale), b = logit_bias, label +1 for an image's own captions and -1 for others:

    - tcs, text-conditioned sigmoid: logits s * cos(pool(image, t), t) + b for the captions t of `sample_captions`;
      `-sum(log_sigmoid(label * logit)) / (B + K - 1)`.
    - mps, multi-positive sigmoid: logits s * cos(global image, t) + b for all `B*K` captions;
      `-sum(log_sigmoid(label * logit)) / (B*K)`.

    A group's loss covers its own captions and those of every other group, all of which are negatives: image i is paired
    with the captions drawn for row i of that group. Groups are averaged. This is what G GPUs of the PyTorch release
    compute with B images each, on any number of devices: the numbers depend on `group_size` and not on the mesh.

    Cost, for N images on W devices, in G = N/B groups, with L local tokens and H heads:

    - FLOPs, forward, each device: N/W * G(B+K-1) pairs of (4 L D + 2 D^2); NK * 2 D^2 to project queries, once per
      caption; 2 N/W * NK * D for mps. Backward: twice that; nothing is computed again.
    - Wire: the N*K x D float32 text features are all-gathered once, 4 NKD (W-1)/W bytes into each device, and their
      gradients reduce-scattered once, as many bytes. Nothing else but scalars and the gradients of `params`.
    - Memory, each device: 8 NKD bytes for all text features and their gradient, and one block of about
      `pairs_per_block` * (8 H L + 16 D) bytes, whose gradients are computed along with it: see `sum_with_gradients`.

    Args:
      model: the model, for its pooling.
      params: with `pooling`, `logit_scale` (its log is stored) and `logit_bias`; the towers' are ignored.
      features: not normalised; float32.
      key: from `jax.random.key`, a new one each step; the captions are drawn with it.
      group_size: B; must divide N.
      terms: "tcs", "mps" or both.
      weights: a factor for each term, whose sum is the total; (): their mean, as published.
      pairs_per_block: how many (image, caption) pairs are pooled at once by a device; changes memory and speed only.
      sampler: replaces `sample_captions`.

    Raises:
      ConfigError: if sizes do not divide, a term is unknown, or weights are not as many as terms.
    """
    settings = LossSettings(
        terms=tuple(terms), weights=tuple(weights), group_size=group_size, pairs_per_block=pairs_per_block
    )
    return make_loss(settings, group_size, sampler=sampler)(model, params, features, key)
