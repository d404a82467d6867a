"""SigLIP and DINOv3 as transformers saves them, small and random, with what is beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

WORDS = ["a red ring", "a blue square above a red ring", "Greek ΣΑΣ, and a CAT"]
_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PREPARED = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 32, "width": 32},
}


def save_tokenizer(folder: Path) -> None:
    """A byte-pair encoding of Gemma's form, whose ids are below 300, and which ends texts itself."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[*special, *bytes_of], show_progress=False)
    tokenizer.train_from_iterator([word.lower() for word in WORDS], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def save_siglip(folder: Path, **vision: Any) -> transformers.SiglipModel:
    """A SigLIP 2 of 32 pixels a side and 16 tokens."""
    config = transformers.SiglipConfig(
        vision_config={**_SIZES, "image_size": 32, "patch_size": 8, **vision},
        text_config={**_SIZES, "vocab_size": 300, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 1},
    )
    model = _save(transformers.SiglipModel(config), folder)
    save_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    return model


def save_dinov3(folder: Path, **changes: Any) -> transformers.DINOv3ViTModel:
    """A DINOv3 of 32 pixels a side."""
    config = transformers.DINOv3ViTConfig(
        **{**_SIZES, "image_size": 32, "patch_size": 8, "num_register_tokens": 4, **changes}
    )
    return _save(transformers.DINOv3ViTModel(config), folder)


def _save(model: Any, folder: Path) -> Any:
    """Draws every parameter, those that start as ones and zeros too, and saves the model."""
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.from_numpy(rng.normal(0, 0.1, parameter.shape).astype(np.float32))
            parameter.copy_(parameter * 0.5 + noise if parameter.ndim == 1 else 2 * noise)
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    return model
