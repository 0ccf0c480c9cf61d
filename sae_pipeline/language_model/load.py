"""Load a causal language model from the hub, a folder, or a GGUF file inside an installed package."""

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GgufConfig

from sae_pipeline.errors import UserError
from sae_pipeline.language_model.blocks import find_anatomy
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.language_model.origin import check_hook, label, loading, n_blocks_of, pretrained_arguments
from sae_pipeline.language_model.precision import choose_dtype
from sae_pipeline.language_model.tokens import load_tokenizer
from sae_pipeline.study import Hook, Model

REDRAWN = 0x5EED_0000  # the CPU generator looks at 32 bits


def load_language_model(model: Model, hook: Hook, device: str | torch.device = "cpu", dtype: str = "auto") -> LanguageModel:
    """The study's model with its hook, ready to run. `dtype` other than "auto" overrides `model.dtype`. Raises `UserError`."""
    device = torch.device(device)
    config = copy.deepcopy(check_hook(model, hook))  # loading writes into it
    chosen, reason = choose_dtype(device, dtype if dtype != "auto" else model.dtype)
    name, arguments = pretrained_arguments(model)
    if "gguf_file" in arguments:
        # Dense weights: matrices left in GGUF blocks compute in float32 and cannot be hooked at their inputs on every platform.
        arguments |= {"quantization_config": GgufConfig(dequantize=True)}
    with loading(model):
        network: Any = AutoModelForCausalLM.from_pretrained(name, config=config, dtype=chosen, **arguments)
    try:
        network = network.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise UserError(
            "model", f"{label(model)} does not fit on {device} in {chosen}", "Choose a smaller model or another device."
        ) from error
    return LanguageModel(network, find_anatomy(network, n_blocks_of(config)), load_tokenizer(model), hook, reason)


def reinitialized_language_model(
    model: Model, hook: Hook, seed: int, device: str | torch.device = "cpu", dtype: str = "auto"
) -> LanguageModel:
    """The same architecture and tokenizer with random weights: a model that has learned nothing.

    Every matrix is drawn anew from a normal distribution with the mean and the spread of the trained one (the re-randomized
    models of Heap et al. 2025); gains and biases stay. As its authors' code draws weights before training, attention would be
    uniform, and the tokens of a context would all but coincide in the middle of the model. Raises `UserError` as
    `load_language_model` does.
    """
    lm = load_language_model(model, hook, device, dtype)
    # A stream of its own: a model that was itself drawn from a small seed must not come out as it was.
    generator = torch.Generator().manual_seed(REDRAWN + seed)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.dim() >= 2:
                trained = parameter.float()
                drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
                parameter.copy_(drawn * trained.std() + trained.mean())
    return lm
