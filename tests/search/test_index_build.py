"""Indexing: what is stored, what is computed again, what a kill leaves, and every message."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest
from made_pictures import draw
from numeric import assert_close

from flair_jax import normalize, preprocess
from flair_jax.errors import DatasetError, SearchIndexError
from flair_jax.models.flair import Flair
from flair_jax.scoring.scorer import Retriever
from flair_jax.search import SearchIndex, build
from flair_jax.search.manifest import Manifest
from flair_jax.search.pictures import Found, find_pictures
from flair_jax.search.shards import BROKEN


def rows(index: Path) -> dict[str, tuple[bytes, bytes]]:
    """Features and tokens by path, as another tool would read them."""
    found = {}
    for name in json.loads((index / "index.json").read_text())["shards"]:
        paths = pq.read_table(index / name / "pictures.parquet")["path"].to_pylist()
        arrays = [np.load(index / name / file, mmap_mode="r") for file in ("global.npy", "local.npy")]
        assert [len(array) for array in arrays] == [len(paths)] * 2
        found |= {path: tuple(row.tobytes() for row in group) for path, *group in zip(paths, *arrays, strict=True)}
    return found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_holds_the_models_features(make_index, drawn, tmp_path, small_model, dtype: str) -> None:
    outcome = make_index(drawn, tmp_path / "index", local_dtype=dtype)
    assert (outcome.added, outcome.kept, outcome.dropped, len(outcome.broken)) == (11, 0, 0, 3)
    index = SearchIndex.open(tmp_path / "index")
    assert index.complete
    assert len(index) == 11
    paths = [index.picture(row) for row in range(len(index))]
    assert paths == sorted(str(path) for path in drawn.glob("[ab]/[01][0-9].png"))

    model, params = small_model
    pixels = np.stack([preprocess(path, model.config.vision.image_size) for path in paths])
    features, local = jax.jit(model.encode_image)(params, normalize(pixels))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert_close(np.concatenate([block for _, block in index.blocks()]), unit)
    some = np.array([0, 3, 4, 10])
    assert_close(index.global_features(some), unit[some])
    stored = index.local_tokens(some)
    assert stored.dtype == (np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    # Half the distance of neighbours in the dtype: 11 or 8 bits of mantissa.
    bits = 11 if dtype == "float16" else 8
    assert_close(stored.astype(np.float32), np.asarray(local)[some], rtol=2.0**-bits)
    assert np.load(tmp_path / "index" / "00000" / "local.npy").dtype == (np.float16 if bits == 11 else np.uint16)


def test_second_run_computes_nothing(make_index, pictures, tmp_path, monkeypatch) -> None:
    index = tmp_path / "index"
    make_index(pictures, index)
    before = {path: path.stat().st_mtime_ns for path in index.rglob("*.npy")}
    monkeypatch.setattr(Retriever, "encode_images", lambda *_, **__: pytest.fail("computed"))
    outcome = make_index(pictures, index)
    assert (outcome.added, outcome.kept, outcome.dropped) == (0, 11, 0)
    assert len(outcome.broken) == 3, "named again"
    assert {path: path.stat().st_mtime_ns for path in index.rglob("*.npy")} == before


def test_only_what_changed_is_computed(make_index, pictures, tmp_path, monkeypatch) -> None:
    index = tmp_path / "index"
    make_index(pictures, index)
    draw(pictures / "a" / "02.png", seed=77)  # changed
    stat = (pictures / "a" / "04.png").stat()
    draw(pictures / "a" / "04.png", seed=78)
    os.utime(pictures / "a" / "04.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # one nanosecond is a change
    (pictures / "b" / "05.png").unlink()
    (pictures / "b" / "07.png").unlink()
    draw(pictures / "c" / "new.png", seed=79)
    draw(pictures / "a" / "03-broken.png", seed=80)  # mended

    computed = []
    encode = Retriever.encode_images
    monkeypatch.setattr(
        Retriever,
        "encode_images",
        lambda self, pixels, **how: (computed.append(len(pixels)), encode(self, pixels, **how))[1],
    )
    outcome = make_index(pictures, index)
    assert (outcome.added, outcome.kept, outcome.dropped, len(outcome.broken)) == (4, 7, 4, 2)
    assert sum(computed) == 4
    make_index(pictures, tmp_path / "fresh")
    assert rows(index) == rows(tmp_path / "fresh")


def test_broken_pictures_are_listed(make_index, pictures, tmp_path) -> None:
    broken = make_index(pictures, tmp_path / "index").broken
    assert "nowhere.webp: a link to nothing" in broken[0]
    assert "03-broken.png: cannot be read as a picture" in broken[1]
    assert "empty.JPG: the file is empty" in broken[2]
    assert (tmp_path / "index" / BROKEN).read_text().splitlines() == broken
    (pictures / "a" / "03-broken.png").unlink()
    (pictures / "b" / "empty.JPG").unlink()
    (pictures / "b" / "nowhere.webp").unlink()
    assert not make_index(pictures, tmp_path / "index").broken
    assert not (tmp_path / "index" / BROKEN).exists()


def test_names_that_cannot_be_used(pictures) -> None:
    bad = os.fsencode(pictures) + b"/a/\xff.png"
    with open(bad, "wb") as file:
        file.write((pictures / "a" / "00.png").read_bytes())
    found = find_pictures(pictures)
    messages = found.unusable
    assert not any("\udcff" in picture.path for picture in found.pictures)
    assert any("the file's name is not UTF-8" in message and "udcff" in message for message in messages)
    assert any("nowhere.webp: a link to nothing" in message for message in messages)


def test_what_is_no_file_or_leads_nowhere_is_listed(make_index, pictures, tmp_path, monkeypatch, request) -> None:
    """Without waiting for a pipe, and without going round in a circle."""
    folder = pictures / "odd"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "self.png").symlink_to("self.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "up").symlink_to(pictures)
    (folder / "up.png").symlink_to(pictures)
    (folder / "circle").symlink_to("circle")
    (folder / "linked.png").symlink_to(pictures / "a" / "00.png")
    shutil.copy(pictures / "a" / "00.png", folder / "a\x1b[2J\nb.jfif")
    # Deeper than Python calls itself, so that pytest cannot remove it either.
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", folder / "d"], check=True))
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
        shutil.copy(pictures / "a" / "02.png", "deep.png")
    found = find_pictures(pictures)
    assert {
        os.path.relpath(message.split(": ")[0], folder): message.split(": ")[1] for message in found.unusable[1:]
    } == {
        "device.png": "is a device, not a picture",
        "pipe.png": "is a pipe, not a picture",
        "self.png": "cannot be read (Too many levels of symbolic links)",
        "up": "a link to a folder, which is not followed",
        "up.png": "a link to a folder, which is not followed",
    }
    names = [picture.name for picture in found.pictures]
    assert "odd/a\x1b[2J\nb.jfif" in names
    assert "odd/linked.png" in names
    assert names[-1] == "odd/" + "d/" * 1100 + "deep.png"
    assert found.others == {"hidden": 2, ".txt": 1, "no ending": 1}
    assert found.unseen == {"odd/self.png"}
    outcome = make_index(pictures, tmp_path / "index")
    assert outcome.added == 14
    assert len((tmp_path / "index" / BROKEN).read_text().splitlines()) == 8


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(make_index, pictures, tmp_path, monkeypatch) -> None:
    index = tmp_path / "index"
    make_index(pictures, index)
    draw(pictures / "a" / "new.png", seed=7)
    (pictures / "a" / "00.png").unlink()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    outcome = make_index(pictures, index)
    assert (outcome.added, outcome.kept, outcome.dropped) == (1, 10, 1), "those of the folder stay"
    assert outcome.broken[0] == f"{pictures}/b: a folder that cannot be read (Permission denied)"
    monkeypatch.setattr(os, "scandir", lambda path: refuse("/b"))
    with pytest.raises(DatasetError, match="pictures: Permission denied; name a folder of pictures"):
        find_pictures(pictures)


def test_small_updates_do_not_make_small_shards(make_index, tmp_path) -> None:
    for number in range(9):
        draw(tmp_path / "pictures" / f"{number}.png", number)
        make_index(tmp_path / "pictures", tmp_path / "index")
    index = tmp_path / "index"
    sizes = [len(np.load(index / name / "global.npy")) for name in Manifest.read(index).shards]
    assert sizes == [4, 4, 1]
    assert sorted(path.name for path in index.iterdir() if path.is_dir()) == sorted(Manifest.read(index).shards)
    assert [Path(SearchIndex.open(index).picture(row)).name for row in range(9)] == [f"{n}.png" for n in range(9)]


def test_a_moved_folder_is_not_computed_again(make_index, pictures, tmp_path) -> None:
    make_index(pictures, tmp_path / "index")
    moved = pictures.rename(tmp_path / "moved")
    assert make_index(moved, tmp_path / "index").added == 0
    assert SearchIndex.open(tmp_path / "index").picture(0) == str(moved / "a" / "00.png")


@pytest.mark.parametrize("file", ["local.npy", "global.npy", "pictures.parquet"])
def test_a_damaged_shard_is_mended(make_index, pictures, tmp_path, file: str) -> None:
    index = tmp_path / "index"
    make_index(pictures, index)
    whole = rows(index)
    damaged = index / "00001" / file
    damaged.write_bytes(damaged.read_bytes()[:200])

    def read_all() -> None:
        opened = SearchIndex.open(index)
        opened.global_scores(np.ones(16, np.float32))
        opened.local_tokens(np.arange(len(opened)))

    with pytest.raises(SearchIndexError, match="00001: a shard of the index is damaged.*run `flair-jax index` again"):
        read_all()
    assert make_index(pictures, index).added == 4
    assert rows(index) == whole


# Each kills itself where it hurts; the first argument of `main` is left to the caller.
KILLS = {
    "in the middle of a shard": "import numpy as np; save = np.save\n"
    "def die(file, array):\n"
    "    save(file, array)\n"
    "    if '00001' in str(file): os.truncate(file, 100); os.kill(os.getpid(), signal.SIGKILL)\n"
    "np.save = die\n",
    "between a shard and the manifest": "from flair_jax.search.manifest import Manifest; write = Manifest.write\n"
    "def die(self, index):\n"
    "    if len(self.shards) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
    "    write(self, index)\n"
    "Manifest.write = die\n",
    "while it computes": "from flair_jax.scoring.scorer import Retriever\n"
    "encode, calls = Retriever.encode_images, []\n"
    "def die(*arguments, **how):\n"
    "    calls.append(1)\n"
    "    if len(calls) == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
    "    return encode(*arguments, **how)\n"
    "Retriever.encode_images = die\n",
}


@pytest.mark.parametrize("where", KILLS)
def test_killed_and_resumed_equals_undisturbed(make_index, drawn, small_checkpoint, tmp_path, where: str) -> None:
    """Bit for bit, to the names of the shards."""
    index = tmp_path / "index"
    arguments = ["index", drawn, "--checkpoint", small_checkpoint, "--output", index, "--batch-size", 3]
    script = (
        f"import os, signal, sys\n{KILLS[where]}"
        "from flair_jax.search import build; build.SHARD_ROWS = 4\n"
        "from flair_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    killed = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    partly = SearchIndex.open(index)
    assert not partly.complete
    assert len(partly) == 4, "what is there can be searched"
    assert partly.local_tokens(np.arange(4)).any()

    assert make_index(drawn, index).added == 7
    make_index(drawn, tmp_path / "undisturbed")
    assert Manifest.read(index) == Manifest.read(tmp_path / "undisturbed")
    assert rows(index) == rows(tmp_path / "undisturbed")
    assert {path.name for path in index.iterdir()} == {path.name for path in (tmp_path / "undisturbed").iterdir()}


def test_a_run_killed_while_it_drops_rows(make_index, pictures, tmp_path, monkeypatch) -> None:
    """The new shard counts and the old one is a leftover, or the other way round; never both, never none."""
    index = tmp_path / "index"
    make_index(pictures, index)
    (pictures / "a" / "02.png").unlink()

    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flair_jax.search.shards.shutil", SimpleNamespace(rmtree=interrupt))
        with pytest.raises(KeyboardInterrupt):
            make_index(pictures, index)
    assert len(SearchIndex.open(index)) == 10
    make_index(pictures, index)
    make_index(pictures, tmp_path / "fresh")
    assert rows(index) == rows(tmp_path / "fresh")
    assert sorted(path.name for path in index.iterdir() if path.is_dir()) == sorted(Manifest.read(index).shards)


def test_tokens_too_large_for_float16(make_index, drawn, tmp_path, small_model, monkeypatch) -> None:
    encode = Retriever.encode_images
    monkeypatch.setattr(Retriever, "encode_images", lambda *words, **how: 1e6 * encode(*words, **how))
    with pytest.raises(SearchIndexError, match="too large for float16; index with --local-dtype bfloat16"):
        make_index(drawn, tmp_path / "index")
    assert make_index(drawn, tmp_path / "other", local_dtype="bfloat16").added == 11
    monkeypatch.setattr(Retriever, "encode_images", lambda *words, **how: np.nan * encode(*words, **how))
    with pytest.raises(SearchIndexError, match="not finite"):
        make_index(drawn, tmp_path / "index")


def test_refusals(make_index, drawn, pictures, tmp_path, small_model) -> None:
    index = tmp_path / "index"
    make_index(drawn, index)
    with pytest.raises(SearchIndexError, match="is the index of another folder, .*drawn.*choose another --output"):
        make_index(pictures, index)
    with pytest.raises(SearchIndexError, match="stores float16; leave --local-dtype out"):
        make_index(drawn, index, local_dtype="bfloat16")
    model, params = small_model
    half = Flair(dataclasses.replace(model.config, dtype="bfloat16"))
    with pytest.raises(SearchIndexError, match="computed in float32, not bfloat16; go on with --dtype float32, or"):
        build.update(index, Found(), half, params, root=str(drawn), checkpoint="", settings=build.IndexSettings())
    other = {**params, "logit_bias": params["logit_bias"] + 1}
    with pytest.raises(SearchIndexError, match="was made by another checkpoint, .*checkpoint; choose another --output"):
        build.update(index, Found(), model, other, root=str(drawn), checkpoint="", settings=build.IndexSettings())
    with build._locked(index), pytest.raises(SearchIndexError, match="another run is at work on this index"):
        make_index(drawn, index)
    with pytest.raises(SearchIndexError, match="exists and is not a search index; choose another folder"):
        make_index(drawn, pictures)
    with pytest.raises(SearchIndexError, match=r"notes.txt: is a file; name a folder for the index"):
        make_index(drawn, pictures / "notes.txt")
    with pytest.raises(DatasetError, match="nowhere: No such file or directory; name a folder"):
        find_pictures(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty: no pictures in it or below; their names end in \.jpg"):
        find_pictures(tmp_path / "empty")


def test_manifests_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(SearchIndexError, match=r"no search index here \(no index.json\); `flair-jax index` makes one"):
        SearchIndex.open(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(SearchIndexError, match="index.json: is damaged .*; remove .* and index again"):
        SearchIndex.open(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 99}')
    with pytest.raises(SearchIndexError, match="has format 99, this release reads 1"):
        SearchIndex.open(tmp_path)


def test_fingerprint_is_of_the_weights(small_model) -> None:
    from flair_jax.search.fingerprint import fingerprint

    model, params = small_model
    same = fingerprint(model, params)
    half = Flair(dataclasses.replace(model.config, dtype="bfloat16"))
    assert fingerprint(half, jax.device_get(params)) == same, "how it is computed, and where it lies, does not count"
    bias = np.nextafter(np.asarray(params["logit_bias"]), np.float32(9))
    assert fingerprint(model, {**params, "logit_bias": bias}) != same
