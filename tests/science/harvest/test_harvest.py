"""The harvest against the plain forward, its mask and statistics against brute force."""

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy

from sae_pipeline.activations.mask import token_mask
from sae_pipeline.activations.reader import REASONS, ActivationReader
from sae_pipeline.activations.splice import splice_tokens
from sae_pipeline.activations.statistics import Moments
from sae_pipeline.errors import UserError
from tests.science.harvest.digests import harvest_into


def test_stored_activations_are_the_forward_of_their_tokens(reader, corpus, lm):
    assert len(reader.shards) > 3
    everything = reader.gather(torch.arange(corpus.n_blocks * corpus.context)).view(corpus.n_blocks, corpus.context, -1)
    neurons = reader.gather_neurons(torch.arange(corpus.n_blocks * corpus.context)).view(corpus.n_blocks, corpus.context, -1)
    for block in (0, 31, 32, corpus.n_blocks - 1):
        ids = torch.from_numpy(corpus.token_ids_BT[block : block + 1])
        r, n = lm.residual(ids, neurons=torch.tensor(reader.neuron_ids))
        torch.testing.assert_close(everything[block], r[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(neurons[block], n[0], atol=1e-4, rtol=1e-4)
    for name, expected in (("token_ids_BT", corpus.token_ids_BT), ("doc_ids_BT", corpus.doc_ids_BT)):
        assert np.array_equal(torch.cat([shard[name] for shard in reader.shards]).numpy(), expected)
    norms = torch.cat([shard["norm_BT"] for shard in reader.shards])
    torch.testing.assert_close(norms, everything.norm(dim=-1))
    assert (torch.cat([shard["position_BT"] for shard in reader.shards]) == torch.arange(corpus.context)).all()
    assert torch.equal(reader.held_out_B, torch.from_numpy(corpus.held_out_B))


def test_gather_keeps_the_order_asked_for(reader, corpus):
    index = torch.randperm(corpus.n_blocks * corpus.context, generator=torch.Generator().manual_seed(0))[:300]
    flat = torch.cat([shard["activations_BTD"].flatten(0, 1) for shard in reader.shards])
    assert torch.equal(reader.gather(index), flat[index])
    assert torch.equal(reader.gather(index[:1]), flat[index[:1]])
    for some in (torch.arange(5, 90), torch.arange(900, 2200), torch.arange(40).flip(0), torch.tensor([7, 7, 3])):
        assert torch.equal(reader.gather(some), flat[some])
    assert reader.gather(index[:0]).shape == (0, reader.d_model)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_stream_gives_every_unmasked_token_once_in_order(reader, corpus, split):
    expected = [
        block * corpus.context + position
        for block in range(corpus.n_blocks)
        for position in range(corpus.context)
        if corpus.held_out_B[block] == (split == "held_out") and reader.reason_BT[block, position] == 0
    ]
    parts = list(reader.stream(split, 100, neurons=True))
    assert torch.cat([index for index, _, _ in parts]).tolist() == expected
    assert all(len(index) == 100 for index, _, _ in parts[:-1])
    assert torch.equal(torch.cat([r for _, r, _ in parts]), reader.gather(torch.tensor(expected)))
    assert torch.equal(torch.cat([n for _, _, n in parts]), reader.gather_neurons(torch.tensor(expected)))
    everything = reader.token_index(split, masked=True)
    assert len(everything) == (corpus.held_out_B == (split == "held_out")).sum() * corpus.context
    with pytest.raises(ValueError, match="split"):
        reader.token_index("test")


def test_statistics_against_all_tokens_at_once(reader, harvested):
    r = reader.gather(reader.token_index("train")).double()
    torch.testing.assert_close(reader.raw_mean_D.double(), r.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reader.std_D.double(), r.std(0, correction=0), atol=1e-5, rtol=1e-5)
    x = reader.scaled(reader.gather(reader.token_index("train"))).double()
    assert x.square().sum(1).mean().item() == pytest.approx(reader.d_model, rel=1e-5)
    assert x.mean(0).abs().max() < 1e-4
    assert reader.facts["center"] == pytest.approx(float(r.mean(0).square().sum() / r.square().sum(1).mean()), rel=1e-6)
    assert reader.facts["median_norm"] == pytest.approx(float(r.norm(dim=1).quantile(0.5)), rel=1e-3)
    assert harvested[1].metadata["scale"] == reader.scale


def test_uncentered_scaling_keeps_the_mean_for_ablation(tiny_study, lm, corpus_folder, tmp_path):
    harvest_into(tmp_path, tiny_study, lm, corpus_folder, center=False)
    reader = ActivationReader.open(tmp_path)
    r = reader.gather(reader.token_index("train"))
    assert (reader.mean_D == 0).all() and reader.raw_mean_D.abs().max() > 0
    assert torch.equal(reader.scaled(r), r.float() * reader.scale)
    assert reader.scaled(r).square().sum(1).mean().item() == pytest.approx(reader.d_model, rel=1e-5)


def test_moments_merge_in_any_parts():
    r = 1000 + torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = Moments.empty(r[0]).add(r)
    parts = Moments.empty(r[0]).add(r[:7]).add(r[7:300]).add(r[300:])
    for moments in (whole, parts):
        torch.testing.assert_close(moments.mean_D, r.mean(0))
        torch.testing.assert_close(moments.std_D, r.std(0, correction=0))
        assert moments.mean_square_norm == pytest.approx(float(r.square().sum(1).mean()))
    assert whole.scale(center=True) == pytest.approx((6 / float((r - r.mean(0)).square().sum(1).mean())) ** 0.5)
    assert whole.scale(center=False) == pytest.approx((6 / float(r.square().sum(1).mean())) ** 0.5)


def test_bfloat16_storage_rounds_and_nothing_else(tiny_study, lm, corpus_folder, reader, tmp_path):
    harvest_into(tmp_path, tiny_study, lm, corpus_folder, dtype="bfloat16")
    index = torch.arange(200)
    assert torch.equal(ActivationReader.open(tmp_path).gather(index), reader.gather(index).bfloat16())


def test_without_neurons(tiny_study, lm, corpus_folder, tmp_path):
    harvest_into(tmp_path, tiny_study, lm, corpus_folder, n_neurons=0)
    reader = ActivationReader.open(tmp_path)
    assert reader.n_neurons == 0 and reader.gather_neurons(torch.arange(5)).shape == (5, 0)


# --- mask


def test_mask_reasons_against_brute_force():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (20, 16), generator=generator, dtype=torch.int32)
    norms = 100 + 10 * torch.rand(20, 16, generator=generator)
    norms[:, 0] = 20_000
    norms[3, 5], norms[4, 6], norms[18, 7] = 301, 340, 25_000
    ids[3, 5], ids[4, 6], ids[18, 7], ids[5, 5] = 9, 9, 9, 1
    norms[5, 5] = 5000  # special comes before massive
    held_out = torch.arange(20) >= 15
    reason, threshold, median = token_mask(ids, norms, held_out, frozenset({0, 1, 2}), 3.0)
    trained = [float(norms[b, t]) for b in range(15) for t in range(1, 16) if int(ids[b, t]) not in (0, 1, 2)]
    assert median == pytest.approx(float(np.median(trained)), rel=1e-6)
    assert threshold == pytest.approx(3 * median)
    for b in range(20):
        for t in range(16):
            expected = "keep"
            if t == 0:
                expected = "position_0"
            elif int(ids[b, t]) in (0, 1, 2):
                expected = "special"
            elif norms[b, t] > threshold:
                expected = "massive"
            assert REASONS[reason[b, t]] == expected, (b, t)
    assert {(3, 5), (4, 6), (18, 7)} >= {tuple(at) for at in (reason == 4).nonzero().tolist()} >= {(4, 6), (18, 7)}


def test_masked_fraction_table_adds_up(harvested, reader, corpus):
    fractions = pl.read_parquet(harvested[0] / "masked_fraction.parquet")
    for split in ("train", "held_out"):
        part = fractions.filter(pl.col("split") == split)
        assert part["reason"].to_list() == list(REASONS)
        assert part["n_tokens"].sum() == len(reader.token_index(split, masked=True))
        assert part["fraction"].sum() == pytest.approx(1)
        assert part.filter(pl.col("reason") == "keep")["n_tokens"].item() == len(reader.token_index(split))
    assert reader.facts["n_tokens"]["train"]["position_0"] == int((~corpus.held_out_B).sum())


def test_too_many_masked_tokens_are_refused(tiny_study, lm, corpus_folder, tmp_path):
    with pytest.raises(UserError, match=r"activations.max_masked_fraction: [\d.]+% of the tokens are masked \(position_0 3.1"):
        harvest_into(tmp_path, tiny_study, lm, corpus_folder, max_masked_fraction=0.01)


# --- splice baselines


def test_splice_baselines_against_a_plain_hooked_forward(harvested, reader, corpus, lm):
    table = pl.read_parquet(harvested[0] / "splice_baselines.parquet")
    assert table.height == 512 and table["token_index"].is_sorted() and table["token_index"].is_unique().all()
    block_module = lm.anatomy.blocks[1]
    for block in table["token_index"].unique().to_numpy()[[0, 200, -1]] // corpus.context:
        ids = torch.from_numpy(corpus.token_ids_BT[block]).long()
        keep = reader.reason_BT[block] == 0
        rows = table.filter(pl.col("token_index") // corpus.context == block)
        positions = rows["token_index"].to_numpy() % corpus.context
        for name, other in (("clean", None), ("zero", torch.zeros(32)), ("mean", reader.raw_mean_D)):

            def splice(module, args, output, other=other, keep=keep):
                return output if other is None else torch.where(keep[None, :, None], other, output)

            handle = block_module.register_forward_hook(splice)
            with torch.no_grad():
                logits = lm.model(ids[None]).logits[0]
            handle.remove()
            loss = cross_entropy(logits[:-1], ids[1:], reduction="none").numpy()[positions]
            np.testing.assert_allclose(rows[f"ce_{name}"].to_numpy(), loss, rtol=1e-3, atol=1e-3)
    assert (table["ce_zero"] != table["ce_clean"]).any()


def test_splice_tokens_are_unmasked_held_out_with_a_plain_successor():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 9, (30, 12), generator=generator, dtype=torch.int32)
    reason = (torch.rand(30, 12, generator=generator) < 0.2).to(torch.uint8) * 4
    held_out = torch.arange(30) % 3 == 0
    chosen = splice_tokens(reason, ids, held_out, frozenset({0}), 40, seed=0)
    usable = {
        b * 12 + t for b in range(0, 30, 3) for t in range(11) if reason[b, t] == 0 and int(ids[b, t + 1]) != 0
    }  # fmt: skip
    assert len(chosen) == 40 and set(chosen.tolist()) < usable
    assert set(splice_tokens(reason, ids, held_out, frozenset({0}), 10_000, seed=0).tolist()) == usable
    assert not torch.equal(splice_tokens(reason, ids, held_out, frozenset({0}), 40, seed=1), chosen)


# --- faults
