"""Training runs as users start them, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ports import free_port

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 24, "layers": 2, "head_width": 8},
    "text_cfg": {"width": 16, "layers": 2, "heads": 2, "context_length": 16},
}
CONFIG = """
from flair_jax.configs.default import get_config as get_default

def get_config():
    c = get_default()
    c.model = {model!r}
    c.dtype = "float32"
    c.batch_size = 8
    c.captions_per_image = 2
    c.steps = 12
    c.loss.group_size = 4
    c.optimizer.warmup_steps = 2
    c.data.name = "scenes/small"
    c.data.dir = {data!r}
    c.data.workers = 0
    c.checkpoint.every_steps = 3
    c.log_every_steps = 1
    c.compilation_cache = ""  # the environment names that of the tests
    return c
"""


def write_config(folder: Path, data: Path) -> Path:
    """A configuration file for a run of seconds."""
    (folder / "model.json").write_text(json.dumps(MODEL))
    path = folder / "config.py"
    path.write_text(CONFIG.format(model=str(folder / "model.json"), data=str(data)))
    return path


def xla_flags(devices: int) -> str:
    """Those of the tests, with so many host devices; of a flag that is given twice, the last counts."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"


def spawn(*arguments: object, devices: int = 1, **options) -> subprocess.Popen:
    """Starts Python with these arguments and so many host devices."""
    environment = os.environ | {"XLA_FLAGS": xla_flags(devices)}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def spawn_all(*arguments: object, processes: int, devices: int) -> list[subprocess.Popen]:
    """Starts the same several times, with the flags that connect them."""
    address = f"127.0.0.1:{free_port()}"
    flags = ("--distributed", f"--coordinator={address}", f"--processes={processes}")
    return [spawn(*arguments, *flags, f"--process={number}", devices=devices) for number in range(processes)]


def start(config: Path, workdir: Path, *flags: str, devices: int = 1, **options) -> subprocess.Popen:
    """Starts `python -m flair_jax.train` with so many host devices."""
    return spawn(*_train(config, workdir), *flags, devices=devices, **options)


def _train(config: Path, workdir: Path) -> tuple[str, ...]:
    return ("-m", "flair_jax.train", f"--config={config}", f"--workdir={workdir}")


def finish(process: subprocess.Popen, timeout: float = 500) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def run(config: Path, workdir: Path, *flags: str, devices: int = 1) -> tuple[int, str, str]:
    return finish(start(config, workdir, *flags, devices=devices))


def run_distributed(
    config: Path, workdir: Path, *flags: str, processes: int, devices: int
) -> list[tuple[int, str, str]]:
    """One run as several real processes."""
    started = spawn_all(*_train(config, workdir), *flags, processes=processes, devices=devices)
    return [finish(process) for process in started]


def losses(workdir: Path) -> dict[int, float]:
    """Logged losses by step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    return {line["step"]: line["loss"] for line in lines if "loss" in line}
