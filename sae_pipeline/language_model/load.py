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
    """The same architecture and tokenizer with weights as its authors' code draws them before training.

    Raises `UserError` as `load_language_model` does.
    """
    device = torch.device(device)
    config = copy.deepcopy(check_hook(model, hook))
    chosen, reason = choose_dtype(device, dtype)
    # Each architecture initializes itself from torch's global generator; a fork of it leaves that as it was.
    with loading(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    network = network.to(device, chosen).eval().requires_grad_(False)
    return LanguageModel(network, find_anatomy(network, n_blocks_of(config)), load_tokenizer(model), hook, reason)
