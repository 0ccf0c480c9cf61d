"""The statistics pass divided among parts of the tokens, each with its own sums: merged, it is the whole pass."""

import itertools
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from sae_pipeline.features.cache import encode_split
from sae_pipeline.features.chunks import CHUNK_ROWS
from sae_pipeline.features.strongest_units import StrongestUnits
from sae_pipeline.features.write import write_feature_stats, write_statistics
from sae_pipeline.progress import bar
from sae_pipeline.tables.columns import SPLITS
from tests.science.feature_world import SETTINGS, Activations, Corpus, D, F, Sae, V


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """The undivided pass, in `work`."""
    corpus, activations, work = Corpus(), Activations(), tmp_path_factory.mktemp("whole")
    sae = Sae(activations)
    write_feature_stats(corpus, activations, sae, torch.randn(D, V), SETTINGS, 64, work)  # pyright: ignore[reportArgumentType]
    return SimpleNamespace(corpus=corpus, activations=activations, sae=sae, work=work)


class Part(Activations):
    """The tokens first <= i < last of the pass, in batches of another length."""

    def __init__(self, first, last):
        super().__init__()
        self._first, self._last = first, last

    def token_index(self, split):
        index_N = super().token_index(split)
        return index_N[(index_N >= self._first) & (index_N < self._last)]

    def stream(self, split, batch_tokens, neurons):
        for index_N in self.token_index(split).split(29):
            yield index_N, self.r_ND[index_N], self.neurons_NM[index_N]


@pytest.mark.parametrize(
    "cuts", [(0, 200, 480), (0, 16, 32, 480)]
)  # of the three parts one is of train tokens alone, one of held-out ones
def test_a_divided_pass_merges_into_the_whole_one(case, tmp_path, cuts):
    """Every table has the bytes of the undivided pass; correlations, sums of real numbers, are the same but for rounding."""
    parts = [Part(*bounds) for bounds in itertools.pairwise(cuts)]
    first = StrongestUnits(F, D, Part.neuron_ids)
    strongest, runs = [first], {}
    for split in SPLITS:
        for i, part in enumerate(parts):
            if i == len(strongest):
                strongest.append(StrongestUnits(F, D, Part.neuron_ids, first.shift_M))
            folder = tmp_path / "runs" / f"{split}-{i}"
            made = encode_split(case.sae, part, split, folder, strongest[i], bar("", None))  # pyright: ignore[reportArgumentType]
            if i:
                made.merge(runs[split])  # later tokens take earlier ones: the order does not matter
                first.merge(strongest[i])
            runs[split] = made
        first.close(split)
    n_tokens = {split: sum(len(part.token_index(split)) for part in parts) for split in SPLITS}
    work = tmp_path / "work"
    work.mkdir()
    write_statistics(case.corpus, runs, work, SETTINGS, 64, n_tokens, CHUNK_ROWS, "")
    assert len(list(work.iterdir())) == 5
    for path in work.iterdir():
        assert path.read_bytes() == (case.work / path.name).read_bytes(), path.name
    assert_frame_equal(first.table(64), pl.read_parquet(case.work / "feature_correlations.parquet"), abs_tol=1e-6)


def test_parts_that_were_shifted_differently_do_not_merge(case):
    first, second = (StrongestUnits(F, D, Part.neuron_ids) for _ in range(2))
    for strongest, index_N in ((first, slice(0, 20)), (second, slice(20, 40))):
        codes = case.sae.encode_sparse(case.activations.r_ND[index_N])
        strongest.add(
            codes.offsets, codes.feature, codes.value, case.activations.r_ND[index_N], case.activations.neurons_NM[index_N]
        )
    with pytest.raises(ValueError, match="different shifts"):
        first.merge(second)
