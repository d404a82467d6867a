"""Training from tars: the index, reading, and damage of every kind."""

import concurrent.futures
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
from pathlib import Path

import fsspec
import numpy as np
import pytest
from made_tars import document, picture, sample, write_tar, write_tars
from PIL import Image

from flair_jax.data import tar_index
from flair_jax.data.pipeline import SampleSettings, batches
from flair_jax.data.sets.training import open_set
from flair_jax.data.shards import expand_shards
from flair_jax.data.tar_index import index_shard
from flair_jax.data.tars import TarSource
from flair_jax.errors import DatasetError, StorageError
from flair_jax.settings import DataSettings

SETS = DataSettings("", "", "train", "", (), 0, 0, 3, (0.9, 1.0))
SETTINGS = SampleSettings(seed=3, image_size=16, context_length=16, captions_per_image=2)


def source_of(pattern, **options) -> TarSource:
    return TarSource(str(pattern), processes=1, progress=False, **options)


def test_patterns(tmp_path) -> None:
    assert expand_shards("a/{000..002}.tar::b/{x,y}.tar", "/base") == [
        *("/base/a/000.tar", "/base/a/001.tar", "/base/a/002.tar"),
        *("/base/b/x.tar", "/base/b/y.tar"),
    ]
    assert expand_shards("gs://bucket/{0..1}.tar", "/base") == ["gs://bucket/0.tar", "gs://bucket/1.tar"]
    write_tars(tmp_path, 2, 1)
    assert expand_shards("*.tar", tmp_path) == [str(tmp_path / "00000.tar"), str(tmp_path / "00001.tar")]
    with pytest.raises(DatasetError, match="unbalanced braces"):
        expand_shards("{0..2.tar")
    with pytest.raises(DatasetError, match="no such tars"):
        expand_shards("nothing-*.tar", tmp_path)
    with pytest.raises(StorageError, match="Protocol not known: nowhere"):
        expand_shards("nowhere://*.tar")


def test_names_with_wildcards_are_meant_where_they_exist(tmp_path) -> None:
    for folder in ("br[1]", "br1", ".hidden"):
        for name in ("0.tar", "1.tar", "x[2].tar", "._0.tar"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).touch()

    def found(pattern: str, base: str = "") -> list[str]:
        return [shard.removeprefix(f"{tmp_path}/") for shard in expand_shards(pattern, tmp_path / base)]

    assert found("{0..1}.tar", "br[1]") == ["br[1]/0.tar", "br[1]/1.tar"]
    assert found("?.tar", "br[1]") == ["br[1]/0.tar", "br[1]/1.tar"]
    assert found("br[1]/*.tar") == ["br[1]/0.tar", "br[1]/1.tar", "br[1]/x[2].tar"]
    assert found("br[1]/x[2].tar") == ["br[1]/x[2].tar"]
    assert found("br[!x]/[01].tar") == ["br1/0.tar", "br1/1.tar"]
    assert found("*/0.tar") == ["br1/0.tar", "br[1]/0.tar"]
    assert found(".hidden/*.tar") == [".hidden/0.tar", ".hidden/1.tar", ".hidden/x[2].tar"]


def test_samples_come_in_the_order_of_the_tars(tmp_path) -> None:
    source = source_of(write_tars(tmp_path, 3, 4))
    assert len(source) == 12
    for number in range(12):
        record = source[number]
        assert record.image == picture(number)
        assert record.url == document(number)["url"]
        assert record.sentences == [
            f"Picture {number}",
            "It is red",
            "a red picture",
            "There is nothing but red",
            f"Number {number} is written nowhere",
        ]
    assert source.where(5) == f"{tmp_path / '00001.tar'}: {5:09}.jpg"
    with pytest.raises(IndexError):
        source[12]


def test_several_sets_and_relative_paths(tmp_path) -> None:
    write_tars(tmp_path / "a", 1, 2)
    write_tars(tmp_path / "b", 2, 3)
    assert len(source_of("a/00000.tar::b/{00000..00001}.tar", base=tmp_path)) == 8


