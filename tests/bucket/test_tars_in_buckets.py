"""Tars, their indexes and TFDS folders in buckets: what is read, by which requests, and what is said when it is not."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from made_tars import picture, sample, write_tar, write_tars
from own_bucket import Bucket, connected

from flair_jax import bucket_reads
from flair_jax.data.pipeline import SampleSettings, batches
from flair_jax.data.sources import TfdsSource
from flair_jax.data.tars import TarSource
from flair_jax.errors import DatasetError, OutageError, StorageError

pytestmark = pytest.mark.bucket
SETTINGS = SampleSettings(seed=1, image_size=16, context_length=8, captions_per_image=2)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tars(bucket: Bucket, tmp_path: Path) -> str:
    """A folder in the bucket with three tars of four samples."""
    write_tars(tmp_path / "tars", 3, 4)
    return upload(bucket, tmp_path / "tars", tmp_path.name)


def upload(bucket: Bucket, folder: Path, name: str) -> str:
    files, root = fsspec.core.url_to_fs(f"{bucket.url}/{name}")
    for file in folder.rglob("*"):
        if file.is_file():
            files.pipe_file(f"{root}/{file.relative_to(folder)}", file.read_bytes())
    files.invalidate_cache()
    return f"{bucket.url}/{name}"


def names(folder: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(folder)
    files.invalidate_cache()
    return sorted(path.removeprefix(root + "/") for path in files.find(root))


def source_of(pattern: str, **options: object) -> TarSource:
    return TarSource(pattern, processes=1, progress=False, **options)


@pytest.mark.parametrize("pattern", ["*.tar", "{00000..00002}.tar", "0000[0-2].tar"])
def test_patterns(tars: str, pattern: str) -> None:
    source = source_of(f"{tars}/{pattern}")
    assert source.shards == [f"{tars}/{number:05}.tar" for number in range(3)]
    assert [source[n].image for n in range(12)] == [picture(n) for n in range(12)]
    assert source.where(5) == f"{tars}/00001.tar: {5:09}.jpg"
    assert source_of(pattern, base=tars).shards == source.shards


def test_indexes_lie_beside_their_tars(tars: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another machine finds them, and those of a tar that has changed are made again."""
    TarSource(f"{tars}/*.tar", processes=2, progress=False)  # by workers, of whom this process hears nothing
    made = [f"0000{number}.tar{ending}" for number in range(3) for ending in ("", ".index.json", ".index.npy")]
    assert names(tars) == made
    shutil.rmtree(home)
    monkeypatch.setattr("flair_jax.data.tar_index.index_shard", lambda shard: pytest.fail("made again"))
    assert source_of(f"{tars}/*.tar")[7].image == picture(7)
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(home))
    other = write_tar(home.parent / "other.tar", [*sample(20), *sample(21)])
    files, root = fsspec.core.url_to_fs(tars)
    files.pipe_file(f"{root}/00000.tar", other.read_bytes())
    assert [source_of(f"{tars}/00000.tar")[n].image for n in range(2)] == [picture(20), picture(21)]


def test_spans_of_another_state_are_not_used(tars: str, home: Path) -> None:
    """Two machines that index a tar while it changes may leave one's array and the other's description."""
    source_of(f"{tars}/00000.tar")
    shutil.rmtree(home)
    files, root = fsspec.core.url_to_fs(tars)
    array = np.load(files.open(f"{root}/00000.tar.index.npy"))
    with files.open(f"{root}/00000.tar.index.npy", "wb") as stream:
        np.save(stream, array[::-1])
    assert [source_of(f"{tars}/00000.tar")[n].image for n in range(4)] == [picture(n) for n in range(4)]


def test_the_index_may_lie_in_another_folder(tars: str, tmp_path: Path) -> None:
    source_of(f"{tars}/*.tar", index_dir=f"{tars}/index")
    assert len(names(f"{tars}/index")) == 6
    source_of(f"{tars}/*.tar", index_dir=tmp_path / "index")
    assert len(list((tmp_path / "index").iterdir())) == 6
    assert not any(".tar.index" in name for name in names(tars))


def test_a_sample_is_one_request_of_its_own_bytes(bucket: Bucket, tars: str) -> None:
    bucket.flaky.behaviour.fail = 0.0
    with connected(bucket.flaky):
        source = source_of(f"{tars}/*.tar")
        bucket.flaky.forget()
        sizes = [len(source[number].image) for number in (5, 0, 11, 5)]
    bucket.flaky.behaviour.fail = 0.1
    assert bucket.flaky.requests == {"GET": 4}
    assert sum(sizes) < bucket.flaky.sent < sum(sizes) + 4 * 2000  # the JSON, and the header between


