"""Retrieval evaluation in the middle of a training run."""

from __future__ import annotations

import dataclasses

from flair_jax.data.retrieval_sets import RetrievalData, find_set
from flair_jax.errors import ConfigError
from flair_jax.evaluate.blocks import BlockStore
from flair_jax.evaluate.retrieval import Retriever
from flair_jax.evaluate.run import MODES, Settings, evaluate
from flair_jax.files import expand
from flair_jax.hosts import Hosts
from flair_jax.models.flair import Flair, Params
from flair_jax.settings import EvaluationSettings


@dataclasses.dataclass(frozen=True)
class RetrievalEvaluation:
    """A retrieval set, read before training starts, so that it fails before and not after hours.

    Attributes:
      model: the model.
      data: pictures and captions.
      settings: how to evaluate.
    """

    model: Flair
    data: RetrievalData
    settings: Settings

    @classmethod
    def from_settings(cls, settings: EvaluationSettings, model: Flair) -> RetrievalEvaluation:
        """Reads the set.

        Raises:
          ConfigError: if the mode is unknown.
          DatasetError: if the set is unknown or not there.
        """
        if settings.mode not in MODES:
            raise ConfigError(f"config.evaluation.mode={settings.mode!r} is unknown; choose one of {', '.join(MODES)}")
        data = Hosts.all().together(lambda: find_set(settings.dataset).load(expand(settings.dir)))
        return cls(model, data, Settings(settings.mode, settings.top_k, settings.batch_size))

    def run(self, params: Params) -> dict[str, float]:
        """Metrics by name, `evaluation/...`, the same on all hosts, which share the work; all must call it.

        With them, `..._ties`: the share of the ranks that equal scores decide, 1 for a model that has collapsed.

        Each device gets a copy of the parameters beside its part of the training state, for as long as this runs.
        """
        outcome = evaluate(
            self.model, Retriever(self.model, params), self.data, self.settings, BlockStore(None), Hosts.all()
        )
        ties = {f"{direction}_ties": share for direction, share in outcome.ties.share.items()}
        return {f"evaluation/{name}": value for name, value in (outcome.metrics | ties).items()}
