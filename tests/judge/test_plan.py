"""The plan against what a run really asks, on the planted world; the server counts with a tokenizer of its own."""

import pytest

from sae_pipeline.interpret.judge_plan import JudgePlan, plan_judge, show
from sae_pipeline.judge.count import count_tokens
from sae_pipeline.judge.key import Key
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import parse_study
from tests.judge.conftest import MODEL
from tests.judge.oracle import oracle
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


@pytest.fixture
def planned(api, folders, embedder, tmp_path, monkeypatch):
    """The world as a study's artefacts, the plans before and after a run, and what the run took."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    api.answer = oracle
    tokenizer = embedder._tokenizer.backend_tokenizer  # WordPiece: neither bytes nor the study's tokenizer
    api.count = lambda text: len(tokenizer.encode(text, add_special_tokens=False))
    store = ArtifactStore(study(api, "planned"), root=tmp_path)
    for name in ("corpus", "activations"):
        store.path(name).parent.mkdir(exist_ok=True)
        store.path(name).symlink_to(getattr(folders, name))
    store.path("feature_stats").mkdir()
    store.path("feature_stats", 9).symlink_to(folders.feature_stats)

    def plan(count=None) -> JudgePlan:
        found = plan_judge(store, [9], lambda text: len(text.encode()) // 4, count)
        assert found is not None
        return found

    before = plan()
    assert not api.log  # nothing is sent for a plan
    counted = plan(lambda requests, settings: count_tokens(Key(KEY), requests, settings))
    n_counted = len(api.sent("/v1/messages/count_tokens"))
    build(folders, embedder, store.root, tmp_path / "work", store.study.judge)
    usage = [api.usage_of(body, oracle(body)) for body in api.sent()]
    return before, counted, n_counted, plan(), usage


def test_the_plan_says_what_the_run_asks(planned):
    before, counted, n_counted, after, usage = planned
    actual_in, actual_out = sum(each[0] for each in usage), sum(each[1] for each in usage)
    assert before.spent_usd == 0 and "2026-10-10" in show(before) and "study's tokenizer" in before.how
    assert 0 < n_counted < len(usage) / 4 and "counted by the server" in counted.how
    # The oracle explains many units by the same word, and then some questions are the same.
    for plan in (before, counted, after):
        assert plan.n_calls == pytest.approx(len(usage), rel=0.1)
    assert counted.n_tokens_input == pytest.approx(actual_in, rel=0.1)
    assert after.n_tokens_input + after.n_tokens_output == pytest.approx(actual_in + actual_out, rel=0.1)
    assert after.spent_usd == pytest.approx((actual_in * 0.10 + actual_out * 0.50) / 1e6, rel=0.01)
    assert "measured on earlier calls" in after.how


def test_without_statistics_the_plan_assumes_that_everything_is_full(api, tmp_path):
    store = ArtifactStore(study(api, "unseen"), root=tmp_path)
    plan = plan_judge(store, [9], len)
    # Every feature alive and every interval full: an upper bound.
    assert plan is not None and "lengths assumed" in plan.how and plan.n_calls >= 150


def test_an_offline_study_has_no_judge_plan(api, tmp_path):
    raw = study(api, "offline").model_dump(mode="json") | {"judge": {}, "explain": {}, "score": {}}
    assert plan_judge(ArtifactStore(parse_study(raw), root=tmp_path), [9], len) is None
