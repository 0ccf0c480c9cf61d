"""Scaling laws on losses that follow a known law: exponents, optima, predictions and suggestions come out as they went in."""

import numpy as np
import polars as pl
import pytest

from sae_pipeline.cli.suggest import suggest
from sae_pipeline.errors import UserError
from sae_pipeline.study_survey_laws import ScalingLaws
from sae_pipeline.survey.checklist import Need
from sae_pipeline.survey.experiments.held_out import ByDocument
from sae_pipeline.survey.measurement import write_measurements
from sae_pipeline.survey.scaling import sweep
from sae_pipeline.survey.scaling.equal_l0 import equal_l0_measured
from sae_pipeline.survey.scaling.fits import flops, minimum, power_law
from sae_pipeline.survey.scaling.laws import fit_laws, law_table, resampled
from sae_pipeline.survey.scaling.measured import laws_measured, proxy_measured
from sae_pipeline.survey.verdicts import passes

SETTINGS = ScalingLaws(sizes=[2**i for i in range(6, 14)], steps=[2**j for j in range(4, 12)])
SMALL = ScalingLaws(sizes=[64, 128, 256, 512], steps=[16, 32, 64, 128])
D = 64


def planted_loss(size: float, steps: float) -> float:
    """Optimum at size = 16 budget^0.6 / ..., loss = 100 budget^-0.1 there, and a parabola in logarithms around it."""
    budget = size * steps
    best = 0.5 * budget**0.6
    return 100 * budget**-0.1 * np.exp(0.02 * np.log(size / best) ** 2)


@pytest.fixture(scope="module")
def runs() -> dict[tuple[int, int], float]:
    return {(arm.n_features, arm.n_steps): planted_loss(arm.n_features, arm.n_steps) for arm in sweep.grid(SETTINGS, 8)}


@pytest.fixture(scope="module")
def rates(runs) -> dict[int, dict[float, float]]:
    """Optimal rate 0.3 budget^-0.4."""
    return {
        budget: {arm.learning_rate: float(np.exp(np.log(arm.learning_rate / (0.3 * budget**-0.4)) ** 2)) for arm in arms}
        for budget, arms in sweep.rate_arms(SETTINGS, runs, 8).items()
    }


def test_a_power_law_is_found_and_two_equal_points_are_none():
    x = np.array([1.0, 10, 100, 1000])
    law = power_law(x, 3 * x**-0.25)
    assert (law.coefficient, law.exponent, law.r_squared) == pytest.approx((3, -0.25, 1))
    assert law.at(16) == pytest.approx(1.5)
    noisy = power_law(x, 3 * x**-0.25 * np.array([1, 1.2, 0.8, 1]))
    slope, offset = np.polyfit(np.log(x), np.log(3 * x**-0.25 * np.array([1, 1.2, 0.8, 1])), 1)
    assert noisy.exponent == pytest.approx(slope) and noisy.coefficient == pytest.approx(np.exp(offset)) and noisy.r_squared < 1
    with pytest.raises(ValueError, match="two different"):
        power_law(np.array([2.0, 2.0]), np.array([1.0, 2.0]))


def test_the_minimum_lies_between_grid_points_or_at_the_edge():
    x = np.array([1.0, 2, 4, 8])
    place, inside = minimum(x, np.exp(np.log(x / 3) ** 2))
    assert inside and place == pytest.approx(3)
    assert minimum(x, x) == (pytest.approx(1), False) and minimum(x, 1 / x) == (pytest.approx(8), False)


def test_compute_counts_two_dense_products_three_times():
    assert flops(10, 100, 7) == 7 * 3 * 2 * (2 * 10 * 100)


def test_every_budget_is_met_by_two_runs_and_no_token_is_seen_twice(runs):
    assert len(runs) == 8 * 8 - 2 and min(len(sweep.meeting(runs, budget)) for budget in sweep.budgets(runs)) == 2
    sweep.check_budget(SETTINGS, max(SETTINGS.steps) * SETTINGS.batch)
    with pytest.raises(UserError, match="exceed one epoch"):
        sweep.check_budget(SETTINGS, max(SETTINGS.steps) * SETTINGS.batch - 1)


