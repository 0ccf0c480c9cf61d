import numpy as np
import pytest

from sae_pipeline.interpret.token_estimate import by_bytes, spread


def test_a_sample_over_all_sizes_says_how_far_off_it_may_be():
    """The truth lies within the 95 % interval about that often, and the interval is no wider than it must be."""
    random = np.random.default_rng(0)
    n_bytes = random.integers(400, 4000, 3000)
    inside, errors = [], []
    for _ in range(300):
        n_tokens = n_bytes / random.normal(4.0, 0.4, len(n_bytes))  # languages differ in bytes per token
        order = random.permutation(len(n_bytes))
        chosen = order[spread(n_bytes[order].tolist(), 12)]
        made = by_bytes(n_tokens[chosen].tolist(), n_bytes[chosen].tolist(), float(n_bytes.sum()))
        errors.append(abs(made.n - n_tokens.sum()) / n_tokens.sum())
        inside.append(abs(made.n - n_tokens.sum()) < made.error)
    assert 0.85 < np.mean(inside) < 0.99 and np.quantile(errors, 0.95) < 0.08


def test_short_and_long_questions_are_sampled_in_proportion():
    n_bytes = [100] * 75 + [1000] * 25
    chosen = [n_bytes[i] for i in spread(n_bytes, 8)]
    assert sorted(chosen) == [100] * 6 + [1000] * 2
    assert sorted(spread([5, 3, 4], 8)) == [0, 1, 2]
    exact = by_bytes([10, 20], [40, 80], 1200)
    assert exact.n == pytest.approx(300) and exact.error == pytest.approx(0)
