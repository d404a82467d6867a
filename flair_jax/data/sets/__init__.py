"""Data sets by name: their layouts on disk, and readers of them for evaluation and training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.data.sets.choice import CHOICE_SETS as CHOICE_SETS
    from flair_jax.data.sets.choice import ChoiceSet as ChoiceSet
    from flair_jax.data.sets.choice_data import ChoiceData as ChoiceData
    from flair_jax.data.sets.classification import CLASSIFICATION_SETS as CLASSIFICATION_SETS
    from flair_jax.data.sets.classification import ClassificationData as ClassificationData
    from flair_jax.data.sets.classification import ClassificationSet as ClassificationSet
    from flair_jax.data.sets.grounding import GROUNDING_SETS as GROUNDING_SETS
    from flair_jax.data.sets.grounding import GroundingSet as GroundingSet
    from flair_jax.data.sets.grounding_data import GroundingData as GroundingData
    from flair_jax.data.sets.grounding_regions import Region as Region
    from flair_jax.data.sets.labelled import ArrayExamples as ArrayExamples
    from flair_jax.data.sets.labelled import Examples as Examples
    from flair_jax.data.sets.labelled import FileExamples as FileExamples
    from flair_jax.data.sets.labelled import LabelledExample as LabelledExample
    from flair_jax.data.sets.labelled import TfdsExamples as TfdsExamples
    from flair_jax.data.sets.prompts import read_class_names as read_class_names
    from flair_jax.data.sets.prompts import read_templates as read_templates
    from flair_jax.data.sets.prompts import sentences as sentences
    from flair_jax.data.sets.retrieval import RETRIEVAL_SETS as RETRIEVAL_SETS
    from flair_jax.data.sets.retrieval_data import RetrievalData as RetrievalData
    from flair_jax.data.sets.retrieval_data import RetrievalSet as RetrievalSet
    from flair_jax.data.sets.scenes import Scene as Scene
    from flair_jax.data.sets.scenes import SceneObject as SceneObject
    from flair_jax.data.sets.scenes import draw_scene as draw_scene
    from flair_jax.data.sets.scenes import render as render
    from flair_jax.data.sets.segmentation import SEGMENTATION_SETS as SEGMENTATION_SETS
    from flair_jax.data.sets.segmentation import SegmentationSet as SegmentationSet
    from flair_jax.data.sets.segmentation_data import SegmentationData as SegmentationData
    from flair_jax.data.sets.training import open_set as open_set
    from flair_jax.data.sets.training import open_sets as open_sets
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "choice": ["CHOICE_SETS", "ChoiceSet"],
            "choice_data": ["ChoiceData"],
            "classification": ["CLASSIFICATION_SETS", "ClassificationData", "ClassificationSet"],
            "grounding": ["GROUNDING_SETS", "GroundingSet"],
            "grounding_data": ["GroundingData"],
            "grounding_regions": ["Region"],
            "labelled": ["ArrayExamples", "Examples", "FileExamples", "LabelledExample", "TfdsExamples"],
            "prompts": ["read_class_names", "read_templates", "sentences"],
            "retrieval": ["RETRIEVAL_SETS"],
            "retrieval_data": ["RetrievalData", "RetrievalSet"],
            "scenes": ["Scene", "SceneObject", "draw_scene", "render"],
            "segmentation": ["SEGMENTATION_SETS", "SegmentationSet"],
            "segmentation_data": ["SegmentationData"],
            "training": ["open_set", "open_sets"],
        },
    )