def test_rates_are_swept_at_the_best_size_of_a_budget(runs):
    swept = sweep.rate_arms(SETTINGS, runs, 8)
    assert len(swept) == SETTINGS.n_rate_budgets
    for budget, arms in swept.items():
        assert [arm.learning_rate for arm in arms] == SETTINGS.rates
        best = min(sweep.meeting(runs, budget), key=lambda pair: runs[pair])
        assert {(arm.n_features, arm.n_steps) for arm in arms} == {best}


def test_planted_laws_come_back(runs, rates):
    laws = fit_laws(runs, rates, SETTINGS, D)
    assert laws.optimal_features.exponent == pytest.approx(0.6, abs=1e-6)
    assert laws.optimal_steps.exponent == pytest.approx(0.4, abs=1e-6)
    assert laws.loss.exponent == pytest.approx(-0.1, abs=0.01) and laws.loss.r_squared > 0.99
    assert laws.loss_held.error() < 0.02
    assert laws.optimal_learning_rate.exponent == pytest.approx(-0.4, abs=1e-6)
    assert laws.rate_held.steps("predicted", SETTINGS) < 1e-6
    budget = sweep.budgets(runs)[8]
    assert laws.optimal_features.at(flops(D, budget, SETTINGS.batch)) == pytest.approx(0.5 * budget**0.6, rel=1e-6)


def test_the_optimum_of_the_largest_budget_is_predicted_by_the_law_of_the_others(runs, rates):
    laws = fit_laws(runs, rates, SETTINGS, D)
    measured = {one.measurement: one for one in laws_measured(laws, [laws, laws], SETTINGS, len(runs))}
    factor = measured["optimal_features_held_out_factor"]
    assert factor.value == pytest.approx(1, abs=1e-6) and factor.control_value == pytest.approx(2**0.6, rel=1e-6)
    assert factor.difference_high is not None and factor.difference_high < 0
    # A largest budget whose optimum does not grow as the law of the others says: 1.5 times fewer features than that.
    last = sweep.budgets(runs)[np.flatnonzero([sweep.optimum(runs, budget)[1] for budget in sweep.budgets(runs)])[-1]]
    bent = {
        (size, steps): planted_loss(1.5 * size, steps / 1.5) if size * steps == last else loss
        for (size, steps), loss in runs.items()
    }
    assert fit_laws(bent, rates, SETTINGS, D).features_held.factor() == pytest.approx(1.5, rel=1e-6)
    both = [measured[f"optimal_{which}_exponent"] for which in ("features", "steps")]
    assert all(one.why is not None and "sum to 1 by construction" in one.why for one in both)


def test_the_largest_budget_takes_no_part_in_the_fit(runs, rates):
    changed = {pair: loss * (3 if pair[0] * pair[1] == sweep.budgets(runs)[-1] else 1) for pair, loss in runs.items()}
    before, after = (fit_laws(each, rates, SETTINGS, D) for each in (runs, changed))
    assert after.loss == before.loss
    assert after.loss_held.error() == pytest.approx(1 - (1 - before.loss_held.error()) / 3, abs=0.05)


def rates_with_optima(places: dict[int, float]) -> dict[int, dict[float, float]]:
    return {
        budget: {rate: float(np.exp(np.log(rate / place) ** 2)) for rate in SETTINGS.rates} for budget, place in places.items()
    }


def test_a_rate_at_the_edge_of_the_grid_is_no_optimum(runs, rates):
    """Of the smallest budget the optimum, 0.1, lies far above the largest rate that was tried."""
    first, *others = rates
    censored = fit_laws(runs, rates | rates_with_optima({first: 0.1}), SETTINGS, D)
    assert len(censored.points["optimal_learning_rate"][0]) == len(others)
    assert censored.optimal_learning_rate.exponent == pytest.approx(-0.4, abs=1e-6)
    assert censored.rate_held.steps("predicted", SETTINGS) < 1e-6
    last = list(rates)[-1]
    beyond = fit_laws(runs, rates | rates_with_optima({last: 1e-9}), SETTINGS, D)
    assert beyond.rate_held.measured == pytest.approx(0.3 * others[-2] ** -0.4)  # the largest that has an optimum
    edges = fit_laws(runs, rates_with_optima(dict.fromkeys(rates, 1.0)), SETTINGS, D)
    measured = {one.measurement: one for one in laws_measured(edges, [edges], SETTINGS, len(runs))}
    missing = measured["learning_rate_law_error_grid_steps"]
    assert missing.value is None and (missing.ceiling, missing.ceiling_threshold) == (0, 3)


