import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flair_jax import normalize, preprocess
from flair_jax.data.image import resized_crop
from flair_jax.errors import ImageError


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "preprocess.npz"))


@pytest.mark.golden
def test_pixels_equal_the_original(golden, expected) -> None:
    names = [key.split("/")[0] for key in expected if key.count("/") == 1 and key.endswith("/pixels")]
    assert names
    for name in names:
        size = expected[f"{name}/pixels"].shape[0]
        np.testing.assert_array_equal(preprocess(golden / "images" / name, size), expected[f"{name}/pixels"], name)


@pytest.mark.golden
def test_where_the_original_fails_an_error_names_the_file(golden, expected) -> None:
    for key in expected:
        if key.endswith("/error"):
            with pytest.raises(ImageError, match=key.split("/")[0]):
                preprocess(golden / "images" / key.split("/")[0])


@pytest.mark.golden
def test_normalised_pixels_equal_the_original(expected) -> None:
    keys = [key for key in expected if key.endswith("/normalised")]
    assert keys
    for key in keys:
        ours = normalize(expected[key.replace("/normalised", "/pixels")]).transpose(2, 0, 1)
        # A few units in the last place: XLA multiplies by reciprocals of the constants.
        np.testing.assert_allclose(ours, expected[key], rtol=0, atol=1e-6)


@pytest.mark.golden
def test_crops_equal_the_original(golden, expected) -> None:
    boxes = [key for key in expected if key.endswith("/box_top_left_height_width")]
    assert boxes
    for key in boxes:
        _, name, number, _ = key.split("/")
        pixels = expected[f"crop/{name}/{number}/pixels"]
        ours = resized_crop(golden / "images" / name, tuple(expected[key].tolist()), pixels.shape[0])
        np.testing.assert_array_equal(ours, pixels, key)


def test_a_pil_image_and_its_file_give_the_same(tmp_path) -> None:
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    picture.save(tmp_path / "noise.png")
    np.testing.assert_array_equal(preprocess(picture, 32), preprocess(str(tmp_path / "noise.png"), 32))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", "the file is empty"),
        ("text.jpg", b"this is not a picture", "cannot be read as a picture"),
        ("header.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "cannot be read as a picture"),
    ],
)
def test_broken_files_are_named(tmp_path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=f"{name}: {message}"):
        preprocess(tmp_path / name)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif", "tif"])
@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_truncated_files_are_named(tmp_path, ending: str, kept: float) -> None:
    path = tmp_path / f"cut.{ending}"
    Image.effect_noise((120, 80), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ImageError, match=path.name):
        preprocess(path)


def test_a_pil_image_that_is_read_only_now_and_is_cut_off(tmp_path) -> None:
    path = tmp_path / "cut.png"
    Image.effect_noise((120, 80), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:9000])
    with Image.open(path) as lazy, pytest.raises(ImageError, match="the picture: cannot be read as a picture"):
        preprocess(lazy, 32)


@pytest.mark.parametrize("given", [np.zeros((4, 4, 3), np.uint8), io.BytesIO(b"x"), None])
def test_what_is_no_picture_at_all_is_one_sentence(given) -> None:
    with pytest.raises(ImageError) as error:
        preprocess(given, 32)
    assert f"the bytes of a file or a PIL image, not {type(given).__name__}; " in str(error.value)
    assert "PIL.Image.fromarray makes one of an array" in str(error.value)
    assert len(str(error.value)) < 200


def test_missing_file_and_folder(tmp_path) -> None:
    with pytest.raises(ImageError, match="gone.jpg: no such picture"):
        preprocess(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="cannot be read as a picture .*null"):
        preprocess("a\0.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        preprocess(tmp_path)


def test_a_strip_that_resizing_would_blow_up_is_refused(tmp_path) -> None:
    path = tmp_path / "strip.png"
    Image.new("L", (1, 60_000)).save(path)
    with pytest.raises(
        ImageError, match="strip.png: a strip of 1x60000 pixels, which resizing would blow up to 224x13440"
    ):
        preprocess(path)


def test_usable_in_grain_worker_processes(photographs) -> None:
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()
    paths = sorted(map(str, (photographs / "images" / "val2017").iterdir()))
    pictures = grain.MapDataset.source(paths).map(preprocess).to_iter_dataset()
    read = list(pictures.mp_prefetch(grain.MultiprocessingOptions(num_workers=2)))
    for path, pixels in zip(paths, read, strict=True):
        np.testing.assert_array_equal(pixels, preprocess(path))
