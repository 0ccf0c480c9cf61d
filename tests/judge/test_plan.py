"""The plan against what a run really asks, on the planted world."""

import pytest

from sae_pipeline.interpret.judge_plan import plan_judge, show
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import parse_study
from tests.judge.conftest import MODEL
from tests.judge.test_judged import EXPLAIN, KEY, SCORE, build


def study(api, name: str, **judge):
    return parse_study(
        {
            "name": name, "model": {"source": "hub", "id": "gpt2"}, "hook": {"after_block": 0}, "sae": {"sizes": [9], "k": 3},
            "corpus": {"sources": [{"kind": "builtin", "name": "python_stdlib", "tokens": 1000}]},
            "activations": {"n_neurons": 6}, "explain": EXPLAIN.model_dump(), "score": SCORE.model_dump(),
            "judge": {"backend": "anthropic", "model": MODEL, "base_url": api.url, "budget_usd": 5.0} | judge,
        }
    )  # fmt: skip


def test_the_plan_says_what_the_run_asks(api, folders, embedder, tmp_path, monkeypatch):
    from tests.judge.oracle import oracle

    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    api.answer = oracle
    store = ArtifactStore(study(api, "planned"), root=tmp_path)
    before = plan_judge(store, [9])
    assert before is not None and not before.measured and not api.log and before.spent_usd == 0
    assert "estimated" in show(before) and "2026-10-10" in show(before)
    build(folders, embedder, store.root, tmp_path / "work", store.study.judge)
    n_calls = len(api.sent())
    # Without statistics of this size the plan assumes that every interval is full: an upper bound of the right order.
    assert n_calls <= before.n_calls < 4 * n_calls
    after = plan_judge(store, [9])
    assert after is not None and after.spent_usd == pytest.approx(sum(_cost(api)), rel=0.01)
    # Tokens per call, measured, are those of the run.
    assert after.n_tokens_input / after.n_calls == pytest.approx(_tokens(api) / n_calls, rel=0.35)


def _cost(api):
    for body in api.sent():
        usage = api.reply(body)[1]["usage"]
        yield (usage["input_tokens"] * 0.10 + usage["output_tokens"] * 0.50) / 1e6


def _tokens(api) -> int:
    return sum(api.reply(body)[1]["usage"]["input_tokens"] for body in api.sent())


def test_an_offline_study_has_no_judge_plan(api, tmp_path):
    raw = study(api, "offline").model_dump(mode="json") | {"judge": {}, "explain": {}, "score": {}}
    assert plan_judge(ArtifactStore(parse_study(raw), root=tmp_path), [9]) is None
