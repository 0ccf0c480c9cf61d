"""Batched generation with a KV cache and one random stream per row. Shapes: B rows, R rows of a tile, T tokens, V vocabulary."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# So many rows of a vocabulary of 49,152 stay in a core's cache while a token is drawn: 22 instead of 89 ms for 256 rows (CPU).
ROWS_AT_ONCE = 8


@torch.no_grad()
def generate(
    model: Any,
    end_ids: frozenset[int],
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | Sequence[int],
    on_token: Callable[[int, int], None] | None = None,
    repeats: Sequence[int] | None = None,
) -> list[list[int]]:
    """New tokens of each prompt, up to and without the end token. Prompts are padded on the left and masked.

    `repeats[i]`: how many continuations prompt i gets; it is read once, and its rows follow each other. `generator`: the source
    of every row's own stream, or the streams' seeds, one per row.
    """
    from sae_pipeline.language_model.roomy_cache import make_room  # needs transformers, which a benchmark's harvest does without

    if not prompts or not all(prompts):
        raise ValueError("every prompt needs at least one token")
    device, n_prompts = model.device, len(prompts)
    prompt_of_row = torch.repeat_interleave(torch.arange(n_prompts), torch.tensor(repeats or [1] * n_prompts)).to(device)
    n_rows = len(prompt_of_row)
    width = max(map(len, prompts))
    ids_BT = torch.zeros(n_prompts, width, dtype=torch.int64)
    mask_BT = torch.zeros(n_prompts, width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids_BT[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, width - len(prompt) :] = 1
    ids_BT, mask_BT = ids_BT.to(device), mask_BT.to(device)
    uniform_BN = _uniform_rows(n_rows, max_new_tokens, generator).float().to(device)
    accepted = inspect.signature(model.forward).parameters

    rows: list[list[int]] = [[] for _ in range(n_rows)]
    unfinished, past = set(range(n_rows)), None
    for step in range(max_new_tokens):
        arguments: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": mask_BT, "past_key_values": past, "use_cache": True}
        if "position_ids" in accepted:
            arguments["position_ids"] = (mask_BT.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        if "logits_to_keep" in accepted:
            # An index, not a count: a slice of the last position is not contiguous, and PyTorch's CPU matmul then copies the
            # head's weights once per row (measured: 75 % of the prefill of 32 rows).
            arguments["logits_to_keep"] = torch.tensor([ids_BT.shape[1] - 1], device=device)
        output = model(**arguments)
        past, logits_BV = output.past_key_values, output.logits[:, -1].float()
        if step == 0 and n_rows != n_prompts:
            past.batch_select_indices(prompt_of_row)
            logits_BV, mask_BT = logits_BV[prompt_of_row], mask_BT[prompt_of_row]
        if step == 0:
            make_room(past, max_new_tokens - 1)
        chosen_B = pick(logits_BV, temperature, uniform_BN[:, step])
        for row, token_id in enumerate(chosen_B.tolist()):
            if row not in unfinished:
                continue
            if token_id in end_ids:
                unfinished.discard(row)
                continue
            rows[row].append(token_id)
            if on_token:
                on_token(row, token_id)
        if not unfinished:
            break
        ids_BT = chosen_B[:, None]
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(n_rows, 1)], dim=1)
    return rows


def pick(logits_BV: Tensor, temperature: float, uniform_B: Tensor) -> Tensor:
    """One token per row: the likeliest at temperature 0, else by inverting the cumulative distribution at `uniform_B`."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    n_rows = ROWS_AT_ONCE if logits_BV.device.type == "cpu" else len(logits_BV)
    parts = zip(logits_BV.split(n_rows), uniform_B.split(n_rows), strict=True)
    return torch.cat([_sampled(part_RV, temperature, uniform_R) for part_RV, uniform_R in parts])


def _sampled(logits_RV: Tensor, temperature: float, uniform_R: Tensor) -> Tensor:
    cumulative_RV = torch.softmax(logits_RV / temperature, dim=-1).cumsum(-1)
    target_R = uniform_R * cumulative_RV[:, -1]
    chosen_R = torch.searchsorted(cumulative_RV, target_R[:, None], right=True).squeeze(1)
    return chosen_R.clamp(max=logits_RV.shape[-1] - 1)


def _uniform_rows(n_rows: int, n_columns: int, generator: torch.Generator | Sequence[int]) -> Tensor:
    """Uniform numbers, a stream per row, so that row i is the same whatever the number of rows."""
    if isinstance(generator, torch.Generator):
        seeds = [int(torch.randint(2**62, (1,), generator=generator, device=generator.device).item()) for _ in range(n_rows)]
    else:
        seeds = list(generator)
    if len(seeds) != n_rows:
        raise ValueError(f"{len(seeds)} seeds for {n_rows} rows")
    streams = [torch.rand(n_columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(streams)
