"""Wrong settings end with one sentence that names the file and the setting, and with status 2."""

import pytest
from launchers import REPOSITORY, launch, write_settings

TRAIN = {"NAME": "run-1", "CONFIG": "configs/demo.py", "WORKDIR": "/w", "VENV": "-"}
SLURM = {**TRAIN, "GPUS_PER_NODE": 4, "CPUS_PER_PROCESS": 8}
CLOUD = {**TRAIN, "ZONE": "z", "ACCELERATOR_TYPE": "v6e-16", "CLUSTER": "c", "IMAGE": "i"}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("local.sh", {"CONFIG": "configs/demo.py", "VENV": "-"}, "WORKDIR is not set; set it to the run's folder"),
        ("local.sh", {"WORKDIR": "/w", "VENV": "-"}, "CONFIG is not set; set it to a configuration file, such as"),
        ("local.sh", {**TRAIN, "CONFIG": "configs/none.py"}, "CONFIG=configs/none.py: there is no such file in /"),
        (
            "local.sh",
            {**TRAIN, "WORKDIR": "s3://b/x"},
            "WORKDIR=s3://b/x: checkpoints of a run are written to gs:// and to disks; mount",
        ),
        ("local.sh", {**TRAIN, "WORKDRI": "/w"}, "WORKDRI is not a setting; launch/settings.env.example explains"),
        ("local.sh", {**TRAIN, "OVERRIDES": "--a --b"}, "OVERRIDES must be a list in parentheses, such as OVERRIDES=("),
        ("local.sh", {**TRAIN, "VENV": "/none"}, "VENV=/none holds no bin/flair-jax; install there, or set VENV"),
        ("local.sh", {**TRAIN, "MAX_RESTARTS": "many"}, "MAX_RESTARTS=many must be a whole number, at least 0"),
        ("local.sh", {**TRAIN, "PROCESSES_PER_NODE": 0}, "PROCESSES_PER_NODE=0 must be a whole number, at least 1"),
        (
            "local.sh",
            {**TRAIN, "PROCESSES_PER_NODE": 3, "GPUS_PER_NODE": 4},
            "PROCESSES_PER_NODE=3 must be 1 or GPUS_PER_NODE=4",
        ),
        ("slurm.sh", {**SLURM, "PROCESSES_PER_NODE": 2}, "PROCESSES_PER_NODE=2 must be 1 or GPUS_PER_NODE=4"),
        ("slurm.sh", {**SLURM, "CPUS_PER_PROCESS": ""}, "CPUS_PER_PROCESS is not set; set it to the CPU cores of"),
        ("slurm.sh", {**SLURM, "NAME": "My run"}, "NAME=My run must be 2 to 40 lower-case letters, digits and dashes"),
        ("slurm.sh", {**SLURM, "NAME": ""}, "NAME is not set; set it to the run's name"),
        ("tpu_pod.sh", {**CLOUD, "ZONE": ""}, "ZONE is not set; set it to the zone of the TPU, such as us-east5-b"),
        ("tpu_pod.sh", {**CLOUD, "ACCELERATOR_TYPE": "v9-8"}, "ACCELERATOR_TYPE=v9-8 is none of v4-N, v5litepod-N"),
        ("tpu_pod.sh", {**CLOUD, "WORKDIR": "runs/x"}, "WORKDIR=runs/x must be in a bucket, such as gs://"),
        (
            "xpk.sh",
            {**CLOUD, "WORKDIR": "gcs://b/x"},
            "WORKDIR=gcs://b/x must be in a bucket, such as gs://bucket/runs",
        ),
        ("tpu_pod.sh", {**CLOUD, "CONFIG": "/c.py"}, "CONFIG=/c.py must be a path in the repository, whose files are"),
        ("xpk.sh", {**CLOUD, "CLUSTER": ""}, "CLUSTER is not set; set it to the GKE cluster, made by xpk cluster"),
        ("xpk.sh", {**CLOUD, "IMAGE": ""}, "IMAGE is not set; set it to the image's name in a registry"),
    ],
)
def test_wrong_settings(programs, tmp_path, name: str, settings: dict, message: str) -> None:
    path = write_settings(tmp_path, **settings)
    status, out, err = launch(name, path, programs=programs)
    assert (status, out) == (2, "")
    assert err.startswith(f"{name}: error: {path}: {message}")
    assert err.count("\n") == 1, "one sentence"
    assert programs.all_calls() == []


@pytest.mark.parametrize("setting", ["CHECKPOINT", "DATA_DIR", "OUTPUT"])
def test_evaluation_lacks_a_setting(tmp_path, setting: str) -> None:
    settings = {"VENV": "-", "CHECKPOINT": "c", "DATA_DIR": "d", "OUTPUT": "o", setting: ""}
    status, _, err = launch("local.sh", write_settings(tmp_path, **settings), "evaluate")
    assert status == 2
    assert f"{setting} is not set; set it to" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no settings file; usage: launch/local.sh [--dry-run] SETTINGS [train|evaluate]"),
        (["none.env"], "none.env: no such settings file; launch/settings.env.example is one to copy"),
        (["--dry", "none.env"], "unknown option --dry; usage: launch/local.sh"),
        (["none.env", "test"], "unknown task test; usage: launch/local.sh"),
    ],
)
def test_wrong_command_line(arguments: list[str], message: str) -> None:
    status, _, err = launch("local.sh", *arguments)
    assert status == 2
    assert err.startswith(f"local.sh: error: {message}")
    assert err.count("\n") == 1


def test_only_slurm_and_local_evaluate(tmp_path) -> None:
    assert (
        "unknown task evaluate; usage: launch/tpu_pod.sh [--dry-run] SETTINGS [train]"
        in (launch("tpu_pod.sh", write_settings(tmp_path, **CLOUD), "evaluate")[2])
    )


@pytest.mark.parametrize("text", ["WORKDIR=(", "WORKDIR=$nothing", "WORKDIR = /w"])
def test_a_file_that_the_shell_cannot_read(tmp_path, text: str) -> None:
    path = tmp_path / "run.env"
    path.write_text(text + "\n")
    status, _, err = launch("local.sh", path)
    assert status == 2
    assert err.endswith(f"local.sh: error: {path}: is not valid shell; see the line above\n")


def test_the_environment_sets_nothing(tmp_path) -> None:
    """A name as common as IMAGE may stand in it for something else."""
    settings = write_settings(tmp_path, CONFIG="configs/demo.py", VENV="-")
    status, _, err = launch("local.sh", settings, WORKDIR="/elsewhere", XLA_FLAGS="--other")
    assert status == 2
    assert "WORKDIR is not set" in err


def test_help() -> None:
    assert launch("slurm.sh", "--help") == (
        0,
        "usage: launch/slurm.sh [--dry-run] SETTINGS [train|evaluate]\n",
        "",
    )


@pytest.mark.parametrize("name", ["local.sh", "slurm.sh"])
def test_the_example_is_valid(tmp_path, programs, name: str) -> None:
    """Every setting that it names is known, and nothing is missing but the user's own."""
    text = (REPOSITORY / "launch" / "settings.env.example").read_text()
    (tmp_path / "run.env").write_text(text.replace("VENV=.venv", "VENV=- "))
    status, out, err = launch(name, "--dry-run", tmp_path / "run.env", programs=programs)
    assert (status, err) == (0, "")
    assert "--config.data.name=cc3m/{00000..00331}.tar" in out
