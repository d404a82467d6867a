"""A folder and a home in which the documents' commands find what they name: tiny data, weights and runs.

To make one more thing that commands name, write a function of its path and put it into `MAKERS` under the name that
the commands have for it; pages list what they need in `PAGES` of the tests.
"""

import shutil
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import ROOT
from labelled import random_cifar, write_binary, write_folders
from made_choices import make_fgovd, make_sugarcrepe, make_winoground
from made_grounding import make_entities, make_mdetr
from made_hub import put
from made_pictures import draw
from made_segmentation import make_voc
from made_tars import document, sample, write_tar
from made_transformers import save_dinov3, save_siglip
from made_weights import (
    make_flair,
    make_least_flair,
    make_open_clip,
    write_flair_file,
    write_long_clip,
    write_openai,
    write_release_run,
    write_several,
)
from photographs import write_photographs
from PIL import Image

from flair_jax.cli import main
from flair_jax.data.sets import scenes_builder
from flair_jax.data.sets.prompts import imagenet_names
from flair_jax.demo.recorded import MODEL
from flair_jax.demo.run import write_pictures

_SHARDS = 332  # of the documents' cc3m/{00000..00331}.tar
_HELD_OUT = 512  # scenes, in the demonstration

# The shipped recipes ask for a ViT-B/16, thousands of images a step and months: these are the same, but small.
_RECIPE = """
import runpy

def get_config():
    c = runpy.run_path({shipped!r})["get_config"]()
    c.model = "tiny"
    c.update(dtype="float32", batch_size=8, captions_per_image=2, steps=2, log_every_steps=1, compilation_cache="")
    c.loss.group_size = 1
    c.optimizer.warmup_steps = 1
    c.checkpoint.every_steps = 2
    c.data.workers = 0
    if c.data.name.startswith("recaptioned/"):
        c.data.update(name="cc3m/{{00000..00331}}.tar", epoch_samples=0)
    return c
"""

# A configuration file with a model of its own, as docs/model.md describes it.
_OWN_MODEL = """
import flax.linen as nn

from flair_jax import Flair, Pooling
from flair_jax.configs.default import get_config as get_default


class Gated(Pooling):
    width: int

    @nn.compact
    def project_texts(self, text):
        return nn.sigmoid(nn.Dense(text.shape[-1])(nn.Dense(self.width)(text)))

    def prepare_images(self, local):
        return local.mean(axis=1)

    def pool_queries(self, query, images):
        return query * images[:, None]


def get_config():
    c = get_default()
    c.update(model="tiny", dtype="float32", batch_size=8, captions_per_image=2, steps=2, compilation_cache="")
    c.loss.group_size = 1
    c.optimizer.warmup_steps = 1
    c.data.update(name="cc3m/{00000..00331}.tar", workers=0)
    c.extra.width = 8
    c.factories.model = lambda settings: Flair(settings.model_config(), pooling=Gated(settings.extra["width"]))
    return c
"""


class World:
    """A home and a folder in it that looks like a checkout, with what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder / "home", folder / "home" / "flair_jax"
        self.folder.mkdir(parents=True)
        for name in ("constraints.txt", "constraints-app.txt", "pyproject.toml", "Makefile", "benchmarks", "tests"):
            (self.folder / name).symlink_to(ROOT / name)
        for name in ("launch", "examples", "docs"):
            (self.folder / name).symlink_to(ROOT / name)
        (self.folder / "configs").mkdir()
        for shipped in sorted((ROOT / "configs").glob("[!_]*.py")):
            (self.folder / "configs" / shipped.name).write_text(_RECIPE.format(shipped=str(shipped)))
        (self.folder / "cc3m_recap").symlink_to("configs/cc3m_recap.py")  # a file goes before what is shipped

    def make(self, *names: str) -> None:
        """Makes what is not there yet."""
        for name in names:
            path = self.path(name)
            if name.startswith("hf://"):
                MAKERS[name](path)
            elif not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                MAKERS[name](path)

    def path(self, name: str) -> Path:
        name = name.partition(",")[0]
        return self.home / name[2:] if name.startswith("~/") else self.folder / name


_made: dict[str, Path] = {}  # what several worlds share, by the maker's name
shared = tempfile.TemporaryDirectory(prefix="made-world-")


def _once(maker: Callable[[Path], None]) -> Callable[[Path], None]:
    """Of a maker that is slow: makes it once, and copies or links it."""

    def copy(path: Path) -> None:
        name = maker.__name__
        if name not in _made:
            maker(Path(shared.name) / name)
            _made[name] = Path(shared.name) / name
        if _made[name].is_dir():
            shutil.copytree(_made[name], path, copy_function=_link)
        else:
            shutil.copy(_made[name], path)

    return copy


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _draw(data: Path, test: int) -> list[scenes_builder.LabelledScene]:
    """Draws the demonstration's data, with few scenes to train on and so many that are held out; returns these."""
    shipped, full = scenes_builder.Scenes, scenes_builder.ScenesConfig(name="full", train=64, validation=16, test=test)
    # Another class, since TFDS remembers what configurations a class has.
    named = {"BUILDER_CONFIGS": [full], "__module__": shipped.__module__}
    few = types.new_class("Scenes", (shipped,), {"skip_registration": True}, lambda body: body.update(named))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes_builder, "Scenes", few)
        scenes_builder.prepare(data)
        return scenes_builder.read(data, "test")