def test_a_relative_path_leads_elsewhere_from_another_folder(tmp_path, monkeypatch) -> None:
    for number, folder in enumerate(("a", "b")):
        write_tar(tmp_path / folder / "x.tar", sample(number))
        monkeypatch.chdir(tmp_path / folder)
        assert source_of("x.tar")[0].sentences == source_of(str(tmp_path / folder / "x.tar"))[0].sentences
    assert sample(0) != sample(1)


def test_the_index_is_kept_until_the_tar_changes(tmp_path, monkeypatch) -> None:
    pattern = write_tars(tmp_path, 2, 2)
    source_of(pattern)
    monkeypatch.setattr(tar_index, "index_shard", lambda shard: pytest.fail("made again"))
    assert len(source_of(pattern)) == 4


def test_a_changed_tar_is_indexed_again(tmp_path) -> None:
    pattern = write_tars(tmp_path, 1, 2)
    assert len(source_of(pattern)) == 2
    write_tars(tmp_path, 1, 5)
    assert len(source_of(pattern)) == 5


def test_an_index_that_was_cut_off_is_made_again(tmp_path) -> None:
    pattern = write_tars(tmp_path, 2, 3)
    source_of(pattern)
    spans = tmp_path / "00001.tar.index.npy"
    spans.write_bytes(spans.read_bytes()[:100])
    (tmp_path / "00000.tar.index.json").write_text("{")
    assert len(source_of(pattern)) == 6


def test_the_index_may_lie_elsewhere(tmp_path) -> None:
    write_tars(tmp_path / "a", 1, 2)
    write_tars(tmp_path / "b", 1, 3)
    source = source_of("{a,b}/00000.tar", base=tmp_path, index_dir=tmp_path / "index")
    assert len(source) == 5
    assert len(list((tmp_path / "index").iterdir())) == 4
    assert not list((tmp_path / "a").glob("*.index.*"))


def test_where_nothing_may_be_written_indexes_go_to_the_cache_with_a_warning(tmp_path, monkeypatch, caplog) -> None:
    """One for a folder, when they are made; and an index that somebody else has put there is read."""
    write_tars(tmp_path / "a", 3, 2)
    write_tars(tmp_path / "b", 1, 3)
    source_of("b/*.tar", base=tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda folder, _: tmp_path / "home" in Path(folder).parents)
    for _ in range(2):
        assert len(source_of("{a,b}/*.tar", base=tmp_path)) == 9
    (message,) = caplog.messages
    assert message.startswith(
        f"{tmp_path}/a: may not be written, so the indexes of its tars go to ~/.cache/flair_jax/tars; ask for the"
    )
    assert len(list((tmp_path / "home" / ".cache" / "flair_jax" / "tars").glob("*.index.json"))) == 3
    assert not list((tmp_path / "a").glob("*.index.*"))


def test_processes_make_the_same_index(tmp_path) -> None:
    pattern = write_tars(tmp_path, 4, 2)
    source = TarSource(pattern, index_dir=tmp_path / "one", processes=2, progress=False)
    assert [source[n].image for n in range(8)] == [picture(n) for n in range(8)]


def test_other_file_systems(tmp_path) -> None:
    """Through fsspec, as for gs://."""
    write_tars(tmp_path, 2, 3)
    memory = fsspec.filesystem("memory")
    for name in ("00000.tar", "00001.tar"):
        memory.pipe(f"/tars/{name}", (tmp_path / name).read_bytes())
    source = source_of("memory://tars/{00000..00001}.tar", index_dir=tmp_path / "index")
    assert [source[n].image for n in range(6)] == [picture(n) for n in range(6)]
    assert source.where(4) == f"memory://tars/00001.tar: {4:09}.jpg"


def test_a_source_can_be_sent_to_a_worker(tmp_path) -> None:
    source = source_of(write_tars(tmp_path, 1, 2))
    source[0]
    assert pickle.loads(pickle.dumps(source))[1].image == picture(1)


