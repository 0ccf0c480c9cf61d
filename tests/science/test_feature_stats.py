"""Every number of the stage against brute force over the dense matrix."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from sae_pipeline.features.selection import sample_priority
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.features.write import write_feature_stats
from sae_pipeline.tables.schemas import check
from tests.science.feature_world import CONTEXT, SETTINGS, Activations, Corpus, D, F, Sae, V


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    corpus, activations = Corpus(), Activations()
    sae = Sae(activations)
    work = tmp_path_factory.mktemp("stats")
    (work / "features.parquet").write_text("half a file of a killed pass")
    unembedding_DV = torch.randn(D, V, generator=torch.Generator().manual_seed(3))
    outcome = write_feature_stats(corpus, activations, sae, unembedding_DV, SETTINGS, 64, work, chunk_rows=300)  # pyright: ignore[reportArgumentType]
    # Brute force: the dense matrix with masked tokens at zero.
    dense_NF = sae.dense_NF.numpy() * ~activations.masked_N.numpy()[:, None]
    split_N = np.where(activations.held_out_N.numpy(), "held_out", "train")
    return SimpleNamespace(
        corpus=corpus, activations=activations, sae=sae, unembedding_DV=unembedding_DV, work=work, outcome=outcome,
        dense_NF=dense_NF, split_N=split_N, token_id_N=corpus.token_ids_BT.reshape(-1), document_N=corpus.doc_ids_BT.reshape(-1),
        maximum_F=dense_NF[split_N == "train"].max(0),
    )  # fmt: skip


def read(case, name):
    return check(name, pl.read_parquet(case.work / f"{name}.parquet"))


def brute_interval(value, maximum):
    return next((i for i in range(1, 10) if maximum > 0 and value <= np.float64(maximum) * i / 10), 10)


def test_nothing_but_the_tables_is_left(case):
    assert sorted(path.name for path in case.work.iterdir()) == [
        "activations_held_out.parquet", "activations_train.parquet", "feature_correlations.parquet", "feature_examples.parquet",
        "feature_intervals.parquet", "feature_logits.parquet", "features.parquet",
    ]  # fmt: skip


def test_the_strongest_units_are_those_of_the_dense_arrays(case):
    """Chosen on training tokens by numpy's |r|, looked at on held-out ones; features that never fire in training have no row."""
    rows = read(case, "feature_correlations")
    kept = ~case.activations.masked_N.numpy()
    r_by_split: dict[str, np.ndarray] = {}
    for split in ("train", "held_out"):
        chosen_N = (case.split_N == split) & kept
        columns = np.concatenate([case.activations.r_ND, case.activations.neurons_NM, case.dense_NF], axis=1)[chosen_N]
        with np.errstate(invalid="ignore"):
            r_by_split[split] = np.asarray(np.corrcoef(columns.astype(np.float64).T))[D + 3 :, : D + 3]
    assert rows["feature"].unique().sort().to_list() == np.flatnonzero(case.maximum_F > 0).tolist()
    for row in rows.iter_rows(named=True):
        columns, ids = {"residual_dimension": (slice(D), range(D)), "mlp_neuron": (slice(D, D + 3), [4, 9, 31])}[row["unit"]]
        r_M, held_out_M = (r_by_split[split][row["feature"], columns] for split in ("train", "held_out"))
        best = np.abs(r_M).argmax()
        assert row["unit_id"] == ids[best] and row["r"] == pytest.approx(r_M[best], abs=1e-6)
        assert row["r_held_out"] == pytest.approx(held_out_M[best], abs=1e-6)
    planted = rows.row(by_predicate=(pl.col("feature") == 11) & (pl.col("unit") == "mlp_neuron"), named=True)
    assert planted["unit_id"] == 9 and planted["r"] < -0.9 and planted["r_held_out"] < -0.9


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_sparse_cache_is_the_dense_matrix(case, split):
    sparse = SparseActivations.open(case.work / f"activations_{split}.parquet")
    check("feature_activations", pl.read_parquet(case.work / f"activations_{split}.parquet"))
    dense = case.dense_NF * (case.split_N == split)[:, None]
    assert sparse.n_units == F
    for feature in range(F):
        tokens, values = sparse.of(feature)
        np.testing.assert_array_equal(tokens, np.flatnonzero(dense[:, feature]))
        np.testing.assert_array_equal(values, dense[tokens, feature])


def test_statistics(case):
    features = read(case, "features")
    assert features["feature"].to_list() == list(range(F)) and features["size"].unique().to_list() == [64]
    n_train, n_held_out = (len(case.activations.token_index(split)) for split in ("train", "held_out"))
    for row in features.iter_rows(named=True):
        column = case.dense_NF[:, row["feature"]].astype(np.float64)
        train, held_out = column[case.split_N == "train"], column[case.split_N == "held_out"]
        assert row["alive"] == bool((held_out > 0).any())
        assert row["n_active_train"] == (train > 0).sum() and row["n_active_held_out"] == (held_out > 0).sum()
        assert row["density"] == pytest.approx((train > 0).sum() / n_train)
        assert row["density_held_out"] == pytest.approx((held_out > 0).sum() / n_held_out)
        assert row["max_activation"] == train.max()
        active = (column > 0) & (case.split_N == "train")
        assert row["n_documents_train"] == len(set(case.document_N[active]))
        if not active.any():
            assert row["mean_activation"] == 0 and row["top_token"] is None and row["top_token_share"] is None
            continue
        assert row["mean_activation"] == pytest.approx(column[active].mean())
        mass = {t: column[active & (case.token_id_N == t)].sum() for t in set(case.token_id_N[active])}
        best = max(mass, key=lambda t: (mass[t], -t))
        assert row["top_token"] == case.corpus.token_text[best]
        assert row["top_token_share"] == pytest.approx(mass[best] / column[active].sum())
    assert case.outcome.metadata["n_alive"] == features["alive"].sum()
    assert not features["alive"][7] and features["alive"][9] and features["max_activation"][9] == 0