@_once
def _demo(path: Path) -> None:
    """What `flair-jax demo` leaves, but for its run and report, with few of its scenes, those of the documents too."""
    scenes = _draw(path / "all", _HELD_OUT)
    shutil.rmtree(path / "all")
    _draw(path / "data", 16)
    write_pictures(path / "held-out", scenes[:48])
    for number in (392,):
        Image.fromarray(scenes[number].pixels).save(path / "held-out" / f"{number:04}.png")
    shutil.copytree(MODEL, path / "model")


def _whole_demo(path: Path) -> None:
    _demo(path)
    shutil.rmtree(path / "data")
    _draw(path / "data", _HELD_OUT)


@_once
def _imagenet(path: Path) -> None:
    write_folders(path / "val", imagenet_names(), each=1, suffix=".JPEG")


def _tars(path: Path) -> None:
    for shard in range(_SHARDS):
        write_tar(path / f"{shard:05}.tar", sample(shard))


def _captions(path: Path) -> None:
    rows = [document(number) for number in range(_SHARDS)]
    lines = [f'{row["url"]},"{row["raw_caption"]}","{row["shortIB_captions"][0]}"' for row in rows]
    path.write_text("\n".join(["Image Path,raw_caption,shortIB_captions", *lines]) + "\n")


def _coco(path: Path) -> None:
    write_photographs(path)
    make_sugarcrepe(path)
    make_fgovd(path)
    make_mdetr(path)


def _pictures(path: Path) -> None:
    for number in range(3):
        draw(path / f"{number}.jpg", number)


def _demo_run(path: Path) -> None:
    assert not main(["train", "--config=configs/demo.py", "--config.data.dir=demo/data", f"--workdir={path}"])


def _hub(name: str, file: str, maker: Callable[[Path], None]) -> Callable[[Path], None]:
    """Puts into the made hub what a maker makes: a file, or all of a folder."""

    def upload(path: Path) -> None:
        path = Path(shared.name) / name.replace("/", "--") / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            maker(path)
        files = [path] if file else sorted(path.iterdir())
        put(name, {each.name: each.read_bytes() for each in files})

    return upload


MAKERS: dict[str, Callable[[Path], None]] = {
    "checkpoints/cc3m": _once(make_flair),
    "checkpoints/merged30m": _once(make_least_flair),
    "demo": _demo,
    "demo, all its scenes": _whole_demo,
    "cc3m": _tars,
    "~/tensorflow_datasets/cc3m": _tars,
    "old": _tars,
    "cc3m_recaption.csv": _captions,
    "ViT-B-16.pt": write_openai,
    "longclip-B.pt": write_long_clip,
    "flair-merged30m.pt": write_flair_file,
    "run.pt": write_several,
    "runs/demo": _demo_run,
    "logs/cc3m/checkpoints/epoch_12.pt": write_release_run,
    "mine.py": lambda path: path.write_text(_OWN_MODEL) and None,
    "picture.jpg": lambda path: draw(path, 5),
    "kettle.jpg": lambda path: draw(path, 4),
    "captions.txt": lambda path: path.write_text("a red kettle\na blue cup\n") and None,
    "coco": write_photographs,
    "~/coco": _coco,
    "~/datasets/coco": write_photographs,
    "~/winoground": make_winoground,
    "~/flickr30k_entities": make_entities,
    "~/imagenet": _imagenet,
    "~/cifar": lambda path: write_binary(path / "cifar-10-batches-bin" / "test_batch.bin", *random_cifar(5, 10)),
    "~/pets": lambda path: write_folders(path, ("beagle", "sphynx"), each=2),
    "~/data": lambda path: make_voc(path / "VOCdevkit" / "VOC2012", [0, 1, 2, 255]),
    "~/pictures": _pictures,
    "hf://xiaorui638/flair": _hub("xiaorui638/flair", "flair-cc3m-recap.pt", write_flair_file),
    "hf://laion": _hub("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "", make_open_clip),
    "hf://google": _hub("google/siglip2-base-patch16-224", "", save_siglip),
    "hf://facebook": _hub("facebook/dinov3-vitb16-pretrain-lvd1689m", "", save_dinov3),
}
