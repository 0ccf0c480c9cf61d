"""Language models of real shapes with random weights: a step is one batch of token blocks through them.

GPT-2 small, read after block 8 of 12, contexts of 256, the same weights for everyone; for `SixFromOne` SmolLM2-135M, read after
block 15 of 30, contexts of 128. The guard of a harvest is `checked` of what was read.

Shapes: N tokens, D width, B blocks of T tokens.
"""

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contenders import Ours
from bench.peers import SaeLens
from bench.setting import Shape, Spec

AFTER_BLOCK, CONTEXT = 8, 256
GPT2: dict[str, Any] = {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50_257, "n_positions": 1024}
SMOL_AFTER_BLOCK, SMOL_CONTEXT = 15, 128
SMOL: dict[str, Any] = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "vocab_size": 49_152,
}  # fmt: skip
SIX_K = (16, 32)


def gpt2(dtype: torch.dtype, device: str) -> Any:
    """Random weights of GPT-2 small's shape, larger than it draws them: blocks then change what they are given."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    network = GPT2LMHeadModel(GPT2Config(**GPT2, initializer_range=0.05))
    return network.to(device, dtype).eval().requires_grad_(False)


def checked(r_ND: Tensor) -> float:
    """Mean magnitude of the activations along one random direction: equal if they are, and no coordinate is left out."""
    direction_D = torch.randn(r_ND.shape[-1], generator=torch.Generator().manual_seed(1)).to(r_ND.device)
    return float((r_ND.float() @ direction_D).abs().mean())


def ours(network: Any, after_block: int, n_blocks: int) -> Any:
    """Our language model around a network, without a tokenizer."""
    from sae_pipeline.language_model.blocks import find_anatomy
    from sae_pipeline.language_model.model import LanguageModel

    names = ("tokenizer", "bos_id", "eos_id", "special_ids", "tokenize", "chat", "decode")
    tokens: Any = SimpleNamespace(**dict.fromkeys(names))
    hook: Any = SimpleNamespace(site="residual", after_block=after_block)
    return LanguageModel(network, find_anatomy(network, n_blocks), tokens, hook, "bench")


class TruncatedForward:
    """Our harvest's forward: only the blocks up to the hook run."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        self._lm = ours(gpt2(getattr(torch, spec.dtype), spec.device), AFTER_BLOCK, GPT2["n_layer"])
        self._ids_BT = _ids(GPT2["vocab_size"], spec, CONTEXT)
        self.config = {"blocks": AFTER_BLOCK + 1, "context": CONTEXT, "model": GPT2}

    def step(self, x_ND: Tensor) -> None:
        """One batch."""
        self._lm.residual(self._ids_BT)

    def mse(self, x_ND: Tensor) -> float:
        """Not an error: `checked`."""
        return checked(self._lm.residual(self._ids_BT))


