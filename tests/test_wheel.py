"""The wheel in a new environment, away from the checkout: README's commands, and how to install what they miss.

It installs with pip from where pip is configured to, so it has a marker and is run by itself: `pytest -m wheel`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from built import REPOSITORY, build, copy_checkout
from readme_sample import SAMPLE, check_shapes

pytestmark = pytest.mark.wheel

# `flair-jax demo` on few scenes, which has 16 held-out ones, for two steps.
DEMO = """
import sys
from flair_jax import cli
from flair_jax.configs.demo import get_config as get_recipe
from flair_jax.demo import run

def get_config():
    config = get_recipe()
    config.data.name, config.batch_size, config.unroll = "scenes/small", 8, 1
    return config

run.get_config, run.FIRST_STEPS = get_config, 2
sys.exit(cli.main(["demo"]))
"""
# What needs an extra, and comes far enough without data to say so: `{model}` is the shipped one, {picture} a picture.
NEEDS = {
    "app": "demo-app --checkpoint {model}",
    "convert": "convert {weights} out",
    "demo": "demo --output demo",
    "faiss": "index {folder} --checkpoint {model} --output scenes.index --faiss",
    "gcs": "train --config=demo --workdir=gs://bucket/run",
    "html": "evaluate --checkpoint {model} --dataset folder --data-dir {folder} --report report.html",
    "s3": "attend {picture} dog --checkpoint {model} --output s3://bucket/maps",
    "tpu": "plan --config=cc3m_recap --topology v5e:2x4",
}


class Environment:
    """A virtual environment with the wheel, active in a folder that is no checkout.

    Attributes:
      folder: where commands run.
      model: the shipped checkpoint.
    """

    def __init__(self, base: Path) -> None:
        wheel = build("wheel", copy_checkout(base / "checkout"), base / "wheel")
        subprocess.run([sys.executable, "-m", "venv", base / "env"], check=True)
        self.folder = base / "elsewhere"
        self.folder.mkdir()
        # Of these tests' own settings, a user has none.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "PYTHON"))}
        path = f"{base / 'env/bin'}{os.pathsep}{os.environ['PATH']}"
        cache = str(base / "compiled")
        self.variables = {**kept, "PATH": path, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}
        self.shell(f"pip install --quiet -c {REPOSITORY / 'constraints.txt'} {wheel}")
        (self.model,) = base.glob("env/lib/python*/site-packages/flair_jax/demo/model")

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """A line of shell, as a user types it."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def shell(self, command: str) -> str:
        """What a line of shell prints, which must succeed."""
        process = self.run(command)
        assert process.returncode == 0, f"{command}\n{process.stderr}"
        return process.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("wheel"))


def readme(pattern: str) -> str:
    """The one part of README that matches."""
    (found,) = re.findall(pattern, (REPOSITORY / "README.md").read_text(), re.DOTALL)
    return found


def test_the_wheel_serves_a_newcomer(environment: Environment, photographs: Path, golden: Path) -> None:
    """In the order in which one would go; one test, since each part needs what those before it made."""
    # From the wheel, and from nowhere else.
    printed = environment.shell("python -c 'import flair_jax.convert as it; print(it.__file__)'")
    assert Path(printed.strip()).is_relative_to(environment.model.parents[4])

    # Without extras, what needs one says how to get it.
    pictures = photographs / "images" / "val2017"
    places = {"model": environment.model, "folder": pictures, "picture": next(pictures.glob("*.jpg"))}
    hints = {}
    for extra, words in NEEDS.items():
        outcome = environment.run("flair-jax " + words.format(weights=golden / "tiny.pt", **places))
        *_, sentence = outcome.stderr.splitlines()
        assert outcome.returncode == 2, (words, outcome.stderr)
        assert "Traceback" not in outcome.stderr, words
        hints[extra] = re.search(r"(?:pip|python -m venv) .*?(?= \(the extra `(\w+)`\))", sentence)
        assert hints[extra], sentence
        assert hints[extra][1] == extra, sentence
    assert "flair-jax[app] @ file://" in hints["app"][0]

    # One is pasted, and then README's own commands work.
    environment.shell(hints["demo"][0].replace("pip install", "pip install --quiet", 1))
    environment.shell(f"python - <<'END'\n{DEMO}\nEND")
    assert (environment.folder / "demo/report.html").is_file()
    for command in readme(r"```sh\n(flair-jax attend demo.*?)```").splitlines():
        environment.shell(command.replace("0027.png", "0007.png"))  # of the few scenes
    assert "<img" in (environment.folder / "search.html").read_text()
    assert list((environment.folder / "maps").glob("*.png"))
    printed = environment.shell(f"python - <<'END'\n{SAMPLE}\nEND")
    check_shapes(printed)
    printed = environment.shell(
        "flair-jax evaluate --checkpoint demo/model --dataset folder --data-dir demo/held-out --report report.html"
    )
    assert "R@1" in printed

    # Configurations by name, and a printed one by path.
    assert re.search("cc3m_recap +CC3M-recap, as published", environment.shell("flair-jax configs"))
    environment.shell("flair-jax configs demo > mine.py")
    small = "--config.data.name=scenes/small --config.data.dir=demo/data --config.batch_size=8 --config.steps=2"
    small += " --config.optimizer.warmup_steps=1 --config.unroll=1"
    assert "batch" in environment.shell(f"flair-jax plan --config=mine.py --topology cpu:1 {small}")
    environment.shell(f"flair-jax train --config=demo --workdir=run {small}")
    assert (environment.folder / "run/checkpoints/2").is_dir()
    outcome = environment.run(f"flair-jax train --config=demo --workdir=noted {small} --config.wandb_project=mine")
    assert outcome.returncode == 2
    assert 'config.wandb_project is set: pip install "wandb>=' in outcome.stderr
    printed = environment.shell("flair-jax data stats --help && flair-jax status run")
    assert "--config NAME|FILE" in printed
