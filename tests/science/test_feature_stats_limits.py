"""What the statistics pass is built of: the largest entries, uniform draws, memory that follows the chunk."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from sae_pipeline.features.logits import GROUP, largest
from sae_pipeline.features.selection import sample_priority
from sae_pipeline.features.write import write_feature_stats
from tests.science.test_feature_stats import SETTINGS, Activations, Corpus, D, Sae


def test_largest_is_topk():
    x_FV = torch.randn(5, GROUP * 20 + 77, generator=torch.Generator().manual_seed(0))
    x_FV[0, -3:] = 9  # in the part behind the last whole group
    x_FV[1, 5:9] = torch.tensor([8.0, 7.5, 7.0, 6.5])  # all in one group
    values, indices = largest(x_FV, 4)
    expected = x_FV.topk(4, dim=1).values
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
    torch.testing.assert_close(x_FV.gather(1, indices), expected, rtol=0, atol=0)


def test_samples_are_uniform():
    """Each of 20 members of a group is the first drawn about equally often over many seeds (chi-square)."""
    units, tokens = np.zeros(20, np.int64), np.arange(1000, 1020)
    first = [int(sample_priority(units, tokens, seed).argmin()) for seed in range(4000)]
    observed = np.bincount(first, minlength=20)
    assert ((observed - 200) ** 2 / 200).sum() < 43.8  # p = 0.001


def test_memory_follows_the_chunk_and_not_tokens_times_features(tmp_path):
    """4,000 tokens x 20,000 features of float32 would be 320 MB; the numpy arrays of the pass stay far below."""

    class Wide(Sae):
        n_features = 20_000

        def __init__(self):
            self.W_dec_FD = torch.zeros(self.n_features, D)

        def encode_sparse(self, r_ND):
            n = len(r_ND)
            feature = (torch.arange(n * 8) * 7919) % self.n_features
            return SimpleNamespace(offsets=torch.arange(n + 1) * 8, feature=feature, value=torch.ones(n * 8))

    corpus, activations = Corpus(), Activations()
    corpus.token_ids_BT = np.tile(corpus.token_ids_BT, (9, 1))
    corpus.doc_ids_BT = np.tile(corpus.doc_ids_BT, (9, 1))
    activations.token_index = lambda split: torch.arange(2000) + 2000 * (split == "held_out")
    activations.stream = lambda split, batch_tokens, neurons: (
        (i, torch.zeros(len(i), D), torch.zeros(len(i), 3)) for i in activations.token_index(split).split(100)
    )
    tracemalloc.start()
    write_feature_stats(corpus, activations, Wide(), torch.zeros(D, 8), SETTINGS, 64, Path(tmp_path))  # pyright: ignore[reportArgumentType]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80e6
