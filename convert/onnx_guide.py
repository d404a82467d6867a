"""The README.md of an ONNX export."""

from __future__ import annotations

import json

from flair_jax.models.config import FlairConfig

GUIDE, TOKENIZER = "README.md", "tokenizer.json"

# How a picture becomes a square of S pixels a side, by the model's resize mode; see `flair_jax.data.placement`.
_SQUARE = {
    "shortest": """\
    long = int(side * max(picture.size) / min(picture.size))
    size = (side, long) if picture.width <= picture.height else (long, side)
    left, top = (round((each - side) / 2) for each in size)
    picture = picture.resize(size, resampling).crop((left, top, left + side, top + side))""",
    "longest": """\
    ratio = max(picture.size) / side
    picture = picture.resize([max(1, round(each / ratio)) for each in picture.size], resampling)
    square = Image.new("RGB", (side, side), (how["fill_color"],) * 3)
    square.paste(picture, [(side - each) // 2 for each in picture.size])
    picture = square""",
    "squash": "    picture = picture.resize((side, side), resampling)",
}


def guide(name: str, config: FlairConfig) -> str:
    """The README of a folder of this name: what is in it, and code that scores pictures with it.

    Args:
      name: of the folder.
      config: the model's.
    """
    return f"""# {name}

A [FLAIR](https://arxiv.org/abs/2412.03561) model as ONNX, written by flair_jax. `description.json` says what each file
takes and gives, how pictures are prepared and what wrote it; the metadata of each file has the same.

| file | takes | gives |
| --- | --- | --- |
| `encode_image.onnx` | `images` [B, S, S, 3] | `global` [B, D] and `local` [B, L, D] |
| `encode_text.onnx` | `tokens` [N, T], int32 | `text` [N, D] |
| `pool.onnx` | `local`, `text` | `logits` [B, N], `pooled` [B, N, D] and attention `weights` [B, heads, N, L + 1] |

B and N are free. `weights` are those of each patch, row by row, and of the empty slot; a pooling without attention has
none. Features are not normalised. With `pip install numpy onnxruntime pillow tokenizers`:

```python
{code(config).replace('"cc3m.onnx"', json.dumps(name, ensure_ascii=False))}```
"""


def code(config: FlairConfig) -> str:
    """Scores a picture with two texts, without JAX or flair_jax."""
    return f"""\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

folder = Path("cc3m.onnx")
how = json.loads((folder / "description.json").read_text())["preprocessing"]
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))


def prepare(file):
    picture, side = Image.open(file).convert("RGB"), how["size"]
    resampling = Image.Resampling[how["interpolation"].upper()]
{_SQUARE[config.vision.resize_mode]}
    return ((np.asarray(picture) / 255 - how["mean"]) / how["std"]).astype(np.float32)


def run(name, **arrays):
    return onnxruntime.InferenceSession(folder / f"{{name}}.onnx").run(None, arrays)


texts = ["a red circle", "a photo of a dog"]
tokens = np.array([each.ids for each in tokenizer.encode_batch(texts)], np.int32)
_, local = run("encode_image", images=prepare("picture.jpg")[None])
[text] = run("encode_text", tokens=tokens)
logits, *_ = run("pool", local=local, text=text)
print(logits)  # [1, 2]; higher is nearer
"""
