"""A small corpus, raw activations and an SAE known entry by entry, behind the interfaces that `feature_stats` reads.

Shapes: B blocks, T positions, N tokens, D width, M neurons, F features, V vocabulary.
"""

from types import SimpleNamespace

import numpy as np
import torch

from sae_pipeline.study import Features

CONTEXT, N_BLOCKS, D, F, V = 16, 30, 12, 40, 600
SETTINGS = Features(n_top=5, n_per_interval=3, window=4, n_logits=6, seed=11)


class Corpus:
    def __init__(self):
        generator = np.random.default_rng(0)
        self.context = CONTEXT
        self.token_ids_BT = generator.integers(0, V, (N_BLOCKS, CONTEXT)).astype(np.int32) // 7
        document = np.cumsum(generator.random((N_BLOCKS, CONTEXT)) < 0.1) - 0
        self.doc_ids_BT = document.reshape(N_BLOCKS, CONTEXT).astype(np.int32)
        self.doc_ids_BT[:, 0] = -1
        self.token_text = [f"t{i // 2}" for i in range(V)]  # two ids may read the same


class Activations:
    d_model, neuron_ids = D, [4, 9, 31]

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.r_ND = torch.randn(N_BLOCKS * CONTEXT, D, generator=generator)
        position = torch.arange(N_BLOCKS * CONTEXT) % CONTEXT
        self.masked_N = (position == 0) | (torch.rand(N_BLOCKS * CONTEXT, generator=generator) < 0.05)
        self.held_out_N = torch.arange(N_BLOCKS * CONTEXT) // CONTEXT % 3 == 1
        self.neurons_NM = 50 + torch.randn(N_BLOCKS * CONTEXT, 3, generator=generator)

    def token_index(self, split):
        return ((self.held_out_N == (split == "held_out")) & ~self.masked_N).nonzero().squeeze(1)

    def stream(self, split, batch_tokens, neurons):
        for index_N in self.token_index(split).split(37):
            yield index_N, self.r_ND[index_N], self.neurons_NM[index_N]


class Sae:
    """Feature 7 never fires; feature 8 fires on every token; feature 9 fires on held-out tokens only; the last one never."""

    n_features = F

    def __init__(self, activations):
        generator = torch.Generator().manual_seed(2)
        self.W_dec_FD = torch.nn.functional.normalize(torch.randn(F, D, generator=generator), dim=1)
        dense = (activations.r_ND @ self.W_dec_FD.T - 0.8).clamp_min(0)
        dense[:, [7, F - 1]] = 0
        dense[:, 8] += 0.5
        dense[~activations.held_out_N, 9] = 0
        dense[:, 10] = (dense[:, 10] * 4).round() / 4  # ties
        dense[:, 11] = (51 - activations.neurons_NM[:, 1]).clamp_min(0)  # follows neuron 9, upside down
        self.dense_NF, self._r_ND = dense, activations.r_ND

    def encode_sparse(self, r_ND):
        row = (r_ND[:, None] == self._r_ND[None]).all(2).int().argmax(1)
        f_NF = self.dense_NF[row]
        token, feature = f_NF.nonzero(as_tuple=True)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), (f_NF > 0).sum(1).cumsum(0)])
        return SimpleNamespace(offsets=offsets, feature=feature, value=f_NF[token, feature])
