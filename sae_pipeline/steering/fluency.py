"""Is the steered text still language? Cross-entropy under the unsteered model, repeated 4-grams, distinct n-grams.

Shape legend: B rows, T positions, V vocabulary.
"""

from collections.abc import Sequence

import torch

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.steering.prompts import words_of

MAX_EXTRA_NATS = 1.0
MAX_EXTRA_REPETITION = 0.1


@torch.no_grad()
def cross_entropies(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], batch_rows: int = 64
) -> list[float | None]:
    """Mean nats per completion token under the unsteered model, given the prompt; None for an empty completion.

    Rows with the same prompt share one reading of it.
    """
    result: list[float | None] = [None] * len(prompts)
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        if completions[row]:
            by_prompt.setdefault(tuple(prompt), []).append(row)
    for prompt, rows in by_prompt.items():
        for start in range(0, len(rows), batch_rows):
            batch = rows[start : start + batch_rows]
            for row, nats in zip(batch, _nats(lm, prompt, [completions[row] for row in batch]), strict=True):
                result[row] = nats
    return result


def _nats(lm: LanguageModel, prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> list[float]:
    opening = lm.model(input_ids=torch.tensor([list(prompt)], device=lm.device), use_cache=True)
    length = max(map(len, completions))
    ids_BT = torch.zeros(len(completions), length, dtype=torch.int64)
    for row, completion in enumerate(completions):
        ids_BT[row, : len(completion)] = torch.tensor(completion)
    ids_BT = ids_BT.to(lm.device)
    past = opening.past_key_values
    past.batch_repeat_interleave(len(completions))
    # Padding stands on the right: no real token looks at it, so no mask is needed.
    after_BTV = lm.model(input_ids=ids_BT[:, :-1], past_key_values=past, use_cache=True).logits if length > 1 else None
    nats: list[float] = []
    for row, completion in enumerate(completions):
        # A row at a time: float32 logits of a whole batch would be gigabytes.
        logits_TV = opening.logits[0, -1:].float()
        if after_BTV is not None:
            logits_TV = torch.cat([logits_TV, after_BTV[row, : len(completion) - 1].float()])
        nats.append(float(torch.nn.functional.cross_entropy(logits_TV, ids_BT[row, : len(completion)])))
    return nats


def repetition(token_ids: Sequence[int], n: int = 4) -> float:
    """Share of n-grams of tokens that occurred before in the same text: 1 - distinct / all; 0 for texts shorter than n."""
    grams = [tuple(token_ids[i : i + n]) for i in range(len(token_ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(text: str, n: int = 2) -> float:
    """Distinct n-grams of words over all n-grams of words (Li et al. 2016); 1 for texts shorter than n."""
    words = words_of(text)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def is_fluent(cross_entropy: float | None, repeated: float, baseline_cross_entropy: float, baseline_repetition: float) -> bool:
    """Within 1 nat and 0.1 of the unsteered texts' means; an empty text is not fluent."""
    if cross_entropy is None:
        return False
    return cross_entropy <= baseline_cross_entropy + MAX_EXTRA_NATS and repeated <= baseline_repetition + MAX_EXTRA_REPETITION