def test_interval_populations(case):
    expected = {}
    for token, feature in zip(*np.nonzero(case.dense_NF), strict=True):
        interval = brute_interval(case.dense_NF[token, feature], case.maximum_F[feature])
        key = (feature, case.split_N[token], interval)
        expected[key] = expected.get(key, 0) + 1
    rows = read(case, "feature_intervals")
    assert {(r["feature"], r["split"], r["interval"]): r["n"] for r in rows.iter_rows(named=True)} == expected


def test_top_examples_are_the_strongest_of_distinct_documents_in_training(case):
    top = read(case, "feature_examples").filter(kind="top")
    assert set(top["split"]) == {"train"}
    for feature in range(F):
        active = [t for t in np.flatnonzero(case.dense_NF[:, feature]) if case.split_N[t] == "train"]
        best = {}
        for token in sorted(active, key=lambda t: (-case.dense_NF[t, feature], t)):
            best.setdefault(case.document_N[token], token)
        rows = top.filter(feature=feature)
        assert rows["token_index"].to_list() == list(best.values())[: SETTINGS.n_top]
        assert rows["rank"].to_list() == list(range(1, len(rows) + 1))


def test_interval_samples_are_the_lowest_priorities_of_their_interval(case):
    samples = read(case, "feature_examples").filter(kind="interval")
    groups = {}
    for token, feature in zip(*np.nonzero(case.dense_NF), strict=True):
        interval = brute_interval(case.dense_NF[token, feature], case.maximum_F[feature])
        priority = sample_priority(np.array([feature]), np.array([token]), SETTINGS.seed)[0]
        groups.setdefault((feature, case.split_N[token], interval), []).append((priority, token))
    expected = {key: [t for _, t in sorted(members)[: SETTINGS.n_per_interval]] for key, members in groups.items()}
    found = {}
    for row in samples.iter_rows(named=True):
        found.setdefault((row["feature"], row["split"], row["interval"]), []).append(row["token_index"])
    assert found == expected


def test_windows_hold_the_tokens_and_activations_around_the_center(case):
    examples = read(case, "feature_examples")
    assert len(examples) > 500 and examples["feature"].is_sorted()
    for row in examples.iter_rows(named=True):
        token, feature = row["token_index"], row["feature"]
        block = token // CONTEXT
        window = range(max(token - 4, block * CONTEXT), min(token + 5, (block + 1) * CONTEXT))
        assert row["token_ids"] == case.token_id_N[list(window)].tolist()
        assert row["tokens"] == [case.corpus.token_text[t] for t in row["token_ids"]]
        np.testing.assert_array_equal(np.float32(row["activations"]), case.dense_NF[list(window), feature])
        assert window[row["center"]] == token and row["position"] == token % CONTEXT
        assert row["doc_id"] == case.document_N[token] and row["activation"] == case.dense_NF[token, feature]
        assert row["interval"] == brute_interval(row["activation"], case.maximum_F[feature])
        assert row["split"] == case.split_N[token]


def test_every_live_feature_has_held_out_examples(case):
    features, examples = read(case, "features"), read(case, "feature_examples")
    live = set(features.filter("alive")["feature"])
    assert live and live == set(examples.filter(split="held_out")["feature"])


def test_logit_effects(case):
    effect_FV = (case.sae.W_dec_FD.double() @ case.unembedding_DV.double()).numpy()
    logits = read(case, "feature_logits")
    assert len(logits) == F * 2 * SETTINGS.n_logits
    for (feature, sign), rows in logits.group_by("feature", "sign"):
        effect = effect_FV[feature] if sign == "+" else -effect_FV[feature]
        rows = rows.sort("rank")
        assert rows["token_id"].to_list() == np.argsort(-effect)[: SETTINGS.n_logits].tolist()
        np.testing.assert_allclose(rows["effect"], effect_FV[feature][rows["token_id"]], rtol=1e-5)
        assert rows["token"].to_list() == [case.corpus.token_text[t] for t in rows["token_id"]]


def test_bytes_depend_neither_on_chunks_nor_on_the_run(case, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    args = (case.corpus, case.activations, case.sae, case.unembedding_DV, SETTINGS, 64)
    write_feature_stats(*args, again, chunk_rows=300)
    for path in sorted(case.work.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    whole = tmp_path / "whole"
    whole.mkdir()
    write_feature_stats(*args, whole)
    for path in sorted(case.work.glob("feature*.parquet")):
        assert pl.read_parquet(path).equals(pl.read_parquet(whole / path.name)), path.name


def test_an_sae_that_never_fires_has_dead_features_and_no_examples(tmp_path, case):
    class Silent(Sae):
        def encode_sparse(self, r_ND):
            nothing = torch.zeros(0, dtype=torch.long)
            return SimpleNamespace(offsets=torch.zeros(len(r_ND) + 1, dtype=torch.long), feature=nothing, value=torch.zeros(0))

    sae = Silent(case.activations)
    outcome = write_feature_stats(case.corpus, case.activations, sae, case.unembedding_DV, SETTINGS, 64, tmp_path)  # pyright: ignore[reportArgumentType]
    assert outcome.metadata["n_alive"] == outcome.metadata["n_examples"] == 0
    for name, n_rows in (("features", F), ("feature_intervals", 0), ("feature_examples", 0), ("feature_correlations", 0)):
        assert len(check(name, pl.read_parquet(tmp_path / f"{name}.parquet"))) == n_rows
    assert SparseActivations.open(tmp_path / "activations_train.parquet").n_units == F
