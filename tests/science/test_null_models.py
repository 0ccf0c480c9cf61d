"""The survey's own small SAEs and their nulls, on planted directions: what is found, what is not, and every number by hand."""

import shutil

import numpy as np
import polars as pl
import pytest
import torch

from assets.null_models import equally_sparse
from assets.scaling_laws import laws_refitted
from sae_pipeline.resampling import draws, interval, mean_and_interval
from sae_pipeline.sae.metrics import Reconstruction
from sae_pipeline.sae.parameters import initial_parameters
from sae_pipeline.sae.source import PermutedStream
from sae_pipeline.sae.splice import SpliceResult
from sae_pipeline.study_survey_laws import NullModels
from sae_pipeline.survey.experiments.arms import Arm, threshold_for, train_arms
from sae_pipeline.survey.experiments.held_out import SaeDictionary, measure
from sae_pipeline.survey.experiments.null_splices import splices_measured
from sae_pipeline.survey.experiments.synthetic import BATCH, D_MODEL, N_ACTIVE, PlantedStream, best_cosines
from sae_pipeline.survey.experiments.untrained import PrincipalComponents, RandomDirections
from sae_pipeline.survey.null_measurements import recovery_measured
from tests.science.planted import PlantedActivations

K = 3
SEED = 5  # not that of the planted directions: the same generator would draw them as decoder rows


@pytest.fixture(scope="module")
def planted() -> PlantedActivations:
    return PlantedActivations()


def arms_of(planted, folder, *arms: Arm):
    return train_arms(arms, lambda: PermutedStream(planted, 256, 1), 256, planted.mean_D, planted.scale, folder)


@pytest.fixture(scope="module")
def trained(planted, tmp_path_factory):
    """An SAE of as many features as directions, and one whose decoder is never trained."""
    folder = tmp_path_factory.mktemp("arms")
    specs = [Arm(name, "batch_topk", 96, 200, 5e-3, K, SEED, name == "frozen") for name in ("trained", "frozen")]
    return folder, specs, arms_of(planted, folder, *specs)


def test_only_a_trained_decoder_finds_what_was_planted(planted, trained):
    _, _, saes = trained
    found = {name: float((best_cosines(planted.direction_QD, sae) >= 0.9).float().mean()) for name, sae in saes.items()}
    assert found["trained"] > 0.7 and found["frozen"] < 0.05


def test_a_frozen_decoder_is_the_one_that_was_drawn(planted, trained):
    drawn = initial_parameters(96, planted.d_model, 1.0, torch.Generator().manual_seed(2 * SEED), "cpu").W_dec_FD
    _, _, saes = trained
    assert torch.equal(saes["frozen"].W_dec_FD, drawn / drawn.norm(dim=1, keepdim=True))
    assert not torch.allclose(saes["trained"].W_dec_FD, drawn, atol=0.1)


def test_both_have_the_same_number_of_active_features(planted, trained):
    _, _, saes = trained
    sums = measure(planted, {name: SaeDictionary(sae) for name, sae in saes.items()}, 10**6)
    assert sums.l0("trained") == pytest.approx(K, rel=0.1) and sums.l0("frozen") == pytest.approx(K, rel=0.1)


def test_finished_arms_are_taken_up_and_an_arm_does_not_depend_on_the_others(planted, trained, tmp_path):
    folder, specs, saes = trained
    again = train_arms(specs, lambda: pytest.fail("nothing is left to train"), 256, planted.mean_D, planted.scale, folder)
    alone = arms_of(planted, tmp_path, specs[0])
    for other in (again["trained"], alone["trained"]):
        assert all(torch.equal(other.weights[name], value) for name, value in saes["trained"].weights.items())


