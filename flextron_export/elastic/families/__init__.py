"""The model families: one small description each, and nothing else in the package names a family.

A new family is a new file here and a line in `FAMILIES`. What it may say is in `family.Family`; what a model of it may
compute is in `architecture.Architecture`.
"""

from __future__ import annotations

from .family import Family
from .gpt2 import GPT2
from .llama import LLAMA
from .mistral import MISTRAL
from .qwen2 import QWEN2
from .qwen3 import QWEN3

FAMILIES: dict[str, Family] = {family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, GPT2)}
"""`model_type` of a Hugging Face config -> its family."""
