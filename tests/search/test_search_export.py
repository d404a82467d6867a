"""Features as files: what other tools read, resuming, and messages."""

import dataclasses

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath
from numeric import assert_close

from flair_jax import normalize, preprocess, tokenize
from flair_jax.errors import DatasetError, FlairError
from flair_jax.models.flair import Flair
from flair_jax.scoring.scorer import Retriever
from flair_jax.search import export
from flair_jax.search.build import IndexSettings


@pytest.fixture(autouse=True)
def _one_retriever(monkeypatch, retriever) -> None:
    monkeypatch.setattr(export, "Retriever", lambda model, params: retriever)


@pytest.fixture(scope="module")
def expected(small_model, drawn) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    model, params = small_model
    paths = sorted(map(str, drawn.glob("[ab]/[01][0-9].png")))
    pixels = np.stack([preprocess(path, model.config.vision.image_size) for path in paths])
    features, local = jax.jit(model.encode_image)(params, normalize(pixels))
    return {path: (np.asarray(features[row]), np.asarray(local[row])) for row, path in enumerate(paths)}


@pytest.mark.parametrize("local", [False, True])
def test_pictures(small_model, drawn, tmp_path, expected, local: bool) -> None:
    """A folder and a picture that is also in it; broken ones are left out and named."""
    sources = [str(drawn / "b" / "03.png"), str(drawn)]
    for file in (tmp_path / "out.npz", tmp_path / "out.parquet"):
        outcome = export.embed_pictures(sources, file, *small_model, IndexSettings(batch_size=4, with_local=local))
        assert outcome.added == 11
        assert outcome.repeated == 1
        assert sum("cannot be read" in message or "is empty" in message for message in outcome.broken) == 2
        assert len(outcome.broken) == 3, "and a link to nothing"
    assert {path.name for path in tmp_path.iterdir()} == {"out.npz", "out.parquet"}

    arrays = np.load(tmp_path / "out.npz")
    assert set(arrays) == ({"paths", "global", "local"} if local else {"paths", "global"})
    paths = arrays["paths"].tolist()
    assert paths[0] == sources[0], "in the order that was given"
    assert sorted(paths) == sorted(expected)
    assert arrays["global"].dtype == np.float32
    assert_close(arrays["global"], [expected[path][0] for path in paths])

    parquet = tmp_path / "out.parquet"
    table = pq.read_table(parquet)
    assert table["path"].to_pylist() == paths
    np.testing.assert_array_equal(np.array(table["global"].to_pylist(), np.float32), arrays["global"])
    assert table.column_names == (["path", "global", "local"] if local else ["path", "global"])
    if local:
        assert arrays["local"].dtype == np.float16
        assert_close(arrays["local"], [expected[path][1] for path in paths], rtol=2.0**-11)
        shape = [int(n) for n in table.schema.field("local").metadata[b"shape"].split(b",")]
        flat = table["local"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        np.testing.assert_array_equal(flat.reshape(-1, *shape), arrays["local"])


def test_texts(small_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "_TEXTS_PER_BLOCK", 3)
    texts = ["a dog", "a red kettle on a gas stove, with steam at its spout", "ein Käse", "a dog", "x"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    model, params = small_model
    features = np.asarray(jax.jit(model.encode_text)(params, tokenize(texts)))
    for ending in ("npz", "parquet"):
        assert export.embed_lines(tmp_path / "texts.txt", tmp_path / f"out.{ending}", model, params, 2).texts == 5
    arrays = np.load(tmp_path / "out.npz")
    assert arrays["texts"].tolist() == texts
    assert_close(arrays["global"], features)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["text"].to_pylist() == texts
    np.testing.assert_array_equal(np.array(table["global"].to_pylist(), np.float32), arrays["global"])
    assert {path.name for path in tmp_path.iterdir()} == {"texts.txt", "out.npz", "out.parquet"}


@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_goes_on_where_it_was(small_model, drawn, tmp_path, monkeypatch, kind: str) -> None:
    """Stopped in the middle, started again: no block is computed twice, and nothing is left over."""
    monkeypatch.setattr(export, "_TEXTS_PER_BLOCK", 4)
    (tmp_path / "texts.txt").write_text("\n".join(f"text {n}" for n in range(11)))
    output, method = tmp_path / "out.npz", {"pictures": "encode_images", "texts": "encode_texts"}[kind]

    def embed() -> None:
        if kind == "pictures":
            export.embed_pictures([str(drawn)], output, *small_model, IndexSettings(batch_size=4))
        else:
            export.embed_lines(tmp_path / "texts.txt", output, *small_model, 4)

    encode, calls = getattr(Retriever, method), []

    def counted(*words, **how) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(*words, **how)

    monkeypatch.setattr(Retriever, method, counted)
    with pytest.raises(KeyboardInterrupt):
        embed()
    assert not output.exists()
    embed()
    assert len(calls) == 2 + 2, "three blocks, one of which was done and one tried in vain"
    assert len(np.load(output)["global"]) == 11
    assert {path.name for path in tmp_path.iterdir()} == {"texts.txt", "out.npz"}


def test_what_was_computed_in_another_dtype_is_not_taken(small_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "_TEXTS_PER_BLOCK", 4)
    (tmp_path / "texts.txt").write_text("\n".join(f"text {n}" for n in range(11)))
    output, (model, params) = tmp_path / "out.npz", small_model
    encode, calls = Retriever.encode_texts, []

    def counted(*words, **how) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(*words, **how)

    monkeypatch.setattr(Retriever, "encode_texts", counted)
    half = Flair(dataclasses.replace(model.config, dtype="bfloat16"))
    with pytest.raises(KeyboardInterrupt):
        export.embed_lines(tmp_path / "texts.txt", output, half, params, 4)
    export.embed_lines(tmp_path / "texts.txt", output, model, params, 4)
    assert len(calls) == 2 + 3, "all three blocks, the first anew"


def test_lines_end_where_editors_end_them(small_model, tmp_path) -> None:
    texts = ["a dog\x0cwith a ball", "two\u2028lines\x85or one", "c"]
    (tmp_path / "texts.txt").write_bytes("\r\n".join(texts).encode())
    assert export.embed_lines(tmp_path / "texts.txt", tmp_path / "out.npz", *small_model, 4).texts == 3
    assert np.load(tmp_path / "out.npz")["texts"].tolist() == texts


def test_texts_that_npz_would_blow_up_are_refused_before_the_work(small_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "_MOST_NAMES", 4 * 3 * 50)
    (tmp_path / "texts.txt").write_text(f"a\n{'b' * 51}\nc\n")
    with pytest.raises(FlairError, match=r"the longest of 3 texts or paths has 51 letters.* ends in \.parquet"):
        export.embed_lines(tmp_path / "texts.txt", tmp_path / "out.npz", *small_model, 4)
    assert export.embed_lines(tmp_path / "texts.txt", tmp_path / "out.parquet", *small_model, 4).texts == 3


def test_messages(small_model, drawn, tmp_path) -> None:
    model, params = small_model
    with pytest.raises(FlairError, match=r"--output .*out.csv: name a file that ends in .npz or .parquet"):
        export.embed_pictures([str(drawn)], tmp_path / "out.csv", model, params, IndexSettings())
    with pytest.raises(FlairError, match=r"--output s3://bucket/x.npz: features are written to a disk; copy"):
        export.writer_of(epath.Path("s3://bucket/x.npz"))
    (tmp_path / "x.npz").mkdir()
    with pytest.raises(FlairError, match=r"--output .*x.npz: is a folder; name a file"):
        export.writer_of(tmp_path / "x.npz")
    with pytest.raises(DatasetError, match="nowhere: no such picture or folder"):
        export.embed_pictures([str(tmp_path / "nowhere")], tmp_path / "out.npz", model, params, IndexSettings())
    broken = str(drawn / "a" / "03-broken.png")
    with pytest.raises(DatasetError, match="none of 1 pictures can be read:\n  .*03-broken.png"):
        export.embed_pictures([broken], tmp_path / "out.npz", model, params, IndexSettings())
    texts = tmp_path / "texts.txt"
    for content, message in (
        (b"", "is empty; write one text a line"),
        (b"one\n\nthree\n", "line 2 is empty; each line is a text"),
        (b"\xff\xfe", "cannot be read as text in UTF-8"),
    ):
        texts.write_bytes(content)
        with pytest.raises(DatasetError, match=f"texts.txt: {message}"):
            export.embed_lines(texts, tmp_path / "out.npz", model, params, 4)
