"""--dry-run prints the exact commands and runs none."""

import re
import subprocess

from launchers import REPOSITORY, Programs, launch, write_settings

TPU_FLAGS = (
    "--xla_enable_async_all_reduce=true --xla_enable_async_all_gather=true "
    "--xla_tpu_overlap_compute_collective_tc=true --xla_tpu_enable_async_collective_fusion=true "
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true "
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true"
)
GPU = "XLA_PYTHON_CLIENT_MEM_FRACTION=0.9 XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=true"
# A space, both quotes, a dollar and a star must all arrive as they are.
AWKWARD = """--config.data.name=it's "a" $HOME *.tar"""
QUOTED = r"""'--config.data.name=it'\''s "a" $HOME *.tar'"""
SETTINGS = {
    "NAME": "first-run",
    "CONFIG": "configs/demo.py",
    "WORKDIR": "/shared/first run",
    "OVERRIDES": [AWKWARD, "--config.batch_size=64"],
    "VENV": "-",
}
TRAIN = (
    f"train --config=configs/demo.py '--workdir=/shared/first run' {QUOTED} --config.batch_size=64 --stopped-status=143"
)
EVALUATE = {
    "CHECKPOINT": "a checkpoint",
    "DATA_DIR": "/data",
    "OUTPUT": "/results/all.json",
    "EVALUATE_OPTIONS": ["--mode", "top-k"],
}
CLOUD = {**SETTINGS, "ZONE": "us-east5-b", "ACCELERATOR_TYPE": "v5litepod-16"}


def dry_run(name: str, programs: Programs, tmp_path, settings: dict, *task: str) -> list[str]:
    """The lines that it prints."""
    status, out, err = launch(name, "--dry-run", write_settings(tmp_path, **settings), *task, programs=programs)
    assert (status, err) == (0, "")
    assert programs.all_calls() == []
    assert not list(tmp_path.glob("**/*.tar.gz"))
    return out.splitlines()


def test_local(programs, tmp_path) -> None:
    lines = dry_run("local.sh", programs, tmp_path, {**SETTINGS, "PROCESSES_PER_NODE": 2})
    port = re.search(r"127.0.0.1:(\d+)", lines[0]).group(1)
    environment = "env JAX_PLATFORMS=cpu GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
    assert lines == [
        f"{environment} flair-jax {TRAIN} --distributed --coordinator=127.0.0.1:{port} --process=0 --processes=2",
        f"{environment} flair-jax {TRAIN} --distributed --coordinator=127.0.0.1:{port} --process=1 --processes=2",
    ]


def test_local_with_gpus(programs, tmp_path) -> None:
    """One process for all GPUs needs no cluster; of two, each takes its own."""
    settings = {**SETTINGS, "GPUS_PER_NODE": 2}
    assert dry_run("local.sh", programs, tmp_path, settings) == [f"env {GPU} flair-jax {TRAIN}"]
    lines = dry_run("local.sh", programs, tmp_path, {**settings, "PROCESSES_PER_NODE": 2})
    assert [re.match(r"env JAX_LOCAL_DEVICE_IDS=(\d) XLA_", line).group(1) for line in lines] == ["0", "1"]


def test_local_evaluation(programs, tmp_path) -> None:
    assert dry_run("local.sh", programs, tmp_path, {**EVALUATE, "VENV": "-", "GPUS_PER_NODE": 1}, "evaluate") == [
        f"env {GPU} flair-jax evaluate --checkpoint 'a checkpoint' --dataset all --data-dir /data "
        "--output /results/all.json --mode top-k"
    ]


