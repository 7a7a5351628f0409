"""Hidden size and deepstack layers of the models people serve, which set the bytes of a token.

Sources: Qwen3-VL from the configurations in ai-dynamo/aiconfigurator (commit 095f58a5), Qwen2.5-VL 3B/7B/72B and
InternVL3.5 from their Hugging Face configurations, InternVL3 8B/78B from MindSpeed-MM's examples. The models in
``UNVERIFIED`` were entered from memory and not compared with a source. Any other model is given by ``model.hidden`` and
``model.deepstack_layers``.
"""

from __future__ import annotations

from typing import NamedTuple

from bufferlab.protocol.layout import BF16_BYTES


class ModelShape(NamedTuple):
    """Width of an embedding row in bf16 elements, and how many such rows deepstack adds per token."""

    hidden: int
    deepstack_layers: int = 0

    @property
    def embedding_bytes_per_token(self) -> int:
        """Bytes of one token's embedding, its deepstack rows included; ids and positions come on top."""
        return BF16_BYTES * self.hidden * (1 + self.deepstack_layers)


MODELS: dict[str, ModelShape] = {
    "qwen2.5-vl-3b": ModelShape(2048),
    "qwen2.5-vl-7b": ModelShape(3584),
    "qwen2.5-vl-32b": ModelShape(5120),
    "qwen2.5-vl-72b": ModelShape(8192),
    "qwen3-vl-2b": ModelShape(2048, 3),
    "qwen3-vl-4b": ModelShape(2560, 3),
    "qwen3-vl-8b": ModelShape(4096, 3),
    "qwen3-vl-32b": ModelShape(5120, 3),
    "qwen3-vl-30b-a3b": ModelShape(2048, 3),
    "qwen3-vl-235b-a22b": ModelShape(4096, 3),
    "internvl3-1b": ModelShape(896),
    "internvl3-2b": ModelShape(1536),
    "internvl3-8b": ModelShape(3584),
    "internvl3-14b": ModelShape(5120),
    "internvl3-38b": ModelShape(5120),
    "internvl3-78b": ModelShape(8192),
    "internvl3.5-1b": ModelShape(1024),
    "internvl3.5-8b": ModelShape(4096),
    "llava-onevision-7b": ModelShape(3584),
    "minicpm-v-2.6": ModelShape(3584),
}

TUNED = ("-instruct", "-chat", "-hf")
"""Ends of published names that say nothing of a model's shape."""

UNVERIFIED = frozenset(
    {
        "qwen2.5-vl-32b",
        "internvl3-1b",
        "internvl3-2b",
        "internvl3-14b",
        "internvl3-38b",
        "llava-onevision-7b",
        "minicpm-v-2.6",
    }
)


def usual_name(name: str) -> str:
    """A model by the name that it has here, where that is clear: ``Qwen/Qwen2.5-VL-7B-Instruct`` is qwen2.5-vl-7b."""
    plain = name.rpartition("/")[2].lower().replace("_", ".")
    for ending in ("", *TUNED):
        if plain.endswith(ending) and plain.removesuffix(ending) in MODELS:
            return plain.removesuffix(ending)
    return name
