import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.judge.batches import BatchJudge
from sae_pipeline.judge.interactive import InteractiveJudge
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.open import AbsentJudge, open_judge
from sae_pipeline.judge.probe import probe
from sae_pipeline.study import Judge, parse_study
from tests.fakes.messages_api import Fault
from tests.judge.conftest import MODEL, question


def test_the_section_chooses_the_judge(api, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    with open_judge(Judge(), tmp_path / "none", "run") as judge:
        assert judge is None and not (tmp_path / "none").exists()
    hosted = {"model": MODEL, "base_url": api.url, "budget_usd": 1.0}
    for backend, kind in (("anthropic", InteractiveJudge), ("anthropic-batch", BatchJudge)):
        with open_judge(Judge.model_validate({"backend": backend, **hosted}), tmp_path, "run") as judge:
            assert isinstance(judge, kind) and judge.ask([question()])[0].status == "ok"
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    n_before = len(api.log)
    with open_judge(Judge(backend="anthropic", **hosted), tmp_path, "run") as judge:
        assert isinstance(judge, AbsentJudge)
        # What is in the ledger needs no key.
        assert [reply.status for reply in judge.ask([question(), question(1)])] == ["ok", "not_run"]
    assert len(api.log) == n_before


def test_an_unknown_model_is_refused_before_anything_is_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    section = Judge(backend="anthropic", model="claude-unheard-of", budget_usd=1.0)
    with pytest.raises(UserError, match="no price"), open_judge(section, tmp_path, "run"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("structured", [True, False])
def test_a_local_server_is_probed_and_its_calls_are_free(api, tmp_path, structured):
    api.reset(structured=structured, temperature=True)
    api.key = "local"
    try:
        section = Judge(backend="local", model="any", base_url=api.url)
        with open_judge(section, tmp_path, "run") as judge:
            assert judge is not None and judge.settings.capabilities.structured == structured
            (reply,) = judge.ask([question()])
            assert reply.status == ("ok" if structured else "invalid") and reply.cost_usd == 0
    finally:
        api.key = "sk-test"


def test_a_server_of_something_else_is_named_as_such(api):
    api.script = [Fault(200, "<html>", media_type="text/html")]
    with pytest.raises(UserError, match="not as a Messages API"):
        probe(api.url, "any", Key("sk-test"))
    with pytest.raises(UserError, match="does not answer"):
        probe("http://127.0.0.1:9", "any", Key("sk-test"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"judge": {"backend": "none", "model": "m"}}, "has an effect"),
        ({"judge": {"backend": "anthropic", "budget_usd": 1}, "score": {"method": "rubric"}}, "`model` is missing"),
        ({"judge": {"backend": "anthropic", "model": "m"}, "score": {"method": "rubric"}}, "need a cap"),
        ({"judge": {"backend": "anthropic", "model": "m", "budget_usd": 0}, "score": {"method": "rubric"}}, "budget_usd"),
        ({"judge": {"backend": "local", "model": "m"}, "score": {"method": "rubric"}}, "base_url"),
        ({"judge": {"backend": "local", "model": "m", "base_url": "http://127.0.0.1:1/v1"}}, "ends in /v1"),
        ({"judge": {"backend": "anthropic", "model": "m", "budget_usd": 1}}, "never asked"),
        ({"explain": {"method": "llm"}}, "need a judge"),
        ({"explain": {"n_judged": 3}}, "n_judged and logit_effects belong"),
        ({"judge": {"backend": "anthropic", "key": "sk"}}, "unknown key"),
    ],
)
def test_a_judge_section_that_cannot_work_is_refused_when_the_study_is_loaded(change, said):
    raw = {
        "name": "x", "model": {"source": "hub", "id": "gpt2"}, "hook": {"after_block": 0}, "sae": {"sizes": [64]},
        "corpus": {"sources": [{"kind": "builtin", "name": "python_stdlib", "tokens": 1000}]},
    }  # fmt: skip
    with pytest.raises(UserError, match=said):
        parse_study(raw | change)
