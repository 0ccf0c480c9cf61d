"""Choose the number format of the language model once, and say why."""

import torch


def choose_dtype(device: torch.device, asked: str) -> tuple[torch.dtype, str]:
    """(dtype, reason). `asked`: "auto", "bfloat16" or "float32"."""
    if asked != "auto":
        return getattr(torch, asked), f"{asked}: set in the study (model.dtype)"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bfloat16: this GPU computes in it"
        return torch.float32, "float32: this GPU has no bfloat16"
    if device.type == "cpu":
        # Without these instructions torch emulates bfloat16 on a CPU, several times slower than float32.
        found = [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]
        if found:
            return torch.bfloat16, f"bfloat16: this CPU has {found[0]}, about twice as fast as float32"
        return torch.float32, "float32: this CPU has neither amx_bf16 nor avx512_bf16"
    return torch.float32, f"float32: the safe choice on {device.type}"
