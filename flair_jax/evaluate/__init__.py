"""Evaluation of a trained model: retrieval, classification, segmentation, pointing, choosing captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.evaluate.choosing import ChooseSettings as ChooseSettings
    from flair_jax.evaluate.choosing import Choosing as Choosing
    from flair_jax.evaluate.choosing import choose as choose
    from flair_jax.evaluate.classification import CLASSIFICATION_MODES as CLASSIFICATION_MODES
    from flair_jax.evaluate.classification import Classification as Classification
    from flair_jax.evaluate.classification import ClassificationSettings as ClassificationSettings
    from flair_jax.evaluate.classification import Classifier as Classifier
    from flair_jax.evaluate.classification import classify as classify
    from flair_jax.evaluate.ensemble import class_features as class_features
    from flair_jax.evaluate.gallery import write_gallery as write_gallery
    from flair_jax.evaluate.overlays import write_comparison as write_comparison
    from flair_jax.evaluate.pointing import Pointing as Pointing
    from flair_jax.evaluate.pointing import PointSettings as PointSettings
    from flair_jax.evaluate.pointing import point as point
    from flair_jax.evaluate.retrieval import RETRIEVAL_MODES as RETRIEVAL_MODES
    from flair_jax.evaluate.retrieval import Evaluation as Evaluation
    from flair_jax.evaluate.retrieval import RetrievalSettings as RetrievalSettings
    from flair_jax.evaluate.retrieval import evaluate as evaluate
    from flair_jax.evaluate.segmentation import SEGMENT_BY as SEGMENT_BY
    from flair_jax.evaluate.segmentation import PatchScorer as PatchScorer
    from flair_jax.evaluate.segmentation import Segmentation as Segmentation
    from flair_jax.evaluate.segmentation import SegmentationSettings as SegmentationSettings
    from flair_jax.evaluate.segmentation import segment as segment
    from flair_jax.evaluate.segmentation_metrics import confusion_matrix as confusion_matrix
    from flair_jax.evaluate.task import Task as Task
    from flair_jax.evaluate.tasks import Job as Job
    from flair_jax.evaluate.tasks import evaluate_checkpoint as evaluate_checkpoint
    from flair_jax.evaluate.windows import Windows as Windows
    from flair_jax.evaluate.windows import plan_windows as plan_windows
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "choosing": ["ChooseSettings", "Choosing", "choose"],
            "classification": [
                "CLASSIFICATION_MODES",
                "Classification",
                "ClassificationSettings",
                "Classifier",
                "classify",
            ],
            "ensemble": ["class_features"],
            "gallery": ["write_gallery"],
            "overlays": ["write_comparison"],
            "pointing": ["PointSettings", "Pointing", "point"],
            "retrieval": ["RETRIEVAL_MODES", "Evaluation", "RetrievalSettings", "evaluate"],
            "segmentation": ["SEGMENT_BY", "PatchScorer", "Segmentation", "SegmentationSettings", "segment"],
            "segmentation_metrics": ["confusion_matrix"],
            "task": ["Task"],
            "tasks": ["Job", "evaluate_checkpoint"],
            "windows": ["Windows", "plan_windows"],
        },
    )
