"""The plan against what a run really asks, on the planted world; the server counts with a tokenizer of its own."""

import json
import random
from dataclasses import dataclass
from typing import Any

import pytest
from tokenizers import Tokenizer

from sae_pipeline.errors import UserError
from sae_pipeline.interpret.judge_plan import JudgePlan, plan_judge, show
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import parse_study
from tests.fakes.messages_api import Fault, error
from tests.judge.conftest import MODEL
from tests.judge.oracle import oracle
from tests.judge.test_judged import EXPLAIN, KEY, SCORE, build

COUNT = "/v1/messages/count_tokens"
WORDS = ["the", "ship", "left", "harbour", "before", "dawn", "while", "old", "judge", "read", "verdict", "aloud", "to", "nobody"]


def study(api, name: str, **judge):
    return parse_study(
        {
            "name": name, "model": {"source": "hub", "id": "gpt2"}, "hook": {"after_block": 0}, "sae": {"sizes": [9], "k": 3},
            "corpus": {"sources": [{"kind": "builtin", "name": "python_stdlib", "tokens": 1000}]},
            "activations": {"n_neurons": 6}, "explain": EXPLAIN.model_dump(), "score": SCORE.model_dump(),
            "judge": {"backend": "anthropic", "model": MODEL, "base_url": api.url, "budget_usd": 5.0} | judge,
        }
    )  # fmt: skip


def wordy(body: dict[str, Any]) -> Any:
    """The oracle's answer in words of varying number, anywhere within what the prompts allow."""
    lengths = random.Random(json.dumps(body, sort_keys=True))

    def words(low: int, high: int) -> str:
        return " ".join(lengths.choices(WORDS, k=lengths.randint(low, high)))

    answer: dict[str, Any] = oracle(body)
    if "explanation" in answer:
        about = answer["explanation"].split(",")[0]
        quotations = " | ".join(words(2, 9) for _ in range(lengths.randint(3, 5)))
        return answer | {"evidence": quotations, "explanation": f"{about}, {words(4, 22)}."}
    if "text_1" in answer:
        return {name: f"{' '.join(text.split()[:5])} {words(15, 35)}." for name, text in answer.items()}
    return {
        name: each | {"evidence": lengths.choice(["none", words(1, 10), words(1, 10)])} if "evidence" in each else each
        for name, each in answer.items()
    }


def store_of(wanted, folders, root) -> ArtifactStore:
    """The planted world as a study's artefacts."""
    store = ArtifactStore(wanted, root=root)
    for name in ("corpus", "activations"):
        store.path(name).parent.mkdir(exist_ok=True)
        store.path(name).symlink_to(getattr(folders, name))
    store.path("feature_stats").mkdir()
    store.path("feature_stats", 9).symlink_to(folders.feature_stats)
    return store


