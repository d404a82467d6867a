"""What launch/local.sh does when processes end, with programs in place of training."""

import signal
import time

import pytest
from launchers import Programs, launch, started, write_settings

# Which process of the run this is.
PROCESS = "process = int(next(word[10:] for word in words if word.startswith('--process=')))\n"
HANG = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(300)\n"


def settings_for(tmp_path, programs: Programs, code: str, **settings: object):
    venv = programs.add_flair_jax(code)
    return write_settings(
        tmp_path, CONFIG="configs/demo.py", WORKDIR=tmp_path / "a run", VENV=venv, **{"MAX_RESTARTS": 2, **settings}
    )


def test_words_arrive_as_they_are(programs, tmp_path) -> None:
    awkward = ['--config.data.name=it\'s "a" $HOME *.tar', "--config.x=back\\slash", "--config.y=two\nlines", ""]
    settings = settings_for(
        tmp_path, programs, "print(os.environ['GREETING'])", OVERRIDES=awkward, ENVIRONMENT=["GREETING=a  b"]
    )
    status, out, err = launch("local.sh", settings)
    assert (status, out, err) == (0, "a  b\n", "")
    assert programs.calls("flair-jax") == [
        ["train", "--config=configs/demo.py", f"--workdir={tmp_path / 'a run'}", *awkward, "--stopped-status=143"]
    ]
    assert (tmp_path / "a run" / "logs" / "process-0.log").read_text() == "a  b\n"


def test_bad_input_is_not_tried_again(programs, tmp_path) -> None:
    settings = settings_for(tmp_path, programs, "print('flair-jax: error: no', file=sys.stderr); sys.exit(2)")
    status, _, err = launch("local.sh", settings)
    assert (status, err) == (2, "flair-jax: error: no\n")
    assert len(programs.calls("flair-jax")) == 1


def test_a_crash_is_tried_again_so_many_times(programs, tmp_path) -> None:
    status, _, err = launch("local.sh", settings_for(tmp_path, programs, "sys.exit(5)"))
    assert status == 5
    assert err.splitlines() == [
        "local.sh: ended with status 5; restart 1 of at most 2",
        "local.sh: ended with status 5; restart 2 of at most 2",
        "local.sh: ended with status 5; not started again: restarts 2, at most 2 (MAX_RESTARTS)",
    ]
    assert len(programs.calls("flair-jax")) == 3


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(143)"])
def test_killed_once_and_finished_then(programs, tmp_path, end: str) -> None:
    settings = settings_for(tmp_path, programs, f"if before == 0: {end}\nprint('done')")
    status, out, err = launch("local.sh", settings)
    assert (status, out) == (0, "done\n")
    assert "restart 1 of at most 2" in err
    assert len(programs.calls("flair-jax")) == 2


def test_the_death_of_one_ends_the_others(programs, tmp_path) -> None:
    """Though they wait and ignore SIGTERM; the second attempt has another port and finishes."""
    code = f"{PROCESS}if before < 3:\n if process == 1: time.sleep(1); sys.exit(7)\n {HANG.replace(chr(10), '; ')}"
    settings = settings_for(tmp_path, programs, code, PROCESSES_PER_NODE=3)
    began = time.monotonic()
    status, _, err = launch("local.sh", settings)
    assert status == 0, err
    assert "local.sh: ended with status 7; restart 1 of at most 2" in err
    assert 10 <= time.monotonic() - began < 100, "ten seconds to say why, and then no waiting"
    coordinators = [word for call in programs.calls("flair-jax") for word in call if word.startswith("--coordinator")]
    assert len(coordinators) == 6
    assert len(set(coordinators)) == 2
    assert [len(set(coordinators[:3])), len(set(coordinators[3:]))] == [1, 1]


def test_bad_input_of_one_counts_for_all(programs, tmp_path) -> None:
    """A process may crash because another has gone, before it finds the same fault."""
    settings = settings_for(
        tmp_path, programs, f"{PROCESS}time.sleep(process); sys.exit(2 if process else 1)", PROCESSES_PER_NODE=2
    )
    assert launch("local.sh", settings)[0] == 2
    assert len(programs.calls("flair-jax")) == 2


def test_each_process_has_its_log(programs, tmp_path) -> None:
    settings = settings_for(tmp_path, programs, f"{PROCESS}print('this is', process)", PROCESSES_PER_NODE=2)
    status, out, _ = launch("local.sh", settings)
    assert (status, out) == (0, "this is 0\n")
    for index in (0, 1):
        assert (tmp_path / "a run" / "logs" / f"process-{index}.log").read_text() == f"this is {index}\n"


@pytest.mark.usefixtures("heeded_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_all_and_is_no_crash(programs, tmp_path, number: int) -> None:
    ready = tmp_path / "ready"
    ready.mkdir()
    code = (
        f"{PROCESS}signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"Path({str(ready)!r}, str(process)).touch()\ntime.sleep(300)"
    )
    with started("local.sh", settings_for(tmp_path, programs, code, PROCESSES_PER_NODE=2)) as process:
        while len(list(ready.iterdir())) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == 143
    assert err == "local.sh: stopped; the same command resumes\n"
    assert len(programs.calls("flair-jax")) == 2


def test_workers_of_a_killed_process_are_ended(programs, tmp_path) -> None:
    """Processes that load data would go on for ever."""
    worker = tmp_path / "worker"
    code = (
        f"pid = os.fork()\nif pid == 0: time.sleep(300)\n"
        f"Path({str(worker)!r}).write_text(str(pid)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert launch("local.sh", settings_for(tmp_path, programs, code, MAX_RESTARTS=0))[0] == 137
    deadline = time.monotonic() + 30
    while _alive(int(worker.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    """Whether it runs; one that nobody waited for yet does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_evaluation_runs_here(programs, tmp_path) -> None:
    venv = programs.add_flair_jax("print('table')")
    settings = write_settings(
        tmp_path, VENV=venv, CHECKPOINT="a b", DATA_DIR="d", OUTPUT="o", EVALUATE_OPTIONS=["--dtype", "bfloat16"]
    )
    assert launch("local.sh", settings, "evaluate") == (0, "table\n", "")
    assert programs.calls("flair-jax") == [
        [
            "evaluate",
            "--checkpoint",
            "a b",
            "--dataset",
            "all",
            "--data-dir",
            "d",
            "--output",
            "o",
            "--dtype",
            "bfloat16",
        ]
    ]
