"""The same run as several real processes."""

import pytest
from numeric import assert_close
from runs import losses, run, run_distributed

FLAGS = ("--config.steps=5", "--config.optimizer.schedule=constant")


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> dict[int, float]:
    """Losses of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    status, _, err = run(config, workdir, *FLAGS)
    assert status == 0, err
    return losses(workdir)


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_processes_give_the_same_losses(config, alone, tmp_path, processes: int, devices: int) -> None:
    """Five steps within 1e-5 relative: sums run in another order."""
    results = run_distributed(
        config, tmp_path / "run", *FLAGS, "--config.mesh.fsdp=2", processes=processes, devices=devices
    )
    assert [status for status, _, _ in results] == [0] * processes, results[0][2]
    ours = losses(tmp_path / "run")
    assert set(ours) == set(alone) == {1, 2, 3, 4, 5}
    for step, loss in alone.items():
        assert_close(ours[step], loss, rtol=1e-5)
