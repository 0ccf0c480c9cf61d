"""Tokens of a forward: fixed on a CPU; on a GPU measured once, and what was chosen is kept."""

import json

import pytest
import torch

from sae_pipeline.activations.batch_size import FILE, batch_size, fastest, speed_on_gpu
from sae_pipeline.activations.computed import ComputedShards

GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("rates", "chosen", "n_tried"),
    [
        ({4: 100.0, 8: 190.0, 16: 300.0, 32: 310.0, 64: 900.0}, 16, 4),  # 32 gains 3 %: 64 is never tried
        ({4: 100.0, 8: 105.0, 16: 111.0, 32: 120.0, 64: 130.0}, 64, 5),  # every doubling gains enough
        ({4: 100.0, 8: 90.0}, 4, 2),
        ({4: 100.0, 8: 200.0, 16: None}, 8, 2),  # memory does not hold 16
        ({4: None}, 4, 0),  # nor 4: the harvest will halve it
    ],
)
def test_doubles_as_long_as_that_is_faster(rates, chosen, n_tried):
    found = fastest(rates.__getitem__, 4, 64)
    assert found.n_blocks == chosen
    assert found.tokens_per_second == dict(list(rates.items())[:n_tried])


def test_no_more_blocks_than_a_shard_has():
    assert fastest(float, 4, 23).n_blocks == 16


def test_a_cpu_measures_nothing_and_writes_nothing(tmp_path):
    found = batch_size(torch.device("cpu"), 128, 256, tmp_path, lambda n: pytest.fail("measured"))
    assert (found.n_blocks, found.tokens_per_second) == (32, {}) and not list(tmp_path.iterdir())


def test_a_harvest_that_goes_on_keeps_its_size(tmp_path):
    first = batch_size(GPU, 128, 256, tmp_path, lambda n: {32: 5.0, 64: 9.0, 128: 9.1}[n])
    assert first.n_blocks == 64 and json.loads((tmp_path / FILE).read_text()) == {"blocks_per_forward": 64}
    again = batch_size(GPU, 128, 256, tmp_path, lambda n: pytest.fail("measured again"))
    assert (again.n_blocks, again.tokens_per_second) == (64, {})
    assert batch_size(GPU, 128, 20, tmp_path / "..", lambda n: 1.0).n_blocks == 20  # a corpus smaller than a batch


def test_the_artefact_says_its_size(harvested):
    metadata = harvested[1].metadata
    assert metadata["tokens_per_forward"] == 4096 and metadata["tokens_per_second_by_batch"] == {}


def test_streamed_activations_are_computed_in_the_harvests_batches(lm, monkeypatch):
    sizes, residual = [], lm.residual
    monkeypatch.setattr(lm, "residual", lambda ids, *rest, **kwargs: sizes.append(len(ids)) or residual(ids, *rest, **kwargs))
    facts = {"dtype": "float32", "context": 32, "neuron_ids": []}
    ids_BT = torch.zeros(20, 32, dtype=torch.int64)
    for of_harvest in ({"blocks_per_forward": 8}, {}):
        _ = ComputedShards([{"token_ids_BT": ids_BT}], facts | of_harvest, lm)[0]["activations_BTD"]
    assert sizes == [8, 8, 4, 20]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_larger_batches_are_faster_until_memory_ends():
    W_DD = torch.randn(1024, 1024, device="cuda")

    def multiply(n_blocks: int) -> None:
        for _ in range(4096 // n_blocks):
            torch.mm(torch.zeros(n_blocks, 1024, device="cuda"), W_DD)

    speed = speed_on_gpu(GPU, 4096, multiply)
    small, large = speed(8), speed(512)
    assert small and large and large > small  # launching takes most of the time of small products

    part = torch.cuda.mem_get_info()[0] // 6
    sizes: list[int] = []
    speed = speed_on_gpu(GPU, 1, lambda n: sizes.append(n) or torch.empty(n * part, dtype=torch.uint8, device="cuda"))
    assert speed(16) is None and speed(4) and speed(8) is None
    assert sizes == [16, 4, 4]  # 16 was tried and found no memory; 8 was not tried, because 4 took more than half of it
