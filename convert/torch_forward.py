"""FLAIR's forward pass in plain PyTorch, straight from a state dict: the yardstick for `--verify` and the benchmarks.

It shares no code with the Flax model, and uses PyTorch's own attention, so that the two check each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from flair_jax.models.config import FlairConfig


class TorchFlair:
    """The PyTorch model's arithmetic. Images are [B, 3, S, S] here, as in PyTorch."""

    def __init__(self, tensors: Mapping[str, Tensor], config: FlairConfig) -> None:
        self.tensors = tensors
        self.config = config

    def encode_image(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Projected global [B, D] and local [B, L, D] tokens."""
        weights = self.tensors
        x = functional.conv2d(images, weights["visual.conv1.weight"], stride=self.config.vision.patch_size)
        x = x.flatten(2).transpose(1, 2)
        class_token = weights["visual.class_embedding"].expand(x.shape[0], 1, -1)
        x = torch.cat([class_token, x], dim=1) + weights["visual.positional_embedding"]
        eps = self.config.vision.layer_norm_eps
        x = self._layer_norm(x, "visual.ln_pre", eps)
        for layer in range(self.config.vision.layers):
            x = self._block(x, f"visual.transformer.resblocks.{layer}", self.config.vision.heads, None, eps)
        x = self._layer_norm(x, "visual.ln_post", eps) @ weights["image_post.proj"]
        return x[:, 0], x[:, 1:]

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Projected text features [N, D]."""
        weights, config = self.tensors, self.config.text
        length, eps = tokens.shape[1], config.layer_norm_eps
        x = weights["token_embedding.weight"][tokens] + weights["positional_embedding"][:length]
        mask = torch.full((length, length), float("-inf"), device=x.device).triu(1) if config.causal else None
        for layer in range(config.layers):
            x = self._block(x, f"transformer.resblocks.{layer}", config.heads, mask, eps)
        ends = tokens if config.end_of_text_id is None else (tokens == config.end_of_text_id).int()
        x = self._layer_norm(x, "ln_final", eps)[torch.arange(len(x)), ends.argmax(dim=-1)]
        return x @ weights["text_post.proj"]

    def pool(self, local: Tensor, text: Tensor, *, need_weights: bool = False) -> Tensor:
        """[B, N, D]: every image as seen by every text.

        `need_weights` chooses between PyTorch's two ways to compute it: with weights made (and dropped here), or fused.
        """
        eps = self.config.pooling_layer_norm_eps
        query = self._layer_norm(text, "visual_proj.ln_q", eps).expand(local.shape[0], -1, -1)
        key, value = (self._layer_norm(local, f"visual_proj.{name}", eps) for name in ("ln_k", "ln_v"))
        return self._attention(
            query, key, value, "visual_proj.attn", self.config.pooling_heads, None, True, need_weights
        )

    def _layer_norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def _block(self, x: Tensor, name: str, heads: int, mask: Tensor | None, eps: float) -> Tensor:
        weights = self.tensors
        y = self._layer_norm(x, f"{name}.ln_1", eps)
        x = x + self._attention(y, y, y, f"{name}.attn", heads, mask, False, False)
        y = self._layer_norm(x, f"{name}.ln_2", eps)
        y = functional.linear(y, weights[f"{name}.mlp.c_fc.weight"], weights[f"{name}.mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y) if self.config.quick_gelu else functional.gelu(y)
        return x + functional.linear(y, weights[f"{name}.mlp.c_proj.weight"], weights[f"{name}.mlp.c_proj.bias"])

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        name: str,
        heads: int,
        mask: Tensor | None,
        zero_slot: bool,
        need_weights: bool,
    ) -> Tensor:
        weights = self.tensors
        mixed, _ = functional.multi_head_attention_forward(
            query.transpose(0, 1),
            key.transpose(0, 1),
            value.transpose(0, 1),
            query.shape[-1],
            heads,
            weights[f"{name}.in_proj_weight"],
            weights[f"{name}.in_proj_bias"],
            bias_k=None,
            bias_v=None,
            add_zero_attn=zero_slot,
            dropout_p=0.0,
            out_proj_weight=weights[f"{name}.out_proj.weight"],
            out_proj_bias=weights[f"{name}.out_proj.bias"],
            need_weights=need_weights,
            attn_mask=mask,
        )
        return mixed.transpose(0, 1)