def test_a_law_that_predicts_no_better_than_nothing_changed_does_not_pass(tmp_path, runs, rates):
    """Rates that fall for three budgets and then stay: the law goes on falling, and the budget before was right."""
    stays = rates_with_optima(dict(zip(rates, (4e-3, 2e-3, 1.5e-3, 1.5e-3), strict=True)))
    need = Need(measurement="learning_rate_law_error_grid_steps", at_most=1)

    def outcome(which) -> tuple[dict, bool]:
        laws = fit_laws(runs, which, SETTINGS, D)
        table = write_measurements(tmp_path, "scaling_laws", laws_measured(laws, [laws, laws], SETTINGS, len(runs)))
        row = table.filter(measurement=need.measurement).row(0, named=True)
        return row, passes(need, row)

    row, passed = outcome(stays)
    assert not passed and row["value"] < 1 and row["control_value"] == pytest.approx(0, abs=1e-9)
    row, passed = outcome(rates)
    assert passed and row["control_value"] == pytest.approx(0.4) and row["value"] == pytest.approx(0, abs=1e-6)
    assert fit_laws(runs, rates, SETTINGS, D).loss_held.error("before") == pytest.approx(2**0.1 - 1, abs=0.02)


def test_a_line_through_two_points_has_no_r_squared():
    x = np.array([1.0, 10, 10])
    assert np.isnan(power_law(x, np.array([3.0, 2, 2])).r_squared) and power_law(x, np.array([3.0, 2, 2])).exponent < 0
    noisy = {(arm.n_features, arm.n_steps): planted_loss(arm.n_features, arm.n_steps) for arm in sweep.grid(SMALL, 8)}
    repeated = {pair: np.full(300, loss * (1 + 0.05 * (pair[0] % 3))) for pair, loss in noisy.items()}
    rate = {budget: {r: np.ones(300) for r in SMALL.rates} for budget in sweep.budgets(noisy)[:4]}
    found = [laws.loss.r_squared for laws in resampled(repeated, rate, SMALL, D)]
    assert 0 < np.isnan(found).sum() < 300 and np.nanmax(found) < 1


def test_without_an_inner_optimum_there_is_no_law_and_no_suggestion(rates):
    falling = {(arm.n_features, arm.n_steps): 1 / arm.n_features for arm in sweep.grid(SETTINGS, 8)}
    laws = fit_laws(falling, rates, SETTINGS, D)
    table = law_table(laws, [laws], SETTINGS)
    assert table.filter(quantity="optimal_features")["exponent"].to_list() == [None]
    measured = {one.measurement: one for one in laws_measured(laws, [laws], SETTINGS, len(falling))}
    assert measured["optimal_features_exponent"].status == "too_few_examples"
    assert measured["optimal_features_held_out_factor"].ceiling == 0
    with pytest.raises(UserError, match="no optimum lay inside"):
        suggest(table, flops=1e12)


def test_intervals_hold_the_planted_exponents_and_widen_with_noise(runs, rates):
    random = np.random.default_rng(0)

    def width(noise: float) -> float:
        noisy = {pair: loss * np.exp(noise * random.normal(size=60)) for pair, loss in runs.items()}
        noisy_rates = {b: {rate: loss * np.ones(60) for rate, loss in each.items()} for b, each in rates.items()}
        table = law_table(fit_laws(runs, rates, SETTINGS, D), resampled(noisy, noisy_rates, SETTINGS, D), SETTINGS)
        row = table.filter(quantity="optimal_features").row(0, named=True)
        assert row["exponent_low"] - 1e-6 <= 0.6 <= row["exponent_high"] + 1e-6
        return row["exponent_high"] - row["exponent_low"]

    assert width(0.0) < 1e-6 < width(0.003) < width(0.02)


def test_a_suggestion_follows_the_laws_and_warns_far_outside(runs, rates):
    laws = fit_laws(runs, rates, SETTINGS, D)
    table = law_table(laws, [laws], SETTINGS)
    budget = sweep.budgets(runs)[10]
    compute = flops(D, budget, SETTINGS.batch)
    found = suggest(table, flops=compute)
    assert found.n_features == round(0.5 * budget**0.6) and found.n_steps == round(budget / (0.5 * budget**0.6))
    assert found.learning_rate == pytest.approx(0.3 * budget**-0.4, rel=1e-3) and not found.warnings
    same = suggest(table, n_tokens=found.n_steps * SETTINGS.batch)
    assert same.flops == pytest.approx(compute, rel=0.02)
    far = suggest(table, flops=1e6 * table["flops_high"][3]).warnings
    assert any(each.startswith("the learning rate: this budget lies a factor of 1,000,000 above the largest") for each in far)
    two = table.with_columns(n_budgets=pl.lit(2, pl.Int64))
    assert "the loss: its law goes through 2 budgets only" in suggest(two, flops=compute).warnings
    for wrong in ({}, {"flops": 1.0, "n_tokens": 1.0}, {"flops": -1.0}):
        with pytest.raises(UserError, match="exactly one"):
            suggest(table, **wrong)


