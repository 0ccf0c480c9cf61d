"""In which dtype the large matrix products run."""

import torch


def product_dtype(device: str | torch.device) -> tuple[torch.dtype, str]:
    """(dtype, reason). bfloat16 where the hardware multiplies it natively, else float32; master weights are always float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16, "GPU tensor cores multiply bfloat16"
    if kind == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16, "this CPU has AVX512-BF16"
    return torch.float32, f"no native bfloat16 products on this {kind} device"
