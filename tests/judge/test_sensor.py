"""The sensor that finishes a size when its batch has ended."""

import dagster as dg
import pytest

from sae_pipeline.definitions import build_defs
from sae_pipeline.judge.batches import BatchesPending
from sae_pipeline.judge.open import open_judge
from tests.judge.conftest import MODEL, question
from tests.judge.test_plan import study


def test_a_size_is_asked_for_once_its_batches_have_ended(api, tmp_path, monkeypatch):
    from dataclasses import replace

    wanted = study(api, "batched", backend="anthropic-batch", model=MODEL, batch_wait_minutes=0)
    repository = build_defs(wanted, root=tmp_path).get_repository_def()
    sensor = repository.get_sensor_def("judge_batches")

    events = []

    def tick():
        data = sensor.evaluate_tick(dg.build_sensor_context(repository_def=repository))
        events.extend(data.asset_events)
        return [(request.partition_key, request.run_key) for request in data.run_requests or []], data.skip_message

    assert tick() == ([], "nothing has been asked yet")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    api.batches.ends_after = 2
    with open_judge(wanted.judge, tmp_path / "batched", "run") as judge:
        assert judge is not None
        with pytest.raises(BatchesPending):
            judge.ask([replace(question(n), stage="explanations/9") for n in range(3)])
    assert tick() == ([], "1 batches are running (explanations/9: 0 answered, 3 waiting)")
    (observed,) = events
    assert observed.asset_key == dg.AssetKey("explanations") and observed.partition == "9"
    assert {name: value.value for name, value in observed.metadata.items()} == {"judge_n_answered": 0, "judge_n_waiting": 3}
    assert tick()[0] == [("9", "judge-batch-1-9")]
    assert tick()[0] == [("9", "judge-batch-1-9")]  # Dagster starts one run per key
    with open_judge(wanted.judge, tmp_path / "batched", "run") as judge:
        assert judge is not None
        replies = judge.ask([replace(question(n), stage="explanations/9") for n in range(3)])
        assert {reply.status for reply in replies} == {"ok"} and all(reply.recorded for reply in replies)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert tick() == ([], "no judge configured: there is no key")
