"""`sae_metrics` on a tiny real model, against a full forward with a plain torch hook and NumPy in float64."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from sae_pipeline.activations.build import build_activations
from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.build import build_corpus
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.build import build_sae
from sae_pipeline.sae.evaluate import build_sae_metrics
from sae_pipeline.sae.splice import splice
from sae_pipeline.tables.schemas import check

SIZE = 64


@pytest.fixture(scope="module")
def world(tiny_study, tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    folders = {name: root / name for name in ("corpus", "activations", "sae", "metrics")}
    for folder in folders.values():
        folder.mkdir()
    lm = load_language_model(tiny_study.model, tiny_study.hook)
    build_corpus(tiny_study.corpus, lm.tokens, folders["corpus"])
    build_activations(folders["corpus"], lm, tiny_study.activations, tiny_study.metrics, folders["activations"])
    corpus, activations = CorpusReader.open(folders["corpus"]), ActivationReader.open(folders["activations"])
    build_sae(activations, tiny_study.sae, SIZE, folders["sae"])
    sae = SparseAutoencoder.load(folders["sae"])
    build_sae_metrics(corpus, activations, sae, lm, folders["metrics"])
    return SimpleNamespace(
        lm=lm, corpus=corpus, activations=activations, sae=sae,
        row=pl.read_parquet(folders["metrics"] / "sae_metrics.parquet"),
        by_source=pl.read_parquet(folders["metrics"] / "sae_metrics_by_source.parquet"),
        by_document=pl.read_parquet(folders["metrics"] / "sae_metrics_by_document.parquet"),
    )  # fmt: skip


def test_tables_keep_their_schemas(world):
    check("sae_metrics", world.row)
    check("sae_metrics_by_source", world.by_source)
    check("sae_metrics_by_document", world.by_document)


def test_reconstruction_metrics_equal_numpy(world):
    index_N = world.activations.token_index("held_out")
    r_ND = world.activations.gather(index_N)
    f_NF = world.sae.encode(r_ND).double().numpy()
    r, r_hat = r_ND.double().numpy(), world.sae.decode(torch.from_numpy(f_NF)).double().numpy()
    row = world.row.row(0, named=True)

    def explained(of):
        return 1 - ((r - r_hat)[of] ** 2).sum() / ((r[of] - r[of].mean(0)) ** 2).sum()

    assert row["n_tokens_held_out"] == len(r) and row["size"] == row["n_features"] == SIZE
    assert row["explained_variance"] == pytest.approx(explained(slice(None)), abs=1e-5)
    assert row["mse"] == pytest.approx(((r - r_hat) ** 2).mean() * world.sae.scale**2, rel=1e-4)
    assert row["l0"] == pytest.approx((f_NF > 0).sum(1).mean())
    assert row["alive_fraction"] == pytest.approx((f_NF > 0).any(0).mean())
    assert row["dead_fraction"] == pytest.approx(1 - row["alive_fraction"])
    source_N = world.corpus.source_of_doc[world.corpus.doc_ids_BT.reshape(-1)[index_N]]
    assert world.by_source["source"].to_list() == ["notes", "stories"]
    for part in world.by_source.iter_rows(named=True):
        of = source_N == part["source"]
        assert part["n_tokens"] == of.sum()
        assert part["l0"] == pytest.approx((f_NF[of] > 0).sum(1).mean())
        assert part["explained_variance"] == pytest.approx(explained(of), abs=1e-5)


def test_the_metrics_are_ratios_of_the_documents_sums(world):
    row, part = world.row.row(0, named=True), world.by_document
    total = part.drop("doc_id", "source").sum().row(0, named=True)
    index_N = world.activations.token_index("held_out").numpy()
    assert part["doc_id"].to_list() == sorted(set(world.corpus.doc_ids_BT.reshape(-1)[index_N].tolist()))
    assert total["n_tokens"] == row["n_tokens_held_out"] and total["n_tokens_spliced"] == row["n_tokens_spliced"]
    assert 1 - total["error"] / total["variation"] == pytest.approx(row["explained_variance"], abs=1e-9)
    assert total["n_active"] / total["n_tokens"] == pytest.approx(row["l0"])
    for name in ("ce_clean", "ce_spliced", "ce_zero", "ce_mean"):
        assert total[name] / total["n_tokens_spliced"] == pytest.approx(row[name])
    for source in world.by_source.iter_rows(named=True):
        mine = part.filter(pl.col("source") == source["source"])
        assert 1 - mine["error"].sum() / mine["variation_of_source"].sum() == pytest.approx(
            source["explained_variance"], abs=1e-9
        )


def test_unmasked_form_counts_every_held_out_token(world):
    r_ND = world.activations.gather(world.activations.token_index("held_out", masked=True))
    r, r_hat = r_ND.double(), world.sae.reconstruct(r_ND).double()
    expected = 1 - (r - r_hat).square().sum() / (r - r.mean(0)).square().sum()
    row = world.row.row(0, named=True)
    assert row["explained_variance_unmasked"] == pytest.approx(float(expected), abs=1e-5)
    assert row["masked_fraction"] == pytest.approx(1 - row["n_tokens_held_out"] / len(r))
    assert 0 < row["masked_fraction"] < 0.2


def full_forward(world, block: int, replace) -> np.ndarray:
    """Next-token log-probabilities of a block, T x V, float64; `replace` changes the hooked layer's output."""
    ids = torch.from_numpy(world.corpus.token_ids_BT[block]).long()[None]
    unmasked = world.activations.reason_BT[block] == 0
    layer = world.lm.model.model.layers[world.lm.hook.after_block]

    def hook(module, args, output):
        tensor = output[0] if isinstance(output, tuple) else output
        tensor = tensor.clone()
        tensor[0, unmasked] = replace(tensor[0, unmasked])
        return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

    handle = layer.register_forward_hook(hook)
    with torch.no_grad():
        logits = world.lm.model(input_ids=ids, use_cache=False).logits[0]
    handle.remove()
    return logits.double().log_softmax(1).numpy()


