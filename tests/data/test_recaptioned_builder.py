"""The TFDS data set built from tars through Apache Beam."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from made_tars import picture, sample, write_tar, write_tars
from PIL import Image
from test_survey import damaged

from flair_jax.cli import main
from flair_jax.data.image import open_rgb
from flair_jax.data.pipeline import SampleSettings, batches
from flair_jax.data.sources import TfdsSource
from flair_jax.data.tars import TarSource

SETTINGS = SampleSettings(seed=3, image_size=16, context_length=16, captions_per_image=2)
pytestmark = pytest.mark.beam

DIRECT = "--runner=DirectRunner"  # in this process


def take(count: int, source) -> list:
    stream = batches([source], SETTINGS, 8)
    taken = [next(stream) for _ in range(count)]
    stream.close()
    return taken


def test_the_same_samples_and_pixels_as_from_the_tars(tmp_path, capsys) -> None:
    pattern = write_tars(tmp_path / "tars", 3, 8)
    assert main(["data", "build", "cc3m", pattern, "--data-dir", str(tmp_path / "tfds"), DIRECT]) == 0
    assert "24 samples in" in capsys.readouterr().out
    built, tars = TfdsSource("recaptioned/cc3m", tmp_path / "tfds", "train"), TarSource(pattern, progress=False)
    for ours, theirs in zip(take(4, built), take(4, tars), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    assert built[5] == tars[5]
    assert f"00000.tar: {5:09}.jpg" in built.where(5)


def test_names_and_urls_that_are_not_utf8(tmp_path) -> None:
    url = b'{"url": "http://x/\\ud83d.jpg", "caption": "one"}'
    write_tar(tmp_path / "t\udcff.tar", [("k\udce9.jpg", picture(1)), ("k\udce9.json", url), ("l\udce9.json", b"{}")])
    assert main(["data", "build", "custom", f"{tmp_path}/*.tar", "--data-dir", str(tmp_path / "tfds"), DIRECT]) == 0
    built = TfdsSource("recaptioned/custom", tmp_path / "tfds", "train")
    assert built[0].url == "http://x/\\ud83d.jpg"
    assert r"t\udcff.tar: k\udce9.jpg" in built.where(0)


def test_tars_without_a_usable_sample(tmp_path, capsys) -> None:
    write_tar(tmp_path / "0.tar", [("l.json", b"{}")])
    command = ["data", "build", "custom", str(tmp_path / "0.tar"), "--data-dir", str(tmp_path / "tfds"), DIRECT]
    assert main(command) == 2
    assert "the tars hold no usable sample; `flair-jax data check` names each reason" in capsys.readouterr().err
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))


def test_samples_that_the_runner_loses(tmp_path, capsys, monkeypatch) -> None:
    """As it has done, of eight tars on a busy machine, in processes of its own."""
    import apache_beam as beam

    from flair_jax.data.build.recaptioned import Recaptioned

    split = Recaptioned._split_generators

    def lossy(self, manager, pipeline):
        return {"train": split(self, manager, pipeline)["train"] | "lose" >> beam.Filter(lambda each: each[0] != 3)}

    monkeypatch.setattr(Recaptioned, "_split_generators", lossy)
    pattern = write_tars(tmp_path / "tars", 3, 8)
    assert main(["data", "build", "custom", pattern, "--data-dir", str(tmp_path / "tfds"), DIRECT]) == 2
    lost = "lost data: 3 of 3 tars were read, with 24 samples, and 23 samples were written. Nothing is kept"
    assert lost in capsys.readouterr().err
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))


@pytest.mark.parametrize("stray", ["1.tar", "--shorter_side=48", "--runer=DirectRunner"])
def test_words_that_beam_would_discard(tmp_path, capsys, stray: str) -> None:
    """A second tar, as the shell makes of a pattern without quotes; wrong options."""
    command = ["data", "build", "custom", str(write_tar(tmp_path / "0.tar", sample(1))), "--data-dir", str(tmp_path)]
    assert main([*command, DIRECT, stray]) == 2
    assert capsys.readouterr().err.startswith(f"flair-jax: error: {stray}: neither an option of this command nor of")
    assert not (tmp_path / "recaptioned").exists()


def test_damage_is_left_out_and_counted_in_the_metadata(tmp_path, capsys) -> None:
    shard = damaged(tmp_path)
    write_tar(tmp_path / "more.tar", [*sample(70), ("000000070.cls", b"1")])
    command = ["data", "build", "custom", str(tmp_path / "*.tar"), "--data-dir", str(tmp_path / "tfds")]
    assert main([*command, DIRECT]) == 0
    printed = capsys.readouterr().out
    assert "4 samples in" in printed
    beside = TarSource(str(tmp_path / "*.tar"), progress=False).beside
    assert beside == 4
    assert re.search(rf"members beside samples, not read +{beside}\n", printed)
    metadata = json.loads((tmp_path / "tfds" / "recaptioned" / "custom" / "1.0.0" / "metadata.json").read_text())
    assert metadata["beside"] == beside
    assert metadata["left_out"] == {
        "picture is broken": 1,
        "picture is of another format": 1,
        "no picture": 1,
        "picture is too small": 1,
        "picture is too large": 1,
    }
    assert f"{shard}: lone.json: no picture" in metadata["left_out_members"]


def test_pictures_can_be_made_smaller(tmp_path) -> None:
    write_tar(
        tmp_path / "0.tar", [("k.jpg", picture(200, (96, 64))), ("k.json", b'{"caption": "one. two"}'), *sample(1)]
    )
    command = ["data", "build", "pixelprose", str(tmp_path / "0.tar"), "--data-dir", str(tmp_path / "tfds")]
    assert main([*command, "--shorter-side=48", DIRECT]) == 0
    built = TfdsSource("recaptioned/pixelprose", tmp_path / "tfds", "train")
    smaller = open_rgb(built[0].image)
    assert smaller.size == (72, 48)
    assert built[0].sentences == ["one", "two"]
    # JPEG at quality 95 of one colour: within 3 of 255.
    assert (
        abs(np.asarray(smaller, int) - np.asarray(Image.open(io.BytesIO(picture(200))).convert("RGB"))[0, 0]).max() <= 3
    )
    assert built[1].image == picture(1)


def test_a_killed_build_comes_to_the_same_data(tmp_path) -> None:
    pattern = write_tars(tmp_path / "tars", 4, 200)
    command = [sys.executable, "-m", "flair_jax.cli", "data", "build", "cc12m", pattern, "--data-dir"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([*command, str(tmp_path / "killed"), DIRECT], env=environment, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob("recaptioned/cc12m/incomplete.*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "recaptioned" / "cc12m" / "1.0.0").exists()
    for folder in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / folder), DIRECT], env=environment, check=True, capture_output=True)
    killed, whole = (TfdsSource("recaptioned/cc12m", tmp_path / folder, "train") for folder in ("killed", "whole"))
    assert len(killed) == len(whole) == 800
    assert all(killed[n] == whole[n] for n in range(0, 800, 37))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cc4m", "{tars}"], "no set cc4m; there are cc3m"),
        (["cc3m", "{tars}", "--shorter-side=-1"], "must not be negative"),
        (["cc3m", "/nowhere/0.tar"], "/nowhere/0.tar: cannot be opened"),
    ],
)
def test_bad_input(tmp_path, arguments, message: str, capsys) -> None:
    tars = write_tars(tmp_path / "tars", 1, 1)
    words = [word.replace("{tars}", tars) for word in arguments]
    assert main(["data", "build", *words, "--data-dir", str(tmp_path / "tfds"), DIRECT]) == 2
    assert message in capsys.readouterr().err
