"""Retrieval evaluation in the middle of training."""

import json

from runs import run

from flair_jax.data import scenes_builder
from flair_jax.demo import write_pictures


def test_metrics_while_training(config, scenes, tmp_path) -> None:
    write_pictures(tmp_path / "pictures", scenes_builder.read(scenes, "validation", "small"))
    status, _, err = run(
        config,
        tmp_path / "run",
        "--config.evaluation.every_steps=6",
        "--config.evaluation.dataset=folder",
        f"--config.evaluation.dir={tmp_path / 'pictures'}",
        "--config.evaluation.mode=global",
    )
    assert status == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line for line in lines if "evaluation/text_to_image_R@1" in line}
    assert set(measured) == {6, 12}
    assert all(1 <= line["evaluation/image_to_text_mean_rank"] <= 16 for line in measured.values())
    assert {"loss", "tcs", "mps", "logit_scale", "learning_rate", "grad_norm", "images_per_second"} <= set(lines[0])
    assert 0 <= lines[0]["waiting_for_data"] <= 1
    assert any((tmp_path / "run").glob("events.out.tfevents.*"))