def test_slurm(programs, tmp_path) -> None:
    settings = {
        **SETTINGS,
        "NODES": 2,
        "GPUS_PER_NODE": 4,
        "PROCESSES_PER_NODE": 4,
        "CPUS_PER_PROCESS": 8,
        "ENVIRONMENT": ["GREETING=good morning"],
        "SBATCH_OPTIONS": ["--partition=gpu", "--comment=two words"],
        "SRUN_OPTIONS": ["--container-image=flair.sqsh"],
    }
    script = REPOSITORY / "launch" / "slurm.sh"
    assert dry_run("slurm.sh", programs, tmp_path, settings) == [
        "mkdir -p '/shared/first run/logs'",
        "sbatch --job-name=first-run --nodes=2 --ntasks-per-node=4 --cpus-per-task=8 --gpus-per-node=4 --requeue "
        "--signal=TERM@120 --open-mode=append '--output=/shared/first run/logs/job.log' --partition=gpu "
        f"'--comment=two words' --wrap 'exec bash {script} {tmp_path / 'run.env'} train'",
        "# and in the job:",
        "srun --ntasks=8 --ntasks-per-node=4 --cpus-per-task=8 --kill-on-bad-exit=0 --wait=60 "
        "'--output=/shared/first run/logs/process-%t.log' --open-mode=append --container-image=flair.sqsh "
        f"env {GPU} 'GREETING=good morning' flair-jax {TRAIN} --distributed",
    ]


def test_slurm_with_one_process_per_node(programs, tmp_path) -> None:
    """JAX would give it one GPU only."""
    settings = {**SETTINGS, "GPUS_PER_NODE": 4, "CPUS_PER_PROCESS": 32}
    step = dry_run("slurm.sh", programs, tmp_path, settings)[-1]
    assert "--ntasks=1 --ntasks-per-node=1 --cpus-per-task=32" in step
    assert f"env {GPU} JAX_LOCAL_DEVICE_IDS=0,1,2,3 flair-jax train" in step


def test_slurm_evaluation(programs, tmp_path) -> None:
    """On one node, whatever training uses."""
    settings = {**SETTINGS, **EVALUATE, "NODES": 2, "GPUS_PER_NODE": 4, "CPUS_PER_PROCESS": 8, "PROCESSES_PER_NODE": 4}
    _, submission, _, step = dry_run("slurm.sh", programs, tmp_path, settings, "evaluate")
    assert "--nodes=1 --ntasks-per-node=1 --cpus-per-task=8 --gpus-per-node=4" in submission
    assert "--output=/results/all.json.logs/job.log" in submission
    assert submission.endswith("run.env evaluate'")
    assert step == (
        "srun --ntasks=1 --ntasks-per-node=1 --cpus-per-task=8 --kill-on-bad-exit=0 --wait=60 "
        "--output=/results/all.json.logs/process-%t.log --open-mode=append "
        f"env {GPU} flair-jax evaluate --checkpoint 'a checkpoint' --dataset all --data-dir /data "
        "--output /results/all.json --mode top-k"
    )


def test_tpu_pod(programs, tmp_path) -> None:
    settings = {**CLOUD, "TPU_OPTIONS": ["--spot"], "WORKER_SETUP": "sudo mount /shared", "DELETE_WHEN_DONE": "yes"}
    lines = dry_run("tpu_pod.sh", programs, tmp_path, settings)
    ssh = (
        "gcloud compute tpus tpu-vm ssh first-run --zone=us-east5-b --worker=all --quiet "
        "--ssh-flag=-oServerAliveInterval=30 "
    )
    assert lines[:3] == [
        "gcloud compute tpus queued-resources describe first-run --zone=us-east5-b '--format=value(state.state)'",
        "gcloud compute tpus queued-resources create first-run --zone=us-east5-b --node-id=first-run "
        "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot",
        "gcloud compute tpus tpu-vm scp CODE.tar.gz first-run:first-run.tar.gz --zone=us-east5-b --worker=all --quiet",
    ]
    assert lines[3] == ssh + (
        "'--command={ sudo mount /shared; } && mkdir -p first-run && tar -xzf first-run.tar.gz -C first-run && "
        "cd first-run && python3 -m pip install --quiet --user uv && "
        "python3 -m uv venv --quiet --allow-existing --python=3.12 .venv && "
        r"python3 -m uv pip install --quiet --python=.venv -c constraints.txt -e . '\''jax[tpu]'\'''"
    )
    assert lines[4].startswith(
        ssh + "'--command=cd first-run && echo $$ >run.pid && exec flock --no-fork run.lock env "
    )
    # What the worker's shell makes of it.
    [command] = [word for word in words_of(lines[4]) if word.startswith("--command=")]
    assert words_of(command.removeprefix("--command=").split("exec ")[1].replace("flock --no-fork run.lock ", "")) == [
        "env",
        "JAX_PLATFORMS=tpu,cpu",
        f"LIBTPU_INIT_ARGS={TPU_FLAGS}",
        ".venv/bin/flair-jax",
        "train",
        "--config=configs/demo.py",
        "--workdir=/shared/first run",
        AWKWARD,
        "--config.batch_size=64",
        "--stopped-status=143",
        "--distributed",
    ]
    assert lines[5:] == ["gcloud compute tpus queued-resources delete first-run --zone=us-east5-b --force --quiet"]


