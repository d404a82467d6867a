"""launch/tpu_pod.sh and launch/xpk.sh with the cloud's programs replaced."""

import io
import signal
import tarfile
import time
from pathlib import Path

import pytest
from launchers import Programs, launch, started, write_settings

SETTINGS = {
    "NAME": "run-1",
    "CONFIG": "configs/demo.py",
    "WORKDIR": "/shared/run",
    "ZONE": "us-east5-b",
    "ACCELERATOR_TYPE": "v5p-16",
    "CLUSTER": "pods",
    "IMAGE": "place/flair-jax:1",
    "TPU_OPTIONS": ["--spot"],
    "MAX_RESTARTS": 2,
}
# A cloud with one TPU, whose state is a file; `train` is the code for when training starts.
CLOUD = """
state, folder = Path({folder!r}, "state"), Path({folder!r})
kind, verb = words[2:4]
if verb == "describe":
    if not state.exists():
        print("ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: was not found", file=sys.stderr)
        sys.exit(1)
    print(state.read_text())
    if state.read_text() == "PROVISIONING":
        state.write_text("ACTIVE")
elif verb == "create":
    state.write_text("PROVISIONING")
elif verb == "delete":
    state.unlink()
elif verb == "scp":
    (folder / "code.tar.gz").write_bytes(Path(words[4]).read_bytes())
elif "flock" in words[-1] or "flock" in "".join(words):
    starts = sum("flock" in call for call in calls)
    {train}
elif "uv pip install" in words[-1]:
    installs = sum("uv pip install" in call for call in calls)
    {install}
"""


def cloud(programs: Programs, tmp_path: Path, train: str = "", install: str = "") -> Path:
    folder = tmp_path / "cloud"
    folder.mkdir()
    programs.add(
        "gcloud",
        CLOUD.format(folder=str(folder), train=train.replace("\n", "\n    ") or "pass", install=install or "pass"),
    )
    programs.add("sleep", "time.sleep(0.05)")
    return folder


def verbs(programs: Programs) -> list[str]:
    """What was asked of the cloud, in order; ssh for training and for installing are told apart."""
    names = []
    for call in programs.calls("gcloud"):
        command = next((word for word in call if word.startswith("--command=")), "")
        names.append("train" if "flock" in command else "stop" if "kill" in command else call[3])
    return names


def test_tpu_from_nothing_to_the_end(programs, tmp_path) -> None:
    folder = cloud(programs, tmp_path)
    status, _, err = launch(
        "tpu_pod.sh", write_settings(tmp_path, **SETTINGS, DELETE_WHEN_DONE="yes"), programs=programs
    )
    assert status == 0, err
    assert verbs(programs) == ["describe", "create", "describe", "describe", "scp", "ssh", "train", "delete"]
    assert not (folder / "state").exists()
    with tarfile.open(folder / "code.tar.gz") as code:
        names = set(code.getnames())
        assert code.getmember("flair_jax/configs").linkname == "../configs"
        assert code.getmember("flair_jax/convert").linkname == "../convert"
    assert {
        "pyproject.toml",
        "constraints.txt",
        "configs/demo.py",
        "flair_jax/train/run.py",
        "launch/tpu_pod.sh",
    } <= names
    assert not any(name.startswith((".git/", ".venv")) for name in names)


def test_tpu_is_left_unless_told(programs, tmp_path) -> None:
    folder = cloud(programs, tmp_path)
    status, _, err = launch("tpu_pod.sh", write_settings(tmp_path, **SETTINGS), programs=programs)
    assert status == 0, err
    assert (folder / "state").exists()
    assert "still there: gcloud compute tpus queued-resources delete run-1 --zone=us-east5-b --force\n" in err


def test_a_preempted_tpu_is_created_anew(programs, tmp_path) -> None:
    """ssh loses its connection; the second TPU finishes the run."""
    folder = cloud(programs, tmp_path, "if starts == 0:\n    state.write_text('SUSPENDED')\n    sys.exit(255)")
    (folder / "state").write_text("ACTIVE")
    status, _, err = launch("tpu_pod.sh", write_settings(tmp_path, **SETTINGS), programs=programs)
    assert status == 0, err
    assert "ended with status 255; restart 1 of at most 2" in err
    again = ["describe", "delete", "describe", "create", "describe", "describe"]
    assert verbs(programs) == ["describe", "scp", "ssh", "train", *again, "scp", "ssh", "train"]
    [create] = [call for call in programs.calls("gcloud") if call[3] == "create"]
    assert "--spot" in create
    assert "--runtime-version=v2-alpha-tpuv5" in create


def test_tpu_and_bad_input(programs, tmp_path) -> None:
    folder = cloud(programs, tmp_path, "sys.exit(2)")
    (folder / "state").write_text("ACTIVE")
    assert launch("tpu_pod.sh", write_settings(tmp_path, **SETTINGS), programs=programs)[0] == 2
    assert verbs(programs) == ["describe", "scp", "ssh", "train"]


