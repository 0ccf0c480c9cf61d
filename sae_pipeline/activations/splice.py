"""Cross-entropy with the activation left alone, set to zero, and set to the training mean, on a sample of held-out blocks.

Every SAE is spliced in at these same tokens later; the clean prefix comes from the shards. Masked positions keep their
activation in every run. Shapes: B blocks, T positions, D width, V vocabulary, N tokens.
"""

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sae_pipeline.activations.reader import KEEP, ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import bar

BLOCKS_AT_ONCE = 8


def splice_tokens(
    reason_BT: Tensor, token_ids_BT: Tensor, held_out_B: Tensor, special_ids: frozenset[int], n: int, seed: int
) -> Tensor:
    """Indices of `n` (or all, if fewer) unmasked held-out tokens with a non-special next token, whole blocks drawn by `seed`."""
    special_BT = torch.isin(token_ids_BT, torch.tensor(sorted(special_ids), dtype=token_ids_BT.dtype))
    usable_BT = reason_BT == KEEP
    usable_BT[:, :-1] &= ~special_BT[:, 1:]
    usable_BT[:, -1] = False
    blocks = held_out_B.nonzero().squeeze(1).numpy()
    chosen: list[Tensor] = []
    for block in np.random.default_rng(seed).permutation(blocks):
        chosen.append(usable_BT[block].nonzero().squeeze(1) + int(block) * token_ids_BT.shape[1])
        if sum(map(len, chosen)) >= n:
            break
    return torch.cat(chosen)[:n].sort().values if chosen else torch.zeros(0, dtype=torch.int64)


def splice_baselines(corpus: CorpusReader, lm: LanguageModel, activations: ActivationReader, n: int, seed: int) -> pl.DataFrame:
    """token_index, ce_clean, ce_zero, ce_mean (nats, next-token) on the sampled tokens."""
    token_ids_BT = torch.from_numpy(corpus.token_ids_BT)
    index_N = splice_tokens(activations.reason_BT, token_ids_BT, activations.held_out_B, lm.special_ids, n, seed)
    rows = []
    with bar("splice baselines", len(index_N), "tokens") as progress:
        for blocks in (index_N // corpus.context).unique().split(BLOCKS_AT_ONCE):
            ids_BT = token_ids_BT[blocks].long()
            wanted_BT = torch.isin(blocks[:, None] * corpus.context + torch.arange(corpus.context), index_N)
            keep_BT = activations.reason_BT[blocks] == KEEP
            r_BTD = activations.gather((blocks[:, None] * corpus.context + torch.arange(corpus.context)).flatten()).view(
                *ids_BT.shape, -1
            )
            part = {"token_index": (blocks[:, None] * corpus.context + torch.arange(corpus.context))[wanted_BT]}
            for name, other_D in (("clean", None), ("zero", torch.zeros(lm.d_model)), ("mean", activations.raw_mean_D)):
                spliced = r_BTD if other_D is None else torch.where(keep_BT[..., None], other_D.to(r_BTD.dtype), r_BTD)
                part[f"ce_{name}"] = token_cross_entropy(lm.logits_from(spliced, ids_BT), ids_BT)[wanted_BT]
            rows.append(pl.DataFrame({column: values.numpy() for column, values in part.items()}))
            progress.update(len(rows[-1]))
    schema = {"token_index": pl.Int64, "ce_clean": pl.Float32, "ce_zero": pl.Float32, "ce_mean": pl.Float32}
    return pl.concat(rows) if rows else pl.DataFrame(schema=schema)


def token_cross_entropy(logits_BTV: Tensor, token_ids_BT: Tensor) -> Tensor:
    """Nats of every token's successor, B x T float32 on the CPU; 0 in the last column, which has none."""
    out_BT = torch.zeros(token_ids_BT.shape)
    for row, ids_T in enumerate(token_ids_BT):  # row by row: float32 logits of a whole batch would not fit
        out_BT[row, :-1] = cross_entropy(logits_BTV[row, :-1].float(), ids_T[1:].to(logits_BTV.device), reduction="none").cpu()
    return out_BT