def test_missing_tar(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"nothing\.tar: cannot be opened \(No such file"):
        source_of(tmp_path / "nothing.tar")
    with pytest.raises(StorageError, match="Protocol not known: nowhere"):
        source_of("nowhere://a.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "folder.tar").mkdir()
    for name, reason in (("pipe", "is not a file"), ("folder", r"is a folder; name its tars, as in FOLDER/\*\.tar")):
        with pytest.raises(DatasetError, match=f"{name}.tar: {reason}"):
            source_of(tmp_path / f"{name}.tar")


DAMAGE = {
    "no picture": [("k.json", b'{"caption": "a"}')],
    "no json": [("k.jpg", picture(1))],
    "json is empty": [("k.json", b""), ("k.jpg", picture(1))],
    "not JSON": [("k.json", b'{"caption": '), ("k.jpg", picture(1))],
    "JSON is not an object": [("k.json", b"[1]"), ("k.jpg", picture(1))],
    "no caption": [("k.json", b'{"caption": " "}'), ("k.jpg", picture(1))],
    "caption is neither a text nor a list of texts": [("k.json", b'{"caption": 3}'), ("k.jpg", picture(1))],
    "raw_caption is neither a text nor a list of texts": [
        ("k.json", b'{"raw_caption": ["a", null]}'),
        ("k.jpg", picture(1)),
    ],
    "picture is empty": [("k.json", b'{"caption": "a"}'), ("k.jpg", b"")],
    "path leads out of the folder": [("../k.json", b'{"caption": "a"}'), ("../k.jpg", picture(1))],
    "a caption has half a surrogate pair": [("k.json", b'{"caption": "a\\ud83d"}'), ("k.jpg", picture(1))],
    "a caption has a NUL": [("k.json", b'{"caption": "a\\u0000"}'), ("k.jpg", picture(1))],
    "a second picture of that name": [("k.jpg", picture(1)), ("k.png", picture(1)), ("k.json", b'{"caption": "a"}')],
}


@pytest.mark.parametrize(("reason", "members"), DAMAGE.items(), ids=DAMAGE)
def test_damage_is_left_out_and_named(tmp_path, reason: str, members) -> None:
    shard = write_tar(tmp_path / "0.tar", [*sample(0), *members, *sample(2)])
    before = sorted(path.name for path in tmp_path.parent.iterdir())
    source = source_of(shard)
    assert {harm.reason for harm in source.damage} == {reason}
    assert all(harm.file == str(shard) and "k." in harm.place for harm in source.damage)
    usable = [source[n].image for n in range(len(source))]
    assert usable[0] == picture(0)
    assert usable[-1] == picture(2)
    assert len(usable) == (3 if reason.startswith("a second") else 2)
    assert sorted(path.name for path in tmp_path.parent.iterdir()) == before


@pytest.mark.parametrize(("kind", "most"), [("json", 2**24), ("jpg", 2**28)])
def test_members_too_large_are_never_read(tmp_path, kind: str, most: int) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar, tempfile.TemporaryFile() as hole:
        hole.truncate(most + 1)
        for suffix, data in {"json": b'{"caption": "a"}', "jpg": picture(1)}.items():
            member = tarfile.TarInfo(f"k.{suffix}")
            member.size = most + 1 if suffix == kind else len(data)
            tar.addfile(member, hole if suffix == kind else io.BytesIO(data))
    tracemalloc.start()
    index = index_shard(str(tmp_path / "0.tar"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (harm,) = index.damage
    assert str(harm) == f"{tmp_path / '0.tar'}: k.{kind}: {'picture' if kind == 'jpg' else kind} is too large"
    assert peak < 2**21  # the buffers of files


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.55])  # 0.55 is between two members; what follows 0.7 is empty
def test_a_truncated_tar_gives_what_is_whole(tmp_path, cut: float) -> None:
    write_tars(tmp_path, 1, 6)
    shard = tmp_path / "00000.tar"
    whole = source_of(shard)
    images = [whole[n].image for n in range(6)]
    shard.write_bytes(shard.read_bytes()[: int(shard.stat().st_size * cut)])
    source = source_of(shard)
    assert 0 < len(source) < 6
    assert [source[n].image for n in range(len(source))] == images[: len(source)]
    assert source.damage


def test_training_needs_a_usable_sample(tmp_path, caplog) -> None:
    shard = write_tar(tmp_path / "0.tar", [("k.json", b"{}"), ("l.jpg", picture(0)), ("l.txt", b"a caption")])
    with pytest.raises(DatasetError) as error:
        open_set(str(shard), SETS)
    assert str(error.value) == (
        f"{shard}: no usable sample (no picture: 1; no json: 1); `flair-jax data check` names each"
    )
    write_tar(tmp_path / "0.tar", [("k.json", b"{}"), *sample(1)])
    assert len(open_set(str(shard), SETS)) == 1
    assert "0.tar: left out: 1 member or tar; " in caplog.text


def broken_pictures() -> dict[str, bytes]:
    tiny, bomb = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (1, 1)).save(tiny, "png")
    Image.new("1", (30_000, 30_000)).save(bomb, "png")
    return {"garbage": b"garbage" * 99, "cut": picture(1)[:300], "1x1": tiny.getvalue(), "bomb": bomb.getvalue()}


