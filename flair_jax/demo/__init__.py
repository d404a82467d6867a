"""The demonstration: drawn scenes, a small model trained on them, and a report of what it learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.demo.evaluation import ScenesEvaluation as ScenesEvaluation
    from flair_jax.demo.evaluation import ScenesResult as ScenesResult
    from flair_jax.demo.recorded import MODEL as MODEL
    from flair_jax.demo.report import write_report as write_report
    from flair_jax.demo.run import run_demo as run_demo
    from flair_jax.demo.run import write_pictures as write_pictures
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "evaluation": ["ScenesEvaluation", "ScenesResult"],
            "recorded": ["MODEL"],
            "report": ["write_report"],
            "run": ["run_demo", "write_pictures"],
        },
    )