def test_xpk(programs, tmp_path) -> None:
    settings = {**CLOUD, "CLUSTER": "pods", "IMAGE": "place/flair-jax:1", "PROJECT": "mine", "MAX_RESTARTS": 20}
    settings |= {"ACCELERATOR_TYPE": "v6e-16", "LIBTPU_INIT_ARGS": "--xla_own=1", "XPK_OPTIONS": ["--storage=shared"]}
    lines = dry_run("xpk.sh", programs, tmp_path, settings)
    assert lines[:2] == [
        "CODE.tar.gz | docker build --build-arg=ACCELERATOR=tpu --file=launch/Dockerfile --tag=place/flair-jax:1 -",
        "docker push place/flair-jax:1",
    ]
    *words, command = words_of(lines[2])
    assert lines[3:] == []
    assert " ".join(words) == (
        "xpk workload create --workload=first-run --cluster=pods --zone=us-east5-b --project=mine --tpu-type=v6e-16 "
        "--docker-image=place/flair-jax:1 --max-restarts=20 --restart-on-exit-codes=1 "
        "--termination-grace-period-seconds=120 --storage=shared"
    )
    flags = f"{TPU_FLAGS} --xla_tpu_scoped_vmem_limit_kib=98304 --xla_own=1"
    assert (
        command
        == f"--command=exec env JAX_PLATFORMS=tpu,cpu 'LIBTPU_INIT_ARGS={flags}' flair-jax {TRAIN} --distributed"
    )


def test_a_run_in_a_bucket_needs_no_disk(programs, tmp_path) -> None:
    """But what reads it, and a place of its own for what is printed."""
    cloud = {**CLOUD, "WORKDIR": "gs://b/runs/x", "CLUSTER": "c", "IMAGE": "i"}
    lines = dry_run("tpu_pod.sh", programs, tmp_path, cloud)
    [setup] = [word for word in words_of(lines[3]) if word.startswith("--command=")]
    assert setup.endswith("-c constraints.txt -e '.[gcs]' 'jax[tpu]'")
    assert "--workdir=gs://b/runs/x" in lines[4]
    overrides = ["--config.data.dir=s3://c/data"]
    build, _, workload = dry_run("xpk.sh", programs, tmp_path, {**cloud, "OVERRIDES": overrides})
    assert build == (
        "CODE.tar.gz | docker build --build-arg=ACCELERATOR=tpu '--build-arg=EXTRAS=[gcs,s3]' "
        "--file=launch/Dockerfile --tag=i -"
    )
    assert "--workdir=gs://b/runs/x --config.data.dir=s3://c/data" in workload
    settings = {**SETTINGS, "WORKDIR": "gs://b/runs/x", "GPUS_PER_NODE": 1, "CPUS_PER_PROCESS": 8}
    folder, _, _, step = dry_run("slurm.sh", programs, tmp_path, settings)
    assert folder == f"mkdir -p {REPOSITORY}/logs/b/runs/x"
    assert f"--output={REPOSITORY}/logs/b/runs/x/process-%t.log" in step


def words_of(line: str) -> list[str]:
    """A line's words, as bash splits it; it has no redirections, and expansions are in quotes."""
    out = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True).stdout
    return out.rstrip("\0").split("\0")