def test_broken_pictures_are_replaced_and_counted(tmp_path, caplog) -> None:
    members = sample(0)
    for name, data in broken_pictures().items():
        members += [(f"{name}.png", data), (f"{name}.json", json.dumps(document(1)).encode())]
    source = source_of(write_tar(tmp_path / "0.tar", members + sample(9)))
    assert len(source) == 6
    stream = batches([source], SETTINGS, 6)
    batch = next(stream)
    stream.close()
    assert batch.skipped == 4
    assert set(batch.samples) == {0, 5}
    for name in broken_pictures():
        assert f"{tmp_path / '0.tar'}: {name}.png" in caplog.text


def take(count: int, source, **options) -> list:
    stream = batches([source], SETTINGS, 8, **options)
    taken = [next(stream) for _ in range(count)]
    stream.close()
    return taken


def test_resuming_and_hosts_keep_the_order(tmp_path) -> None:
    source = source_of(write_tars(tmp_path, 4, 8))
    whole = take(4, source)
    assert sorted(np.concatenate([batch.samples for batch in whole])) == list(range(32))
    for before, after in zip(whole[2:], take(2, source, first=2), strict=True):
        np.testing.assert_array_equal(before.pixels, after.pixels)
        np.testing.assert_array_equal(before.tokens, after.tokens)
    for processes in (2, 4):
        parts = [take(4, source, process=process, processes=processes) for process in range(processes)]
        for step, batch in enumerate(whole):
            joined = np.concatenate([part[step].samples for part in parts])
            np.testing.assert_array_equal(joined, batch.samples)


def numbers_of_process(pattern: str, process: int, processes: int) -> list[int]:
    return [
        int(number)
        for batch in take(4, source_of(pattern), process=process, processes=processes)
        for number in batch.samples
    ]


def check_disjoint(numbers: list[list[int]]) -> None:
    assert [len(part) for part in numbers] == [32 // len(numbers)] * len(numbers)
    assert sorted(number for part in numbers for number in part) == list(range(32))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_hosts_see_disjoint_parts_of_the_epoch(tmp_path, processes: int) -> None:
    pattern = write_tars(tmp_path, 4, 8)
    check_disjoint([numbers_of_process(pattern, process, processes) for process in range(processes)])


def test_processes_see_disjoint_parts_of_the_epoch(tmp_path) -> None:
    """Which make the index at the same time."""
    pattern = write_tars(tmp_path, 4, 8)
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        check_disjoint(list(pool.map(numbers_of_process, [pattern] * 2, range(2), [2] * 2)))


def test_an_index_that_was_killed_goes_on_where_it_was(tmp_path) -> None:
    pattern = write_tars(tmp_path, 200, 10)
    command = [sys.executable, "-m", "flair_jax.cli", "data", "index", pattern, "--processes", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(made := list(tmp_path.glob("*.index.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.index.json")}
    assert len(made) < 200
    whole = TarSource(pattern, progress=False)
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    assert len(whole) == 2000
    assert not whole.damage
    assert len(list(tmp_path.glob("*.index.json"))) == 200


def test_worker_processes_read_the_same(tmp_path) -> None:
    source = source_of(write_tars(tmp_path, 2, 8))
    for alone, batch in zip(take(3, source), take(3, source, workers=2), strict=True):
        np.testing.assert_array_equal(alone.samples, batch.samples)
        np.testing.assert_array_equal(alone.pixels, batch.pixels)
