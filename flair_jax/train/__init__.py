"""Training: losses, the step, the loop, checkpoints, metrics and evaluation of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.train.checkpoints import RunCheckpoints as RunCheckpoints
    from flair_jax.train.evaluation import RunEvaluation as RunEvaluation
    from flair_jax.train.evaluation import find_evaluations as find_evaluations
    from flair_jax.train.flags import parse_config as parse_config
    from flair_jax.train.flops import CHIPS as CHIPS
    from flair_jax.train.flops import Chip as Chip
    from flair_jax.train.flops import count_flops as count_flops
    from flair_jax.train.flops import peak_flops as peak_flops
    from flair_jax.train.flops import step_flops as step_flops
    from flair_jax.train.locked import keep_locked as keep_locked
    from flair_jax.train.locked import lock_mask as lock_mask
    from flair_jax.train.logger import MetricLogger as MetricLogger
    from flair_jax.train.logger import read_metrics as read_metrics
    from flair_jax.train.loop import Run as Run
    from flair_jax.train.loss_context import CaptionSampler as CaptionSampler
    from flair_jax.train.loss_context import Features as Features
    from flair_jax.train.loss_context import Group as Group
    from flair_jax.train.loss_context import LossContext as LossContext
    from flair_jax.train.loss_context import sigmoid_loss as sigmoid_loss
    from flair_jax.train.losses import CountedLoss as CountedLoss
    from flair_jax.train.losses import Loss as Loss
    from flair_jax.train.losses import LossValues as LossValues
    from flair_jax.train.losses import TermsLoss as TermsLoss
    from flair_jax.train.losses import flair_loss as flair_loss
    from flair_jax.train.losses import make_loss as make_loss
    from flair_jax.train.meter import Meter as Meter
    from flair_jax.train.meter import TrainingError as TrainingError
    from flair_jax.train.objects import Objects as Objects
    from flair_jax.train.objects import find_model as find_model
    from flair_jax.train.objects import find_sources as find_sources
    from flair_jax.train.objects import make_objects as make_objects
    from flair_jax.train.optim import clamp_logit_scale as clamp_logit_scale
    from flair_jax.train.optim import decay_mask as decay_mask
    from flair_jax.train.optim import make_optimizer as make_optimizer
    from flair_jax.train.optim import make_schedule as make_schedule
    from flair_jax.train.preemption import Preemption as Preemption
    from flair_jax.train.run import Outcome as Outcome
    from flair_jax.train.run import train as train
    from flair_jax.train.startup import Startup as Startup
    from flair_jax.train.status import Status as Status
    from flair_jax.train.status import read_status as read_status
    from flair_jax.train.step import Batch as Batch
    from flair_jax.train.step import StepMetrics as StepMetrics
    from flair_jax.train.step import TrainState as TrainState
    from flair_jax.train.step import abstract_state as abstract_state
    from flair_jax.train.step import init_state as init_state
    from flair_jax.train.step import make_train_step as make_train_step
    from flair_jax.train.terms import TERMS as TERMS
    from flair_jax.train.terms import LossSizes as LossSizes
    from flair_jax.train.terms import Term as Term
    from flair_jax.train.terms import sample_captions as sample_captions
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "checkpoints": ["RunCheckpoints"],
            "evaluation": ["RunEvaluation", "find_evaluations"],
            "flags": ["parse_config"],
            "flops": ["CHIPS", "Chip", "count_flops", "peak_flops", "step_flops"],
            "locked": ["keep_locked", "lock_mask"],
            "logger": ["MetricLogger", "read_metrics"],
            "loop": ["Run"],
            "loss_context": ["CaptionSampler", "Features", "Group", "LossContext", "sigmoid_loss"],
            "losses": ["CountedLoss", "Loss", "LossValues", "TermsLoss", "flair_loss", "make_loss"],
            "meter": ["Meter", "TrainingError"],
            "objects": ["Objects", "find_model", "find_sources", "make_objects"],
            "optim": ["clamp_logit_scale", "decay_mask", "make_optimizer", "make_schedule"],
            "preemption": ["Preemption"],
            "run": ["Outcome", "train"],
            "startup": ["Startup"],
            "status": ["Status", "read_status"],
            "step": ["Batch", "StepMetrics", "TrainState", "abstract_state", "init_state", "make_train_step"],
            "terms": ["TERMS", "LossSizes", "Term", "sample_captions"],
        },
    )
