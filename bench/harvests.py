"""Language models of real shapes with random weights: a step is one batch of token blocks through them.

GPT-2 small, read after block 8 of 12, contexts of 256; for `SixFromOne` SmolLM2-135M, read after block 15 of 30, contexts of 128.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contenders import Ours
from bench.setting import Shape, Spec
from sae_pipeline.allocator import keep_freed_memory

AFTER_BLOCK, CONTEXT = 8, 256
SMOL_AFTER_BLOCK, SMOL_CONTEXT = 15, 128


def gpt2(dtype: torch.dtype, device: str) -> Any:
    """Random weights of GPT-2 small's shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config()).to(device, dtype).eval().requires_grad_(False)


def ours(network: Any, after_block: int, n_blocks: int) -> Any:
    """Our language model around a network, without a tokenizer."""
    from sae_pipeline.language_model.blocks import find_anatomy
    from sae_pipeline.language_model.model import LanguageModel
    from sae_pipeline.study import Hook

    names = ("tokenizer", "bos_id", "eos_id", "special_ids", "tokenize", "chat", "decode")
    tokens: Any = SimpleNamespace(**dict.fromkeys(names))
    return LanguageModel(network, find_anatomy(network, n_blocks), tokens, Hook(after_block=after_block), "bench")


class TruncatedForward:
    """Our harvest's forward: only the blocks up to the hook run."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        keep_freed_memory()
        self._lm = ours(gpt2(getattr(torch, spec.dtype), spec.device), AFTER_BLOCK, 12)
        self._ids_BT = _ids(50_257, spec, CONTEXT)
        self.config = {"blocks": AFTER_BLOCK + 1, "context": CONTEXT}

    def step(self, x_ND: Tensor) -> None:
        """One batch."""
        self._lm.residual(self._ids_BT)

    def mse(self, x_ND: Tensor) -> None:
        """Has none."""


class FullForward:
    """The whole model with logits, as sparsify runs it."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        self._model, self._caught = gpt2(getattr(torch, spec.dtype), spec.device), []
        self._model.transformer.h[AFTER_BLOCK].register_forward_hook(lambda *given: self._caught.append(given[-1]))
        self._ids_BT = _ids(50_257, spec, CONTEXT)
        self.config = {"blocks": 12, "context": CONTEXT}

    @torch.no_grad()
    def step(self, x_ND: Tensor) -> None:
        """One batch."""
        self._caught.clear()
        self._model(self._ids_BT)

    def mse(self, x_ND: Tensor) -> None:
        """Has none."""


class TransformerLens:
    """`HookedTransformer.run_with_cache(stop_at_layer=...)`, as SAELens and dictionary_learning's users harvest."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from importlib.metadata import version

        from transformer_lens import HookedTransformer, HookedTransformerConfig

        config = HookedTransformerConfig(
            n_layers=12, d_model=768, n_ctx=1024, d_head=64, n_heads=12, d_mlp=3072, d_vocab=50_257, act_fn="gelu_new",
            normalization_type="LNPre", device=spec.device, dtype=getattr(torch, spec.dtype), seed=0,
        )  # fmt: skip
        self._model = HookedTransformer(config)
        self._name = f"blocks.{AFTER_BLOCK}.hook_resid_post"
        self._ids_BT = _ids(50_257, spec, CONTEXT)
        self.config = {"version": version("transformer-lens"), "stop_at_layer": AFTER_BLOCK + 1, "context": CONTEXT}

    @torch.no_grad()
    def step(self, x_ND: Tensor) -> None:
        """One batch."""
        self._model.run_with_cache(self._ids_BT, stop_at_layer=AFTER_BLOCK + 1, names_filter=self._name)

    def mse(self, x_ND: Tensor) -> None:
        """Has none."""


class SixFromOne:
    """Six SAEs (three sizes, two k), the model in the loop. Options: `largest`; `shared`: one forward for all, or one each."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        keep_freed_memory()
        options = spec.options or {}
        torch.manual_seed(0)
        shape = LlamaConfig(
            hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
            vocab_size=49_152, tie_word_embeddings=True,
        )  # fmt: skip
        network = LlamaForCausalLM(shape).to(spec.device, torch.bfloat16).eval().requires_grad_(False)
        self._lm = ours(network, SMOL_AFTER_BLOCK, 30)
        self._ids_BT = _ids(49_152, spec, SMOL_CONTEXT)
        sizes = [options["largest"] // 4, options["largest"] // 2, options["largest"]]
        self._learners = [
            Ours(Spec("ours", Shape("six", 576, size, k, spec.shape.batch), "bfloat16", spec.device), x_ND)
            for size in sizes
            for k in (16, 32)
        ]
        self._shared = options["shared"]
        self.config = {"sizes": sizes, "k": [16, 32], "model": "SmolLM2-135M's shape, random weights", "blocks": 16}

    def step(self, x_ND: Tensor) -> None:
        """One batch for all six."""
        r_ND = None
        for learner in self._learners:
            if r_ND is None or not self._shared:
                r_ND = self._lm.residual(self._ids_BT).flatten(0, 1).float()
            learner.step(r_ND)

    def mse(self, x_ND: Tensor) -> None:
        """Has none."""


def _ids(vocabulary: int, spec: Spec, context: int) -> Tensor:
    shape = (spec.shape.batch // context, context)
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(0)).to(spec.device)


HARVESTS = {
    "our truncated forward": TruncatedForward,
    "full forward with logits": FullForward,
    "TransformerLens": TransformerLens,
    "six SAEs": SixFromOne,
}