def plan(store: ArtifactStore, **options) -> JudgePlan:
    found = plan_judge(store, [9], lambda text: len(text.encode()) // 4, **options)
    assert found is not None
    return found


@dataclass
class Planned:
    first: JudgePlan
    n_sent: int
    at_home: JudgePlan
    after: JudgePlan
    usage: list[tuple[int, int]]


@pytest.fixture(scope="module")
def planned(server, folders, embedder, tmp_path_factory):
    """Plans before and after a run, and what the run took."""
    root = tmp_path_factory.mktemp("planned")
    server.reset()
    server.answer = wordy
    tokenizer = Tokenizer.from_str(embedder._tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()  # WordPiece: neither bytes nor the study's tokenizer
    server.count = lambda text: len(tokenizer.encode(text, add_special_tokens=False))
    store = store_of(study(server, "planned"), folders, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", KEY)
        at_home = plan(store)
        assert not server.log
        first, n_sent = plan(store, ask_server=True), len(server.log)
        assert {path for _, path, _ in server.log} == {COUNT}
        build(folders, embedder, store.root, root / "work", store.study.judge)
        usage = [server.usage_of(body, wordy(body)) for body in server.sent() if body is not None]
        n_after = len(server.log)
        after = plan(store)
        assert len(server.log) == n_after  # also without the server: what is known need not be counted
        plan(store, ask_server=True)
        assert len(server.log) - n_after < n_sent
    return Planned(first, n_sent, at_home, after, usage)


def test_the_first_plan_is_within_a_tenth_of_what_the_run_took(planned):
    actual = sum(map(sum, planned.usage))
    for made in (planned.first, planned.after):
        assert made.n_tokens_input + made.n_tokens_output == pytest.approx(actual, rel=0.1)
        assert made.n_tokens_input == pytest.approx(sum(each[0] for each in planned.usage), rel=0.1)
        assert abs(made.n_tokens_input + made.n_tokens_output - actual) < made.error * actual  # and it says how near
        assert made.error < 0.1
    # The oracle explains many units by the same word, and then some questions are the same.
    assert planned.first.n_calls == pytest.approx(len(planned.usage), rel=0.1)


def test_the_plan_says_what_it_sent_and_what_it_only_assumes(planned):
    said = show(planned.first)
    assert f"{planned.n_sent} texts counted by http://127.0.0.1" in said and "--count-tokens" in said and "assumed" in said
    assert 20 < planned.n_sent < 70 and planned.first.spent_usd == 0 and "2026-10-10" in said
    at_home = show(planned.at_home)
    assert "study's own tokenizer" in at_home and "25% more or less" in at_home and "counted by" not in at_home
    assert "nothing was sent" in at_home and "--count-tokens" in at_home and 0.2 < planned.at_home.error < 0.3
    assert "lengths as in earlier calls" in show(planned.after)
    actual_in, actual_out = (sum(each[i] for each in planned.usage) for i in (0, 1))
    assert planned.after.spent_usd == pytest.approx((actual_in * 0.10 + actual_out * 0.50) / 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (error(404, "not_found_error"), "404"),
        (Fault(200, "<html>proxy</html>", media_type="text/html"), "not an answer"),
        (Fault(200, {"tokens": 3}), "not an answer"),
        (error(400, "invalid_request_error"), "400"),
    ],
    ids=["404", "html", "other", "400"],
)
def test_a_server_that_does_not_count_is_named_and_the_plan_goes_on(api, folders, tmp_path, monkeypatch, fault, said):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    api.script = [fault] * 20
    made = plan(store_of(study(api, "deaf"), folders, tmp_path), ask_server=True)
    assert f"{api.url} does not count" in show(made) and said in show(made) and made.error > 0.2 and made.n_calls > 100


def test_a_refused_key_is_found_before_anything_is_built(api, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-wrong-0123456789")
    with pytest.raises(UserError, match="key is refused") as caught:
        plan(ArtifactStore(study(api, "refused"), root=tmp_path), ask_server=True)
    assert "sk-wrong" not in str(caught.value)


def test_without_a_key_nothing_is_sent_and_the_plan_says_so(api, tmp_path, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    said = show(plan(ArtifactStore(study(api, "keyless"), root=tmp_path), ask_server=True))
    assert "for want of a key" in said and "nothing will be asked" in said and not api.log


@pytest.mark.parametrize("structured", [True, False])
def test_a_local_server_is_asked_what_it_can_do(api, folders, tmp_path, structured):
    """A server that ignores schemas gets them in words; its plan must hold both kinds."""
    api.reset(structured=structured, temperature=True)
    api.key = "local"
    try:
        wanted = study(api, "near", backend="local", model="any", budget_usd=None)
        made = plan(store_of(wanted, folders, tmp_path), ask_server=True)
        counted = [body for body in api.sent(COUNT) if body and "system" in body]
        assert counted and all(("output_config" in body) == structured for body in counted)
        assert "0 dollars" in show(made) and made.error < 0.15
    finally:
        api.key = "sk-test"


def test_without_statistics_the_plan_says_that_it_assumes_an_ordinary_number_of_windows(api, tmp_path):
    made = plan(ArtifactStore(study(api, "unseen"), root=tmp_path))
    assert "nothing is known of size 9 yet" in show(made) and made.error > 0.3 and made.n_calls > 50


def test_an_offline_study_has_no_judge_plan(api, tmp_path):
    raw = study(api, "offline").model_dump(mode="json") | {"judge": {}, "explain": {}, "score": {}}
    assert plan_judge(ArtifactStore(parse_study(raw), root=tmp_path), [9], len, ask_server=True) is None