class FullForward:
    """The whole model with logits, as sparsify runs it."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        self._model, self._caught = gpt2(getattr(torch, spec.dtype), spec.device), []
        self._model.transformer.h[AFTER_BLOCK].register_forward_hook(lambda *given: self._caught.append(given[-1]))
        self._ids_BT = _ids(GPT2["vocab_size"], spec, CONTEXT)
        self.config = {"version": version("transformers"), "blocks": GPT2["n_layer"], "context": CONTEXT, "model": GPT2}

    @torch.no_grad()
    def step(self, x_ND: Tensor) -> None:
        """One batch."""
        self._caught.clear()
        self._model(self._ids_BT)

    def mse(self, x_ND: Tensor) -> float:
        """Not an error: `checked`."""
        self.step(x_ND)
        caught = self._caught[-1]
        return checked(caught[0] if isinstance(caught, tuple) else caught)


class TransformerLens:
    """`HookedTransformer.run_with_cache(stop_at_layer=...)`, as SAELens and dictionary_learning's users harvest."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
        from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

        dtype, width = getattr(torch, spec.dtype), GPT2["n_embd"]
        config = HookedTransformerConfig(
            n_layers=GPT2["n_layer"], d_model=width, n_ctx=GPT2["n_positions"], d_head=width // GPT2["n_head"],
            n_heads=GPT2["n_head"], d_mlp=4 * width, d_vocab=GPT2["vocab_size"], act_fn="gelu_new",
            normalization_type="LNPre", device=spec.device, dtype=dtype, seed=0,
        )  # fmt: skip
        self._model = HookedTransformer(config)
        weights = convert_gpt2_weights(gpt2(torch.float32, spec.device), config)
        # Folding layer norms and value biases, as it does by default, leaves the stream as it is; centring what is written to
        # it, its other default, does not.
        self._model.load_and_process_state_dict(weights, center_writing_weights=False, center_unembed=False)
        self._model.to(dtype)
        self._name = f"blocks.{AFTER_BLOCK}.hook_resid_post"
        self._ids_BT = _ids(GPT2["vocab_size"], spec, CONTEXT)
        self.config = {
            "version": version("transformer-lens"), "stop_at_layer": AFTER_BLOCK + 1, "context": CONTEXT,
            "model": config.to_dict(), "fold_ln": True, "fold_value_biases": True, "center_writing_weights": False,
        }  # fmt: skip

    @torch.no_grad()
    def step(self, x_ND: Tensor) -> None:
        """One batch."""
        self._read()

    def _read(self) -> Tensor:
        _, cache = self._model.run_with_cache(self._ids_BT, stop_at_layer=AFTER_BLOCK + 1, names_filter=self._name)
        return cache[self._name]

    @torch.no_grad()
    def mse(self, x_ND: Tensor) -> float:
        """Not an error: `checked`."""
        return checked(self._read())


class SixFromOne:
    """Six SAEs (three sizes, two k), the model in the loop. Options: `largest`; `shared`: one forward for all, or one each;
    `trainer`: SAELens's instead of ours, as its `MultiSAETrainer` holds one for each SAE and steps them all on a batch. The
    forward is ours in every case."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        options = spec.options or {}
        torch.manual_seed(0)
        network = LlamaForCausalLM(LlamaConfig(**SMOL, tie_word_embeddings=True))
        network = network.to(spec.device, torch.bfloat16).eval().requires_grad_(False)
        self._lm = ours(network, SMOL_AFTER_BLOCK, SMOL["num_hidden_layers"])
        self._ids_BT = _ids(SMOL["vocab_size"], spec, SMOL_CONTEXT)
        width, sizes = SMOL["hidden_size"], [options["largest"] // 4, options["largest"] // 2, options["largest"]]
        trainer: Any = SaeLens if options.get("trainer") == "SAELens" else Ours
        shapes = [Shape("six", width, size, k, spec.shape.batch) for size in sizes for k in SIX_K]
        self._learners = [trainer(Spec("one of six", shape, spec.dtype, spec.device), x_ND) for shape in shapes]
        self._shared = options["shared"]
        self.config = {"model": SMOL, "blocks": SMOL_AFTER_BLOCK + 1, "saes": [learner.config for learner in self._learners]}

    def step(self, x_ND: Tensor) -> None:
        """One batch for all six."""
        r_ND = None
        for learner in self._learners:
            if r_ND is None or not self._shared:
                r_ND = self._read()
            learner.step(r_ND)

    def _read(self) -> Tensor:
        return self._lm.residual(self._ids_BT).flatten(0, 1).float()

    def mse(self, x_ND: Tensor) -> float:
        """Sum over the six SAEs, on what the model gives."""
        r_ND = self._read()
        return sum(learner.mse(r_ND) for learner in self._learners)


def _ids(vocabulary: int, spec: Spec, context: int) -> Tensor:
    shape = (spec.shape.batch // context, context)
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(0)).to(spec.device)


HARVESTS = {
    "our truncated forward": TruncatedForward,
    "full forward with logits": FullForward,
    "TransformerLens": TransformerLens,
    "six SAEs": SixFromOne,
}