def test_every_architecture_becomes_an_arm_and_mixed_arms_are_those_trained_alone(planted, tmp_path):
    sparsity_of = {"relu_l1": 0.5, "gated": 0.7, "jumprelu": 0.5, "topk": K, "batch_topk": K + 1, "matryoshka": K}
    arms = [Arm(name, name, 64, 6, 5e-3, value, seed) for seed, (name, value) in enumerate(sparsity_of.items())]  # pyright: ignore[reportArgumentType]
    together = arms_of(planted, tmp_path / "together", *arms)
    for arm in arms:
        sae = together[arm.name]
        assert sae.config["architecture"] == arm.name and sae.config["n_tokens_trained"] == 6 * 256
        assert torch.isfinite(sae.reconstruct(planted.gather(torch.arange(50)))).all()
        alone = arms_of(planted, tmp_path / "alone", arm)[arm.name]
        assert all(torch.equal(alone.weights[name], value) for name, value in sae.weights.items())


def test_the_threshold_leaves_k_features_per_token(trained):
    sae = trained[2]["trained"]
    x_ND = torch.randn(100, sae.d_model, generator=torch.Generator().manual_seed(3))
    z_NF = x_ND @ sae.W_enc_FD.T + sae.b_enc_F
    assert int((z_NF > threshold_for(sae, x_ND, 7)).sum()) == 700


def test_sums_by_document_are_those_of_all_tokens(planted, trained):
    sae = trained[2]["trained"]
    index = planted.token_index("held_out")
    sums = measure(planted, {"sae": SaeDictionary(sae)}, 10**6)
    r_ND = planted.gather(index)
    x_ND, x_hat_ND = sae.scaled(r_ND), sae.scaled(sae.reconstruct(r_ND))
    whole = Reconstruction(planted.d_model)
    whole.add(x_ND, x_hat_ND)
    assert float(sums.explained_variance("sae")[0]) == pytest.approx(whole.explained_variance(), abs=1e-6)
    assert float(sums.loss("sae")[0]) == pytest.approx(whole.mse() * planted.d_model, rel=1e-6)
    assert float(sums.norm_ratio("sae")[0]) == pytest.approx(float((x_hat_ND.norm(dim=1) / x_ND.norm(dim=1)).mean()), rel=1e-5)
    first = planted.document_of_token[index] == planted.document_of_token[index][0]
    only_first = np.eye(len(sums.n_K))[:1]
    error = float((x_ND - x_hat_ND)[first].square().sum(1).mean())
    assert float(sums.loss("sae", only_first)[0]) == pytest.approx(error, rel=1e-5)
    assert measure(planted, {"sae": SaeDictionary(sae)}, 100).n_K.sum() <= 100


def test_components_are_those_of_a_singular_value_decomposition(planted):
    components = PrincipalComponents.fit(planted, 10**6, 5)
    x_ND = planted.scaled(planted.gather(planted.token_index("train")))
    _, _, V_DD = torch.linalg.svd(x_ND - x_ND.mean(0), full_matrices=False)
    assert torch.allclose((components.component_DD[:5] * V_DD[:5]).sum(1).abs(), torch.ones(5), atol=1e-3)
    x_hat_ND, active_N, _ = components(x_ND, x_ND)
    best = (x_ND - x_ND.mean(0)) @ V_DD[:5].T @ V_DD[:5] + x_ND.mean(0)
    assert torch.allclose(x_hat_ND, best, atol=1e-3) and (active_N == 5).all()


def test_random_directions_are_decoded_by_least_squares(planted):
    random = RandomDirections.draw(40, planted.d_model, 4, seed=0)
    x_ND = planted.scaled(planted.gather(torch.arange(20)))
    x_hat_ND, _, _ = random(x_ND, x_ND)
    for x_D, x_hat_D in zip(x_ND, x_hat_ND, strict=True):
        chosen = (random.direction_FD @ x_D).topk(4).indices
        A = random.direction_FD[chosen].T.double()
        solution = torch.linalg.lstsq(A, x_D.double()[:, None]).solution
        assert torch.allclose(x_hat_D.double(), (A @ solution).squeeze(1), atol=1e-2)