def test_a_command_without_laws_names_the_survey(finished_study):
    code, _, errors = finished_study.command("suggest", "--budget", "1e12")
    assert code == 2 and "run --job survey" in errors


def test_loss_as_a_proxy_is_a_rank_correlation_over_runs():
    loss = np.linspace(1, 2, 12)
    frame = pl.DataFrame({
        "loss": loss, "rule_f1": np.exp(-loss), "rule_f1_shuffled": np.tile([0.1, 0.2], 6), "alive_fraction": np.ones(12)
    })  # fmt: skip
    own, alive = proxy_measured(frame, seed=0)
    assert own.value == pytest.approx(1) and own.low == pytest.approx(1) and own.control_value == pytest.approx(0, abs=0.5)
    assert alive.value is None and alive.status == "too_few_examples"


def equal_l0_sums(own_l0: tuple[float, ...], error: dict[str, float], relu_l0: tuple[float, ...] = (40.0, 10.0)) -> ByDocument:
    """Two pairs of arms, the same in every document. Explained variance is 1 - error / 10."""
    n = np.full(4, 10.0)
    l0: dict[str, float] = dict(zip(("a", "b", "ra", "rb"), (*own_l0, *relu_l0), strict=True))
    ratio: dict[str, float] = {"a": 0.97, "ra": 0.8, "b": 0.9, "rb": 0.7}
    error_AK, active_AK, ratio_AK = (np.stack([n * of[arm] for arm in error]) for of in (error, l0, ratio))
    return ByDocument(tuple(error), n, 10 * n, error_AK, active_AK, ratio_AK, (1, 1, 1, 1))


ERROR = {"a": 1.0, "ra": 2.0, "b": 3.0, "rb": 5.0}
PAIRS = [("a", "ra"), ("b", "rb")]


def test_equal_l0_compares_pairs_and_takes_the_densest_for_the_norm():
    sums = equal_l0_sums((40.0, 10.0), ERROR)
    over, least, ratio = equal_l0_measured(sums, PAIRS, ScalingLaws())
    assert over.value == pytest.approx(0.8) and over.control_value == pytest.approx(0.65)
    assert over.difference_low == pytest.approx(0.15)
    assert (least.value, least.control_value, least.difference_low) == pytest.approx((0.9, 0.8, 0.1))
    assert ratio.value == pytest.approx(0.97) and ratio.control_value == pytest.approx(0.8)
    assert sums.l0("b") == 10
    assert all("learning rate was not swept (one rate, 0.002)" in (each.why or "") for each in (over, least, ratio))


def test_a_curve_that_is_only_shifted_along_l0_gains_nothing():
    """Both lie on the straight line from 0.5 at an L0 of 10 to 0.8 at 40; batch_topk was trained at twice the L0."""
    error = {"a": 2 - 1.5, "ra": 2.0, "b": 5 - 1.5, "rb": 5.0}
    over, least, _ = equal_l0_measured(equal_l0_sums((80.0, 20.0), error), PAIRS, ScalingLaws())
    assert over.value == pytest.approx(over.control_value) and least.difference_low == pytest.approx(0, abs=1e-12)
    apart, *_ = equal_l0_measured(equal_l0_sums((800.0, 200.0), error), PAIRS, ScalingLaws())
    assert apart.value is None and (apart.ceiling, apart.ceiling_threshold) == (0, 1)


def test_sizes_that_do_not_double_are_refused():
    for wrong in ({"sizes": [16, 32, 64, 100]}, {"steps": [3, 9, 27, 81]}, {"rates": [1e-3, 2e-3, 4e-3, 8e-3, 9e-3]}):
        with pytest.raises(ValueError, match=r"double|factor"):
            ScalingLaws.model_validate(wrong)
