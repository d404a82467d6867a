"""The same run as several real processes."""

import pytest
from numeric import assert_close
from runs import losses, run, run_distributed


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_processes_give_the_same_losses(config, tmp_path, processes: int, devices: int) -> None:
    """Five steps within 1e-5 relative: sums run in another order."""
    results = run_distributed(
        config,
        tmp_path / "run",
        "--config.steps=5",
        "--config.optimizer.schedule=constant",
        "--config.mesh.fsdp=2",
        processes=processes,
        devices=devices,
    )
    assert [status for status, _, _ in results] == [0] * processes, results[0][2]
    # The undisturbed run has a cosine over more steps; here is a run like this one on one device.
    alone = run(config, tmp_path / "alone", "--config.steps=5", "--config.optimizer.schedule=constant")
    assert alone[0] == 0, alone[2]
    ours, expected = losses(tmp_path / "run"), losses(tmp_path / "alone")
    assert set(ours) == set(expected) == {1, 2, 3, 4, 5}
    for step, loss in expected.items():
        assert_close(ours[step], loss, rtol=1e-5)