def test_planted_tokens_are_sums_of_few_of_more_directions_than_dimensions():
    stream = PlantedStream(5, BATCH)
    x_ND = stream.next()
    assert len(stream.direction_QD) > D_MODEL == x_ND.shape[1]
    assert float(x_ND.square().sum(1).mean()) == pytest.approx(D_MODEL, rel=0.1)
    projection_NQ = x_ND @ stream.direction_QD.T
    assert float((projection_NQ > 0.6 * projection_NQ.amax(1, keepdim=True)).sum(1).float().mean()) < 2 * N_ACTIVE
    assert torch.equal(PlantedStream(5, BATCH, tokens=1).direction_QD, stream.direction_QD)
    assert not torch.equal(PlantedStream(5, BATCH, tokens=1).next(), x_ND)


def test_no_training_starts_from_the_planted_directions():
    for seed in range(5):
        drawn = initial_parameters(256, D_MODEL, 1.0, torch.Generator().manual_seed(2 * seed), "cpu").W_dec_FD
        cosine_QF = PlantedStream(seed, BATCH).direction_QD @ drawn.T
        assert float(cosine_QF.detach().max()) < 0.8


def test_the_recovery_that_is_measured_is_the_best_architectures():
    table = pl.DataFrame({
        "architecture": ["batch_topk", "batch_topk", "gated", "gated", "frozen decoder", "frozen decoder"], "seed": [0, 1] * 3,
        "n_planted": [100] * 6, "n_recovered": [90, 94, 98, 99, 10, 0],
    })  # fmt: skip
    one = recovery_measured(table, NullModels(n_seeds=2))
    assert one.value == pytest.approx(0.92) and one.control_value == pytest.approx(0.05) and "batch_topk" in one.metric
    assert one.why is not None and one.why.endswith("the others: gated 0.985")  # better, and not what the control is
    assert one.low is not None and one.high is not None and one.difference_low is not None
    assert 0.8 < one.low < 0.92 < one.high < 1 and one.difference_low > 0.7 and one.n_scored == 200


def test_intervals_cover_the_mean_as_often_as_they_say():
    random = np.random.default_rng(0)
    hits = sum(low <= 0 <= high for _, low, high in (mean_and_interval(random.normal(size=60), i) for i in range(200)))
    assert 175 <= hits <= 199
    assert (draws(5, 0, 7).sum(1) == 5).all()
    assert np.isnan(interval(np.array([np.nan]))).all()


def spliced(ce_spliced: list[float], ce_zero: float = 12.0) -> SpliceResult:
    """Two tokens of each of three documents, of which a clean model has 2 nats."""
    tokens = pl.DataFrame(
        {"ce_clean": 2.0, "ce_zero": ce_zero, "ce_mean": 7.0, "ce_spliced": ce_spliced, "doc_id": [0, 0, 1, 1, 2, 2]}
    )
    mean = tokens.drop("doc_id").mean().row(0, named=True)
    return SpliceResult(n_tokens=6, kl=0.0, tokens=tokens, **mean)


def test_cross_entropy_recovered_of_a_null_is_paired_by_document():
    own, null = spliced([2.0, 4.0, 3.0, 3.0, 3.0, 3.0]), spliced([7.0, 9.0, 7.0, 7.0, 8.0, 10.0])
    (one,) = splices_measured(own, {"frozen decoder": null}, 0, "figure")
    assert one.measurement == "ce_recovered_over_frozen_decoder" and one.n_scored == 6
    assert one.value == pytest.approx(0.9) and one.control_value == pytest.approx(0.4)
    # Every document of ours recovers .9; those of the null .4, .5 and .3.
    assert one.low == pytest.approx(0.9) and one.high == pytest.approx(0.9)
    assert one.difference_low is not None and one.difference_high is not None
    assert 0.399 < one.difference_low < 0.5 < one.difference_high < 0.601


