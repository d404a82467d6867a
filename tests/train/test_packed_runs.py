"""Runs with packed captions: those of padded ones, on any number of processes, and what is cut is counted."""

import json
import shutil

from numeric import assert_close
from runs import losses, run, run_distributed

PACKED = ("--config.packing.row_tokens=32", "--config.packing.tokens_per_caption=16.0")


def test_a_padded_run_resumes_with_packed_captions_on_two_processes(config, undisturbed, tmp_path) -> None:
    """In parts, on two devices of each process; losses within 1e-5, for sums run in another order."""
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    flags = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.accumulation_steps=2", "--config.data.workers=1")
    for status, _, err in run_distributed(config, workdir, *PACKED, *flags, processes=2, devices=2):
        assert status == 0, err
        assert "another run" not in err
    found = losses(workdir)
    assert max(found) == 12
    for step, loss in found.items():
        assert_close(loss, undisturbed[1][step], rtol=1e-5)
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("cut_captions") for line in metrics if "loss" in line] == [None] * 9 + [0.0] * 3


def test_captions_that_are_cut_are_counted(config, tmp_path) -> None:
    """The scenes' sentences have more than 8 tokens, so that some of the 16 of a step are cut."""
    flags = ("--config.packing.row_tokens=16", "--config.packing.tokens_per_caption=8.0", "--config.steps=2")
    status, _, err = run(config, tmp_path / "run", *flags)
    assert status == 0, err
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    cut = [line["cut_captions"] for line in metrics if "loss" in line]
    assert 0 < cut[0] < cut[1] <= 32