def digest(patterns: list[str], workers: int, count: int = 2) -> str:
    taken = hashlib.sha256()
    stream = batches([source_of(pattern) for pattern in patterns], SETTINGS, 4, workers=workers)
    for batch, _ in zip(stream, range(count), strict=False):
        taken.update(batch.pixels.tobytes() + batch.tokens.tobytes() + batch.samples.tobytes())
        assert not batch.skipped
    stream.close()
    return taken.hexdigest()


def test_batches_are_those_of_the_disk(bucket: Bucket, tars: str, tmp_path: Path) -> None:
    """In this process and in workers, which make connections of their own; and whatever the network does."""
    local = digest([str(tmp_path / "tars/*.tar")], workers=0)
    assert digest([f"{tars}/*.tar"], workers=0) == local
    with connected(bucket.flaky):
        assert digest([f"{tars}/*.tar"], workers=2) == local


def test_what_is_missing_is_named(bucket: Bucket, tars: str) -> None:
    with pytest.raises(DatasetError, match=f"{tars}/none.tar: cannot be opened .no such file"):
        source_of(f"{tars}/none.tar")
    with pytest.raises(DatasetError, match="no such tars"):
        source_of(f"{tars}/none*.tar")
    scheme = bucket.url.partition("://")[0]
    for pattern in ("a.tar", "*.tar"):
        with pytest.raises(StorageError, match=rf"{scheme}://no-bucket/.*: there is no such bucket; make"):
            source_of(f"{scheme}://no-bucket/{pattern}")
    with pytest.raises(DatasetError, match="is a folder; name its tars"):
        source_of(tars)


def test_what_is_forbidden_is_said_at_once(bucket: Bucket, tars: str) -> None:
    bucket.flaky.behaviour.answer = 403
    with connected(bucket.flaky), pytest.raises(StorageError, match="00000.tar: is forbidden to you; ask the owner"):
        source_of(f"{tars}/00000.tar")
    bucket.flaky.behaviour.answer = 0


def test_what_does_not_answer_is_asked_again(bucket: Bucket, tars: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends training with a status after which launchers start again; no sample is skipped for it."""
    source = source_of(f"{tars}/*.tar")
    waited: list[float] = []
    monkeypatch.setattr(bucket_reads.time, "sleep", waited.append)
    files, _ = bucket_reads.filesystem(f"{tars}/00000.tar")
    monkeypatch.setattr(files, "cat_file", lambda *_, **__: (_ for _ in ()).throw(ConnectionResetError("reset")))
    with pytest.raises(OutageError, match=r"does not answer \(ConnectionResetError: reset\)") as raised:
        next(batches([source], SETTINGS, 4))
    assert raised.value.status == 1
    assert set(waited) == {1, 2, 4, 8, 16, 32}


NO_CREDENTIALS = """
from flair_jax.data.tars import TarSource
from flair_jax.errors import StorageError
try:
    TarSource("s3://somebody/a.tar", progress=False)
except StorageError as error:
    print(error)
"""


def test_missing_credentials_are_named(s3: Bucket) -> None:
    environment = {name: value for name, value in s3.environment.items() if "KEY" not in name and name != "AWS_PROFILE"}
    command = [sys.executable, "-c", NO_CREDENTIALS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "s3://somebody/a.tar: there are no credentials for it; run `aws configure`" in done.stdout


def test_no_reader_of_tfds_folders_knows_s3(s3: Bucket) -> None:
    with pytest.raises(DatasetError, match=f"{s3.url}/tfds: data sets of TFDS are read from disks and from gs:// only"):
        TfdsSource("scenes/small", f"{s3.url}/tfds", "train")


TFDS = """
import sys
from flair_jax.data.sources import TfdsSource
source = TfdsSource("scenes/small", sys.argv[1], "train")
print(len(source), *(len(source[number].image) for number in (2, 0)))
"""


def test_a_tfds_folder(gcs: Bucket, tmp_path: Path) -> None:
    """Its reader is array_record's own, which knows gs:// and reads ranges."""
    from flair_jax.data.sets.scenes_builder import prepare

    prepare(tmp_path / "data", "small")
    local = TfdsSource("scenes/small", tmp_path / "data", "train")
    url = upload(gcs, tmp_path / "data", "tfds")
    command = [sys.executable, "-c", TFDS, url]
    done = subprocess.run(command, env=os.environ | gcs.environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(local)), *(str(len(local[number].image)) for number in (2, 0))]
