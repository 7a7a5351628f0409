"""Hidden size and deepstack layers of the models people serve, which set the bytes of a token.

Sources: Qwen3-VL from the configurations in ai-dynamo/aiconfigurator (commit 095f58a5), Qwen2.5-VL 3B/7B/72B and
InternVL3.5 from their Hugging Face configurations, InternVL3 8B/78B from MindSpeed-MM's examples. Any other model is
given by ``model.hidden`` and ``model.deepstack_layers``.
"""

from __future__ import annotations

from typing import NamedTuple


class ModelShape(NamedTuple):
    """Width of an embedding row in bf16 elements, and how many such rows deepstack adds per token."""

    hidden: int
    deepstack_layers: int = 0


MODELS: dict[str, ModelShape] = {
    "qwen2.5-vl-3b": ModelShape(2048),
    "qwen2.5-vl-7b": ModelShape(3584),
    "qwen2.5-vl-72b": ModelShape(8192),
    "qwen3-vl-2b": ModelShape(2048, 3),
    "qwen3-vl-4b": ModelShape(2560, 3),
    "qwen3-vl-8b": ModelShape(4096, 3),
    "qwen3-vl-32b": ModelShape(5120, 3),
    "qwen3-vl-30b-a3b": ModelShape(2048, 3),
    "qwen3-vl-235b-a22b": ModelShape(4096, 3),
    "internvl3-8b": ModelShape(3584),
    "internvl3-78b": ModelShape(8192),
    "internvl3.5-1b": ModelShape(1024),
    "internvl3.5-8b": ModelShape(4096),
}