def test_code_that_cannot_be_copied_is_not_run(programs, tmp_path) -> None:
    folder = cloud(programs, tmp_path)
    (folder / "state").write_text("ACTIVE")
    (folder / "code.tar.gz").mkdir()
    status, _, err = launch("tpu_pod.sh", write_settings(tmp_path, **SETTINGS), programs=programs)
    assert status == 1
    assert "not started again: restarts 2, at most 2 (MAX_RESTARTS)" in err
    assert set(verbs(programs)) == {"describe", "scp"}


def test_a_failed_installation_is_tried_again(programs, tmp_path) -> None:
    """Though uv ends with 2 for a download that broke off, as training does for bad input."""
    folder = cloud(programs, tmp_path, install="sys.exit(0 if installs else 2)")
    (folder / "state").write_text("ACTIVE")
    status, _, err = launch("tpu_pod.sh", write_settings(tmp_path, **SETTINGS), programs=programs)
    assert status == 0, err
    assert verbs(programs) == ["describe", "scp", "ssh", "describe", "scp", "ssh", "train"]


def test_a_request_that_failed(programs, tmp_path) -> None:
    folder = cloud(programs, tmp_path)
    (folder / "state").write_text("FAILED")
    status, _, err = launch("tpu_pod.sh", write_settings(tmp_path, **SETTINGS), programs=programs)
    assert status == 2
    assert "error: run-1: the request for the TPU has failed; gcloud compute tpus queued-resources describe says" in err


def test_a_cloud_that_does_not_answer(programs, tmp_path) -> None:
    """Its own words are shown; nothing is created, for the TPU may be there."""
    programs.add("gcloud", "print('ERROR: no network', file=sys.stderr); sys.exit(1)")
    programs.add("sleep")
    status, _, err = launch("tpu_pod.sh", write_settings(tmp_path, **SETTINGS), programs=programs)
    assert status == 1
    assert err.count("ERROR: no network") == 10
    assert set(verbs(programs)) == {"describe"}


@pytest.mark.usefixtures("heeded_ctrl_c")
def test_a_stop_saves_on_all_workers(programs, tmp_path) -> None:
    """The launcher asks the workers to stop, and waits until they have."""
    stopped = tmp_path / "stopped"
    folder = cloud(
        programs,
        tmp_path,
        f"(folder / 'started').touch()\nwhile not Path({str(stopped)!r}).exists(): time.sleep(0.05)\nsys.exit(143)",
    )
    (folder / "state").write_text("ACTIVE")
    code = (programs.bin / "gcloud").read_text()
    (programs.bin / "gcloud").write_text(code + f"\nif 'kill' in ''.join(words): Path({str(stopped)!r}).touch()\n")
    with started("tpu_pod.sh", write_settings(tmp_path, **SETTINGS), programs=programs) as process:
        while not (folder / "started").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 143, err
    assert "tpu_pod.sh: stopped; the same command resumes" in err
    assert verbs(programs) == ["describe", "scp", "ssh", "train", "stop"]
    assert "--command=kill -TERM $(cat run-1/run.pid)" in programs.calls("gcloud")[-1]
    assert "--worker=all" in programs.calls("gcloud")[-1]


def test_xpk(programs, tmp_path) -> None:
    """The image is built from the files of this checkout, which docker reads from its input."""
    programs.add(
        "docker", f"if words[0] == 'build': Path({str(tmp_path)!r}, 'code').write_bytes(sys.stdin.buffer.read())"
    )
    status, _, err = launch("xpk.sh", write_settings(tmp_path, **SETTINGS), programs=programs)
    assert (status, err) == (0, "")
    assert [call[:3] for call in programs.all_calls()] == [
        ["docker", "build", "--build-arg=ACCELERATOR=tpu"],
        ["docker", "push", "place/flair-jax:1"],
        ["xpk", "workload", "create"],
    ]
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "code").read_bytes())) as code:
        assert {"launch/Dockerfile", "constraints.txt", "configs/demo.py"} <= set(code.getnames())


@pytest.mark.parametrize("failing", ["docker", "xpk"])
def test_xpk_passes_failures_on(programs, tmp_path, failing: str) -> None:
    programs.add("docker", "sys.stdin.buffer.read()")
    programs.add(failing, "sys.stdin.buffer.read(); print(words[0], 'failed', file=sys.stderr); sys.exit(4)")
    status, _, err = launch("xpk.sh", write_settings(tmp_path, **SETTINGS), programs=programs)
    assert status == 4
    assert err.endswith("failed\n")
    assert ("xpk" in {call[0] for call in programs.all_calls()}) == (failing == "xpk")
