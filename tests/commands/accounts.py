"""Which commands of the documents are not run by the tests here, and why.

A new command runs by itself, with its page. If it needs data that its page does not make yet, add their name to the
page's row in `PAGES` of a test file here, and their maker to `made_world.py`; if it cannot be run, add a line to
`EXCEPTIONS`. What running text merely names, such as `flair-jax plan`, is only checked to exist.

    python tests/commands/accounts.py    # prints what becomes of each command
"""

import argparse
import functools
import shlex

from documents import PAGES, Command, commands

from flair_jax.cli import _parser

PIP = "downloads; its files and extras are checked to exist, and tests/test_install.py installs"
CLOUD = "needs a project in Google's cloud and a login"
POD = "starts TPUs; tests/launch/test_cloud.py runs it with programs that stand in for the cloud's"
BUCKET = "needs a bucket; tests/bucket does the same on servers of its own"
MEASURES = "measures large models or much data for minutes; its script and options are checked"
OUTSIDE = "is of another program, which the tests have not installed"
MACHINES = "needs several machines; tests/evaluate/test_processes.py runs several processes"
ALL_TESTS = "runs the tests themselves"
DEMO = "trains for minutes; tests/test_demo.py runs it on few scenes"
SERVES = "serves until it is stopped; tests/show/test_app.py opens its page"
SETUP = "of a program of the reader's own"
HUB = "a list of what may be named; tests/weights/test_hub_checkpoints.py loads each"
SNIPPET = "goes on from objects that the text before it describes"

# The command, or the page and the first line of a block of Python -> the reason.
EXCEPTIONS = {
    "make demo": DEMO,
    "make test": ALL_TESTS,
    "python -m pytest tests/launch/test_xla_flags.py": ALL_TESTS,
    'pip install -c constraints.txt -e ".[convert]"': PIP,
    'pip install -c constraints.txt -e ".[convert]" "jax[cuda13]"': PIP,
    'pip install -c constraints.txt -e ".[demo]"': PIP,
    'pip install -c constraints.txt -e ".[export]"': PIP,
    'pip install -c constraints.txt -e ".[html]"': PIP,
    'pip install -c constraints.txt -e ".[onnx]"': PIP,
    'pip install -c constraints.txt -e ".[tpu]"': PIP,
    'pip install -c constraints-app.txt -e ".[app]"': PIP,
    'pip install -c constraints-beam.txt -e ".[beam]"': PIP,
    'pip install -e ".[gcs]"': PIP,
    'pip install "tokenizers>=0.21"': PIP,
    "pip install jax flatbuffers safetensors": PIP,
    "pip install numpy onnxruntime pillow tokenizers": PIP,
    "pip install --no-deps webdataset open_clip_torch": PIP,
    "gcloud auth application-default login": CLOUD,
    "aws configure": CLOUD,
    "gcloud storage buckets create gs://my-bucket --location=us-east5 --uniform-bucket-level-access": CLOUD,
    "number=$(gcloud projects describe \"$(gcloud config get project)\" --format='value(projectNumber)')": CLOUD,
    "gcloud storage buckets add-iam-policy-binding gs://my-bucket --role=roles/storage.objectUser \\\n"
    '  --member="serviceAccount:$number-compute@developer.gserviceaccount.com"': CLOUD,
    "gcloud storage cp --recursive cc3m gs://my-bucket/data": CLOUD,
    "xpk cluster create": CLOUD,
    "xpk workload delete": CLOUD,
    "xpk --dry-run": CLOUD,
    "scancel JOB": OUTSIDE,
    "launch/tpu_pod.sh my-run.env": POD,
    "launch/xpk.sh my-run.env": POD,
    "docker build --build-arg=ACCELERATOR=cuda13 --file=launch/Dockerfile --tag=flair-jax:gpu .": OUTSIDE,
    "tensorboard --logdir runs/cc3m": OUTSIDE,
    "tensorboard --logdir=gs://my-bucket/runs/cc3m": OUTSIDE,
    "tfds build cifar10 --file_format=array_record": OUTSIDE,
    "ssh -L 9000:127.0.0.1:7860": OUTSIDE,
    "hf auth login": "asks for a token of the hub",
    "flair-jax train --config=configs/cc3m_recap.py --workdir gs://BUCKET/runs/cc3m "
    "--config.data.name='gs://BUCKET/cc3m/{00000..00331}.tar'": BUCKET,
    "flair-jax status gs://BUCKET/runs/cc3m": BUCKET,
    "flair-jax evaluate --checkpoint gs://BUCKET/runs/cc3m --dataset coco --data-dir coco "
    "--output gs://BUCKET/coco.json": BUCKET,
    "flair-jax status gs://my-bucket/runs/cc3m": BUCKET,
    "flair-jax plan --config=configs/cc3m_recap.py --topology v5e:2x4 --evaluate": "compiles for a minute; "
    "tests/plan/test_plan.py plans a small one",
    "flair-jax demo": DEMO,
    "flair-jax demo --full": DEMO,
    "flair-jax demo --full --control": DEMO,
    "flair-jax demo-app --checkpoint demo/model": SERVES,
    "python tests/show/screenshot.py docs/images/demo_app.png": "needs Chromium, and changes the documents' picture",
    "flair-jax data build cc3m 'cc3m/{00000..00331}.tar' --shorter-side 256": "needs Apache Beam, which has an "
    "environment of its own; tests/data/test_recaptioned_builder.py builds there",
    "flair-jax evaluate --checkpoint checkpoints/cc3m --dataset coco --data-dir /shared/coco "
    "--output /shared/coco.json --distributed": MACHINES,
    "flair-jax train --config=demo --config.data.dir=demo/data --config.checkpoint.every_steps=100 "
    "--workdir=runs/demo": "trains for minutes; the page's run is made with fewer steps",
    "python benchmarks/attention.py --chip v5e": MEASURES,
    "python benchmarks/attention.py --chip v5e --policies": MEASURES,
    "python benchmarks/gpu.py --json gpu.json": MEASURES,
    "JAX_PLATFORMS=cpu python benchmarks/checkpoints.py --rounds 3": MEASURES,
    "python benchmarks/data_order.py --folder FOLDER --builder VENV/bin/flair-jax": MEASURES,
    ".venv-bucket/bin/python benchmarks/bucket.py --folder FOLDER --samples 2000 --timed 512 --rounds 2 "
    "--schemes gs": MEASURES,
    "python benchmarks/demonstration.py --output DIR": MEASURES,
    "JAX_PLATFORMS=cpu python benchmarks/health.py": MEASURES,
    "python benchmarks/precision.py": MEASURES,
    "JAX_PLATFORMS=cpu python benchmarks/optimizers.py": MEASURES,
    "python benchmarks/data.py": MEASURES,
    "python benchmarks/data.py --folder FOLDER --samples 8000 --rounds 3": MEASURES,
    "python benchmarks/calibrate.py": MEASURES,
    "python benchmarks/recipes.py": MEASURES,
    "python benchmarks/recipes.py --cache plans --output docs/recipes.md": MEASURES,
    "python benchmarks/search.py --folder DIR": MEASURES,
    "python benchmarks/scoring.py": MEASURES,
    "python benchmarks/train_step.py": MEASURES,
    "python benchmarks/texts.py": MEASURES,
    "docs/choosing.md: import json": "of ARO's own code, which draws its orders with spaCy and NLTK",
    'docs/export.md: flair_jax.load("cc3m/")  # the folder': HUB,
    "docs/export.md: from flair_jax.convert import stablehlo": SNIPPET,
    "docs/processes.md: from flair_jax.parallel.processes import Processes": SNIPPET,
}

