"""The steering comparison: directions and scores on planted cases, and the whole stage on the tiny model."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from assets.steering_comparison import every_method
from sae_pipeline.errors import UserError
from sae_pipeline.plan_generation import asked_tokens
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import Intervention, Push
from sae_pipeline.steering.output_score import Candidate
from sae_pipeline.steering.prompts import load_prompts
from sae_pipeline.study import load_study
from sae_pipeline.study_survey import SteeringComparison
from sae_pipeline.survey.checklist import read_checklist
from sae_pipeline.survey.steering.build import best_factors, build_steering_comparison, choosing_requests, reporting_requests
from sae_pipeline.survey.steering.concepts import read_questions, read_topics
from sae_pipeline.survey.steering.cost import CAPABILITY_FACTORS, MultipleChoice
from sae_pipeline.survey.steering.dose import DOSE_FACTORS, FAR_FACTORS
from sae_pipeline.survey.steering.dose_results import held_out_blocks
from sae_pipeline.survey.steering.features import N_UNSELECTED, Choice, Direction
from sae_pipeline.survey.steering.methods import (
    BASELINE,
    CLAMP,
    FEW_FEATURE,
    FEW_MEANS,
    METHODS,
    PROMPT_ONLY,
    PROMPT_SIDE,
    RANDOM,
    RESPONSE_ONLY,
    Steerable,
    steered_at,
)
from sae_pipeline.survey.steering.results import NAMES, Comparison
from sae_pipeline.survey.steering.scoring import summary
from sae_pipeline.survey.verdicts import passes
from tests.tiny_steering import N_FEATURES


def texts(hits: list[bool], factor: float, half: str = "choose") -> pl.DataFrame:
    n = len(hits)
    return pl.DataFrame({
        "concept": ["sea"] * n, "control": ["sae_clamp"] * n, "factor": [factor] * n, "half": [half] * n, "hit": hits,
        "fluent": [True] * n, "relevant": [True] * n,
    })  # fmt: skip


def test_the_factor_of_the_best_harmonic_mean_is_chosen_and_of_equals_the_smallest():
    rows = summary(pl.concat([texts([True, False], 1.0), texts([True, True], 2.0), texts([True, True], 1.5)]))
    assert best_factors(rows) == {("sea", "sae_clamp"): 1.5}
    two = rows.filter(pl.col("factor") == 1.0).row(0, named=True)
    assert two["hit_rate"] == pytest.approx(1.5 / 3) and two["fluent_rate"] == pytest.approx(2.5 / 3)
    assert two["score"] == pytest.approx(3 / (2 + 1.2 + 1.2))


def test_a_share_of_wins_whose_interval_holds_an_even_match_is_no_win():
    def few(feature: list[float], means: list[float]):
        report = pl.concat([
            pl.DataFrame({"concept": [f"c{i}" for i in range(len(scores))], "control": method, "score": scores})
            for method, scores in ((FEW_FEATURE, feature), (FEW_MEANS, means))
        ])  # fmt: skip
        found = [SimpleNamespace(topic=SimpleNamespace(name=f"c{i}")) for i in range(len(feature))]
        return Comparison(report, pl.DataFrame(), found, len(found), 1024)._few(seed=0)  # pyright: ignore[reportArgumentType]

    close = few([1.0] * 7 + [0.0] * 5, [0.5] * 12)  # 7 wins of 12
    assert close.value == pytest.approx(7 / 12) and close.difference == pytest.approx(1 / 12)
    assert close.difference_low is not None and close.difference_low < 0
    need = next(need for section in read_checklist() for row in section.rows if row.row == 37 for need in row.needs)
    assert not passes(need, asdict(close)) and passes(need, asdict(few([1.0] * 12, [0.5] * 12)))
    even = few([0.5] * 12, [0.5] * 12)
    assert (even.value, even.difference_low, even.difference_high) == (0.5, 0.0, 0.0) and not passes(need, asdict(even))


def planted_steerable() -> Steerable:
    candidates = [Candidate(feature, 2.0 + feature, [5]) for feature in range(3)]
    along = Direction(torch.nn.functional.normalize(torch.ones(16), dim=0), 3.0)
    directions: dict[str, Direction] = dict.fromkeys(("difference_of_means", "probe", "pca", RANDOM, FEW_MEANS), along)
    return Steerable(
        0, read_topics(1)[0][0], Choice(candidates[0], candidates[1], (candidates[2],) * N_UNSELECTED), candidates[2], directions
    )


def test_every_method_reports_at_the_factor_that_it_chose_itself():
    each, prompts = planted_steerable(), load_prompts(4)
    asked = choosing_requests([each], prompts, [1, 2])
    assert {(request.arm.control, request.arm.factor) for request in asked if request.arm.factor} == {
        (method, factor) for method in METHODS for factor in (1, 2)
    }
    best = {(each.topic.name, method): 1.0 + place for place, method in enumerate(METHODS)}
    reported = {
        (request.arm.control, request.arm.factor)
        for request in reporting_requests([each], prompts, best, 1)
        if request.arm.factor and abs(request.arm.factor) < 100
    }
    assert reported == {(method, factor) for (_, method), factor in best.items()}
    sides = [each.arm(method, 2.0) for method in (CLAMP, PROMPT_SIDE, RESPONSE_ONLY)]
    assert sides[0].push == sides[1].push == sides[2].push
    assert [steered_at(side.control) for side in sides] == ["not_massive", "prompt", "response"]


def test_committed_files_are_sound():
    topics, neutral = read_topics(30)
    assert len(topics) == 30 and [topic.theme for topic in topics if topic.theme] == ["science", "transit", "tourism"]
    for topic in topics:
        assert len(topic.texts) == 4 and len(set(topic.concept.terms)) >= 5
        assert all(map(topic.concept.in_text, topic.texts)), topic.name
        assert not any(map(topic.concept.in_text, neutral)), topic.name
        assert not any(topic.concept.in_text(prompt.text) for prompt in load_prompts(12)), topic.name
    questions = read_questions()
    assert len(questions) == len({question.ask for question in questions}) == 96
    assert sum(question.first for question in questions) == 24
    assert {len(set(question.answers)) for question in questions} == {3}
    with pytest.raises(UserError, match="there are 30"):
        read_topics(31)


@pytest.fixture(scope="module")
def compared(tiny_artefacts, tmp_path_factory):
    work = tmp_path_factory.mktemp("comparison")
    settings = SteeringComparison(
        n_concepts=3,
        factors=[1, 2],
        n_prompts=4,
        samples_per_prompt=1,
        max_new_tokens=4,
        n_capability_features=2,
        n_cost_blocks=2,
    )
    made = tiny_artefacts
    return work, build_steering_comparison(made.lm, made.corpus, made.sae, made.feature_stats, settings, N_FEATURES, work)


def test_every_method_is_scored_on_every_concept_beside_its_controls(compared):
    work, outcome = compared
    rows = pl.read_parquet(work / "steering_methods.parquet")
    assert outcome.metadata["n_concepts"] == rows["concept"].n_unique() > 0
    assert every_method(work).passed
    assert set(rows["method"]) == {*METHODS, PROMPT_ONLY}
    measured = pl.read_parquet(work / "measurements.parquet")
    assert {
        "both_sides_over_prompt_side",
        "both_sides_over_response_only",
        "output_score_over_input_score",
        "clamp_over_random",
        "few_shot_wins",
        "repetition_at_100",
        "sweet_spot_width",
        "on_target_share",
        "held_out_cost",
    } | set(NAMES) <= set(measured["measurement"])
    assert measured["control_value"].is_not_null().all() and measured["files_sha"].n_unique() == 1
    rows.filter(pl.col("method") != "probe").write_parquet(work / "steering_methods.parquet")
    assert "methods are missing for" in every_method(work).summary


def test_costs_are_those_of_the_model_run_by_hand(compared, tiny_artefacts):
    work, _ = compared
    lm, sae = tiny_artefacts.lm, SparseAutoencoder.load(tiny_artefacts.sae)
    rows = pl.read_parquet(work / "steering_costs.parquet")
    assert set(rows["factor"]) == set(CAPABILITY_FACTORS) and set(rows["control"]) == {"none", "random_feature"}
    doses = pl.read_parquet(work / "steering_doses.parquet")
    assert {control: set(part["factor"]) for (control,), part in doses.group_by(["control"])} == {
        "none": {*DOSE_FACTORS, *FAR_FACTORS}, "random_direction": {*DOSE_FACTORS, *FAR_FACTORS},
        "random_feature": set(DOSE_FACTORS),
    }  # fmt: skip
    row = rows.filter(pl.col("factor") == 2.0).row(0, named=True)
    maximum = pl.read_parquet(tiny_artefacts.feature_stats / "features.parquet")["max_activation"][row["feature"]]
    ids_BT = held_out_blocks(tiny_artefacts.corpus, SteeringComparison(n_cost_blocks=2))
    counted_BT = ~torch.isin(ids_BT[:, 1:], torch.tensor(sorted(lm.special_ids)))

    def nats() -> float:
        with torch.no_grad():
            log_p_BTV = lm.model(input_ids=ids_BT).logits[:, :-1].log_softmax(-1)
        return float(-log_p_BTV.gather(2, ids_BT[:, 1:, None]).squeeze(2)[counted_BT].mean())

    plain = nats()
    edit = Intervention(sae, [[Push(2.0 * maximum, "clamp", row["feature"])]], sae.config["threshold_norm"])
    with lm.edited(edit):
        assert nats() - plain == pytest.approx(row["extra_nats"], abs=1e-4)


def test_rising_doses_are_counted_beside_those_of_the_random_direction(compared):
    work, _ = compared
    doses = pl.read_parquet(work / "steering_doses.parquet").filter(pl.col("factor").is_in(DOSE_FACTORS))
    share = {}
    for (control, concept), part in doses.group_by(["control", "concept"]):
        ranks = part.select(pl.col("factor", "rise").rank()).to_numpy()
        correlation = np.corrcoef(ranks.T)[0, 1] if ranks[:, 1].std() else 0.0
        share.setdefault(control, {})[concept] = correlation >= 0.8
    rows = pl.read_parquet(work / "measurements.parquet").rows_by_key("measurement", named=True, unique=True)
    for name, control in (("", "random_feature"), ("_over_random_direction", RANDOM)):
        one = rows[f"monotone_dose_share{name}"]
        assert one["value"] == pytest.approx(np.mean([*share["none"].values()]))
        assert one["control_value"] == pytest.approx(np.mean([*share[control].values()])), control
        assert one["difference"] == pytest.approx(one["value"] - one["control_value"])


def test_with_too_few_concepts_every_measurement_says_why(tiny_artefacts, tmp_path, monkeypatch):
    monkeypatch.setattr("sae_pipeline.survey.steering.build.make_steerable", lambda *args: ([], ["islands", "military"]))
    made, settings = tiny_artefacts, SteeringComparison(n_concepts=2, n_prompts=4)
    build_steering_comparison(made.lm, made.corpus, made.sae, made.feature_stats, settings, N_FEATURES, tmp_path)
    measured = pl.read_parquet(tmp_path / "measurements.parquet")
    assert set(measured["measurement"]) == set(NAMES) and set(measured["status"]) == {"not_testable"}
    assert set(measured["ceiling"]) == {0.0}, "a row that is not testable says how many concepts there were"
    assert every_method(tmp_path).passed and "0 of 2 concepts" in measured["why"][0]


def test_factors_are_chosen_on_one_half_and_reported_on_the_other(compared):
    work, _ = compared
    said = pl.read_parquet(work / "comparison_texts.parquet")
    halves = {half: set(part["prompt_id"]) for (half,), part in said.group_by(["half"])}
    assert halves["choose"] and halves["report"] and not halves["choose"] & halves["report"]
    assert set(said.filter(pl.col("half") == "choose")["factor"].drop_nulls()) == {1.0, 2.0}
    far = said.filter(pl.col("factor").abs() == 100)
    assert set(far["half"]) == {"report"}
    assert set(far.select("method", "factor").iter_rows()) == {
        (method, sign * 100.0) for method in (CLAMP, RANDOM) for sign in (-1, 1)
    }


def test_prompt_and_answer_are_steered_alone_and_together_each_at_a_factor_of_its_own(compared):
    work, _ = compared
    said = pl.read_parquet(work / "comparison_texts.parquet").filter(pl.col("factor").abs() < 100)
    sides = {method: said.filter(pl.col("method") == method) for method in (CLAMP, PROMPT_SIDE, RESPONSE_ONLY)}
    keys = ["concept", "feature", "factor", "prompt_id", "sample"]
    tried = [part.filter(pl.col("half") == "choose").select(keys).rows() for part in sides.values()]
    assert tried[0] == tried[1] == tried[2] and {row[2] for row in tried[0]} == {1.0, 2.0}
    measured = pl.read_parquet(work / "measurements.parquet").filter(pl.col("measurement") == "prompt_side_over_response_only")
    rows = pl.read_parquet(work / "steering_methods.parquet")
    assert measured["value"][0] == pytest.approx(rows.filter(pl.col("method") == PROMPT_SIDE)["score"].mean())
    assert measured["control_value"][0] == pytest.approx(rows.filter(pl.col("method") == RESPONSE_ONLY)["score"].mean())


def test_a_question_is_answered_as_the_whole_model_answers_it(tiny_artefacts):
    lm, questions = tiny_artefacts.lm, read_questions()[:5]
    correct_Q, log_p = MultipleChoice(lm, questions)(None)
    by_hand, right = [], []
    for question in questions:
        means = []
        for answer in question.answers:
            ask, said = lm.tokenize(question.ask, bos=True), lm.tokenize(f" {answer}", bos=False)
            with torch.no_grad():
                log_p_TV = lm.model(input_ids=torch.tensor([[*ask, *said]])).logits[0].log_softmax(-1)
            means.append(float(np.mean([log_p_TV[len(ask) - 1 + i, token] for i, token in enumerate(said)])))
        by_hand.append(max(means) == means[0])
        right.append(means[0])
    assert correct_Q.tolist() == by_hand and log_p == pytest.approx(np.mean(right), abs=1e-4)


def test_the_off_target_matrix_is_a_table_and_a_picture(compared):
    work, outcome = compared
    rows = pl.read_parquet(work / "steering_effects.parquet")
    concepts = set(rows["concept"])
    assert len(rows) == 2 * outcome.metadata["n_concepts"] ** 2 and set(rows["looked_for"]) == concepts
    assert set(rows["method"]) == {CLAMP, RANDOM} and rows["effect"].abs().max() <= 1  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]
    said = pl.read_parquet(work / "comparison_texts.parquet").filter(pl.col("half") == "report")
    chosen = pl.read_parquet(work / "steering_methods.parquet").filter(pl.col("method") == CLAMP)
    for row in rows.filter((pl.col("method") == CLAMP) & (pl.col("concept") == pl.col("looked_for"))).to_dicts():
        topic = next(each for each in read_topics(3)[0] if each.name == row["concept"])
        at = chosen.filter(pl.col("concept") == topic.name)["factor"][0]
        own = said.filter((pl.col("method") == CLAMP) & (pl.col("concept") == topic.name) & (pl.col("factor") == at))
        plain = said.filter(pl.col("method") == BASELINE)
        shares = [np.mean([topic.concept.in_text(text) for text in part["completion"]]) for part in (own, plain)]
        assert row["effect"] == pytest.approx(shares[0] - shares[1])
    for name in ("steering_methods", "steering_effects", "steering_doses"):
        assert all((work / f"{name}.{theme}.png").is_file() for theme in ("light", "dark"))


def test_the_plan_counts_every_text_that_is_asked_for():
    prompts, settings = load_prompts(5), SteeringComparison(n_concepts=3, n_prompts=5, samples_per_prompt=2, max_new_tokens=7)
    found = [replace(planted_steerable(), place=place, topic=topic) for place, topic in enumerate(read_topics(3)[0])]
    best = {(each.topic.name, method): 1.0 for each in found for method in METHODS}
    requests = [
        *choosing_requests(found, prompts, settings.factors),
        *reporting_requests(found, prompts, best, settings.samples_per_prompt),
    ]  # fmt: skip
    demo = load_study("studies/demo.yaml")
    study = demo.model_copy(update={"survey": demo.survey.model_copy(update={"steering_comparison": settings})})
    assert asked_tokens(study)["steering_comparison"] == 7 * len(requests)
    assert 89_000 < sum(asked_tokens(demo).values()) <= demo.survey.max_generated_tokens == 150_000
