"""The model card of an exported folder."""

from __future__ import annotations

from flair_jax.data.tokenizer import find_tokenizer
from flair_jax.models.config import FlairConfig, VisionConfig
from flair_jax.weights.origin import REPOSITORY
from flair_jax.weights.write import CONFIG, OPEN_CLIP, WEIGHTS

_RESIZED = {"shortest": "cropped", "longest": "padded", "squash": "squashed"}

_END = """\
## Training data, evaluation, licence

To be written by whoever publishes this model; the licence also belongs into the lines at the top, as `license:`.

## Citation

```bibtex
@inproceedings{xiao2025flair,
  title = {FLAIR: VLM with Fine-grained Language-informed Image Representations},
  author = {Xiao, Rui and Kim, Sanghwan and Georgescu, Mariana-Iuliana and Akata, Zeynep and Alaniz, Stephan},
  booktitle = {CVPR},
  year = {2025}
}
```
"""


def _prepared(vision: VisionConfig) -> str:
    """How pictures are prepared, in words."""
    normalised = "CLIP's mean and deviation"
    if (vision.image_mean, vision.image_std) != (VisionConfig.image_mean, VisionConfig.image_std):
        normalised = f"mean {vision.image_mean} and deviation {vision.image_std}"
    return f"{vision.interpolation}, {_RESIZED[vision.resize_mode]}, with {normalised}"


def _from_transformers(address: str) -> str:
    """Which of our functions is what in transformers."""
    return f"""For whoever knows transformers:

| transformers | flair_jax |
| --- | --- |
| `AutoModel.from_pretrained(...)` | `model, params = flair_jax.load("{address}")` |
| `AutoImageProcessor` | `images = model.normalize(flair_jax.preprocess("picture.jpg", model.config.vision)[None])` |
| `AutoTokenizer` | `tokens = flair_jax.tokenize_for(model.config.text, ["a red circle"])` |
| `model.get_image_features(...)` | `features, local = model.encode_image(params, images)` |
| `model.get_text_features(...)` | `text = model.encode_text(params, tokens)` |
| `model(...).logits_per_image` | `logits = model.logits(params, images, tokens)` |
"""


def model_card(config: FlairConfig, parameters: int, origin: dict[str, str], name: str, address: str) -> str:
    """The card: metadata of the hub, what the model is, and how to use it.

    Args:
      config: the model's.
      parameters: how many numbers it has.
      origin: where the weights come from, as the checkpoint says it.
      name: of the model.
      address: by which `flair_jax.load` finds it.
    """
    vision, text, tokenizer = config.vision, config.text, find_tokenizer(config.text.tokenizer)
    base = f"base_model: {origin[REPOSITORY]}\n" if REPOSITORY in origin else ""
    made_from = ", ".join(f"{key} `{value}`" for key, value in origin.items())
    return f"""---
library_name: flair_jax
pipeline_tag: zero-shot-image-classification
tags:
- flair
- clip
- jax
- vision-language
{base}---

# {name}

A [FLAIR](https://arxiv.org/abs/2412.03561) model: a vision-language model whose image representation depends on the
text that it is compared with. {parameters:,} parameters in float32{f"; origin: {made_from}" if made_from else ""}.

| | |
| --- | --- |
| vision tower | {vision.layers} layers of width {vision.width}, {vision.heads} heads, patch size {vision.patch_size} |
| text tower | {text.layers} layers of width {text.width}, {text.heads} heads, {text.context_length} tokens |
| shared space | {config.embed_dim} dimensions, pooling with {config.pooling_heads} heads |
| activation | {"QuickGELU, x * sigmoid(1.702 x)" if config.quick_gelu else "exact GELU"} |
| images | {vision.image_size} x {vision.image_size}, {_prepared(vision)} |
| texts | {tokenizer.description}, padded with {tokenizer.padding} |

## Use

```python
import flair_jax, jax

model, params = flair_jax.load("{address}")
images = model.normalize(flair_jax.preprocess("picture.jpg", model.config.vision)[None])
tokens = flair_jax.tokenize_for(model.config.text, ["a red circle", "a photo of a dog"])
print(jax.jit(model.logits)(params, images, tokens))
```

{_from_transformers(address)}
`{WEIGHTS}` holds the state dict under the names of the PyTorch release of FLAIR. `model_cfg` in `{OPEN_CLIP}` is
what its constructor takes, and `preprocess_cfg` says how images are prepared; `{CONFIG}` is `model_cfg` with the
weights' `source`. open_clip's own CLIP class is another model and does not take these weights.

{_END}"""