def test_splice_equals_full_forwards_with_a_plain_hook(world):
    baselines = pl.read_parquet(world.activations.folder / "splice_baselines.parquet")
    runs = {
        "clean": lambda r: r, "spliced": world.sae.reconstruct, "zero": torch.zeros_like,
        "mean": lambda r: world.activations.raw_mean_D.expand_as(r),
    }  # fmt: skip
    losses: dict[str, list[float]] = {name: [] for name in runs}
    divergence = []
    sampled = baselines["token_index"].to_numpy()
    for block in np.unique(sampled // 32):
        positions = sampled[sampled // 32 == block] % 32
        log_probability = {name: full_forward(world, block, replace) for name, replace in runs.items()}
        target = world.corpus.token_ids_BT[block][positions + 1]
        for name, values in log_probability.items():
            losses[name] += (-values[positions, target]).tolist()
        clean, spliced = log_probability["clean"][positions], log_probability["spliced"][positions]
        divergence += (np.exp(clean) * (clean - spliced)).sum(1).tolist()
    mean = {name: float(np.mean(values)) for name, values in losses.items()}
    row = world.row.row(0, named=True)
    assert row["n_tokens_spliced"] == len(divergence) > 300
    for name, value in mean.items():
        assert row[f"ce_{name}"] == pytest.approx(value, abs=2e-4)
    assert row["kl"] == pytest.approx(np.mean(divergence), rel=1e-3) and row["kl"] > 1e-3
    assert row["delta_ce"] == pytest.approx(mean["spliced"] - mean["clean"], abs=2e-4)
    for ablation in ("zero", "mean"):
        expected = (
            (mean[ablation] - mean["spliced"]) / (mean[ablation] - mean["clean"]) if mean[ablation] > mean["clean"] else None
        )
        assert row[f"ce_recovered_{ablation}"] == (pytest.approx(expected, rel=0.05) if expected is not None else None)


def test_a_perfect_sae_recovers_everything(world):
    result = splice(world.corpus, world.activations, lambda r_ND: r_ND, world.lm, "perfect")
    assert result.kl == pytest.approx(0, abs=1e-6)
    assert result.ce_spliced == pytest.approx(result.ce_clean, abs=1e-5)


def test_a_part_of_the_blocks_is_what_the_whole_says_of_them(world):
    def whole_or_part(every: int) -> pl.DataFrame:
        return splice(world.corpus, world.activations, torch.zeros_like, world.lm, "zeros", every).tokens

    whole, part = whole_or_part(1), whole_or_part(3)
    documents = part["doc_id"].unique().sort()
    assert 0 < part.height < whole.height / 2 and 0 < len(documents) < whole["doc_id"].n_unique()
    sampled = pl.read_parquet(world.activations.folder / "splice_baselines.parquet").sort("token_index")["token_index"] // 32
    blocks = sampled.unique().sort()[::3]
    assert_frame_equal(part, whole.filter(sampled.is_in(blocks.implode())), abs_tol=1e-5)