# Pages whose blocks of a language another test runs, all of them, as it reads them from the page.
ELSEWHERE = {
    ("docs/extend.md", "sh"): "tests/train/test_extend.py",
    ("docs/extend.md", "python"): "tests/train/test_extend.py",
    ("docs/model.md", "python"): "tests/models/test_guide.py",
}


def becomes(command: Command) -> str:
    """What becomes of a command: "run", "named", or why it is not run."""
    if command.name in EXCEPTIONS:
        return EXCEPTIONS[command.name]
    if (command.page, command.language) in ELSEWHERE:
        return f"run by {ELSEWHERE[command.page, command.language]}"
    if command.language == "text" and command.text.startswith("flair-jax ") and command.text in _in_blocks():
        return "run with its block"
    return "named" if command.language == "text" and _is_name(command.text) else "run"


@functools.cache
def _in_blocks() -> set[str]:
    return {command.text for page in PAGES for command in commands(page) if command.language == "sh"}


def _is_name(text: str) -> bool:
    """Whether running text names a command instead of giving it whole."""
    program, *words = shlex.split(text)
    if program != "flair-jax":
        return program == "make" or not words
    if "..." in words or (words and words[0] == "train" and not any(word.startswith("--config=") for word in words)):
        return True
    if any(word.isupper() or "=CONFIG" in word for word in words):  # DIR, FOLDER: the reader's own
        return True
    try:
        _parser().parse_known_args(words)
    except Exception:  # without what it must have
        return True
    return False


def not_known(words: list[str]) -> list[str]:
    """Of the words after `flair-jax`, the commands and options that do not exist."""
    parser: argparse.ArgumentParser = _parser()
    words = list(words)
    while words and (groups := [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]):
        if words[0] not in groups[0].choices:
            return words[:1]
        parser = groups[0].choices[words.pop(0)]
    more = parser.get_default("takes_more")
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [
        option
        for option in options
        if option not in parser._option_string_actions and not (more is not None and option.startswith(more))
    ]


def main() -> None:
    """Prints what becomes of each command."""
    everything = [command for page in PAGES for command in commands(page)]
    for command in everything:
        print(f"{command.page:<24}{becomes(command)[:40]:<42}{command.text.splitlines()[0]}")
    run = [command for command in everything if becomes(command).startswith("run")]
    named = [command for command in everything if becomes(command) == "named"]
    print(f"{len(everything)} commands: {len(run)} run, {len(named)} only named, ", end="")
    print(f"{len(everything) - len(run) - len(named)} excepted ({len(EXCEPTIONS)} different ones)")


if __name__ == "__main__":
    main()