def test_where_zero_ablation_does_no_harm_nothing_is_recovered():
    harmless = spliced([2.0] * 6, ce_zero=1.5)
    (one,) = splices_measured(harmless, {"frozen decoder": harmless}, 0, "figure")
    assert one.value is None and one.status == "too_few_examples" and one.n_scored == 0 and one.n_attempted == 6


@pytest.fixture(scope="module")
def surveyed(finished_study, tmp_path_factory):
    """A copy of the tiny study with both stages built as the command line builds them, checks included."""
    study = finished_study.at(tmp_path_factory.mktemp("surveyed") / "study")
    shutil.copytree(finished_study.folder, study.folder)
    for stage in ("null_models", "scaling_laws"):
        code, output, errors = study.command("run", "--only", stage)
        assert code == 0, output + errors
    return study.store


def test_null_models_of_a_study_measure_what_the_checklist_asks(surveyed):
    folder = surveyed.path("null_models")
    rows = {row["measurement"]: row for row in pl.read_parquet(folder / "measurements.parquet").iter_rows(named=True)}
    assert rows["synthetic_recovery"]["control_value"] is not None
    over = rows["explained_variance_over_frozen_decoder"]
    assert over["difference_low"] <= over["difference"] <= over["difference_high"]
    nulls = [row for name, row in rows.items() if name.startswith(("specificity_", "rule_f1_"))]
    assert nulls and all(row["why"].endswith("at the smallest size, one SAE seed") for row in nulls if row["status"] == "ok")
    arms = pl.read_parquet(folder / "null_model_reconstruction.parquet")
    spliced = arms.filter(pl.col("n_tokens_spliced").is_not_null())
    assert sorted(spliced["arm"]) == ["frozen decoder", "principal components", "random directions", "trained SAE"]
    assert set(arms["arm"]) == {"trained SAE", "frozen decoder", "principal components", "random directions", "random model"}
    assert not (folder / "arms").exists() and (folder / "null_models.dark.png").stat().st_size > 1000


def test_a_frozen_decoder_is_compared_at_equal_sparsity(surveyed, tmp_path):
    table = pl.read_parquet(surveyed.path("null_models") / "null_model_reconstruction.parquet")
    for l0, passes in ((8.5, True), (9.0, False)):
        changed = pl.when(pl.col("arm") == "frozen decoder").then(l0).otherwise(8.0)
        table.with_columns(l0=changed).write_parquet(tmp_path / "null_model_reconstruction.parquet")
        assert equally_sparse(tmp_path).passed == passes
    table.filter(pl.col("arm") != "frozen decoder").write_parquet(tmp_path / "null_model_reconstruction.parquet")
    assert not equally_sparse(tmp_path).passed


def test_the_laws_of_a_study_follow_from_its_runs(surveyed, tmp_path):
    folder = surveyed.path("scaling_laws")
    runs = pl.read_parquet(folder / "scaling_runs.parquet")
    assert runs.group_by("experiment").len().sort("experiment").rows() == [("equal_l0", 6), ("grid", 14), ("rate", 20)]
    assert {row["measurement"] for row in pl.read_parquet(folder / "measurements.parquet").iter_rows(named=True)} >= {
        "loss_law_r_squared", "loss_law_held_out_error", "optimal_features_exponent", "optimal_steps_exponent",
        "learning_rate_law_error_grid_steps", "loss_as_proxy", "topk_over_relu_l1_at_matched_l0", "reconstruction_norm_ratio",
    }  # fmt: skip
    assert laws_refitted(folder).passed
    shutil.copy(folder / "scaling_laws.parquet", tmp_path)
    smallest = pl.col("flops") == runs.filter(experiment="grid")["flops"].min()
    runs.with_columns(loss=pl.when(smallest).then(2 * pl.col("loss")).otherwise("loss")).write_parquet(
        tmp_path / "scaling_runs.parquet"
    )
    assert not laws_refitted(tmp_path).passed
