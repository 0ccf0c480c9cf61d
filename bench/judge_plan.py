"""The plan of a judge against what the run then takes, on the demo study's real artefacts: `python -m bench.judge_plan [data]`.

The loopback server counts by WordPiece, which is neither bytes nor the study's tokenizer. How long answers are is nothing that
the plan assumes: sentences are offline explanations of the study, evidence is what the offline proxy wrote and what stands around
the marked tokens, new texts are lines of its corpus. Planned before any call, after a small run and after the whole one.
"""

import argparse
import re
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
from pytest import MonkeyPatch
from tokenizers import Tokenizer

from sae_pipeline.interpret.build_explanations import build_explanations
from sae_pipeline.interpret.build_specificity import build_specificity_scores
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.judge_plan import JudgePlan, plan_judge
from sae_pipeline.judge.open import open_judge
from sae_pipeline.language_model.tokens import load_tokenizer
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import Study, load_study, parse_study
from tests.fakes.messages_api import FakeMessagesApi

SIZE = 1024
SMALL, WHOLE = (4, 20), (20, 60)  # features that are scored, and explained
MARKED = re.compile(r"[^ <>]* ?«[^»]*» ?[^ <>]*")


class RealLengths:
    """Answers with the schema's fields, filled with texts of the study."""

    def __init__(self, data: Path) -> None:
        explained = pl.read_parquet(data / "explanations" / str(SIZE) / "explanations.parquet")
        self.sentences: list[str] = explained.filter(status="ok", unit="sae_feature")["text"].to_list()
        scores = pl.read_parquet(data / "specificity_scores" / str(SIZE) / "specificity_scores.parquet")
        self.evidence: list[str] = scores["evidence"].drop_nulls().to_list()
        texts = pl.read_parquet(data / "corpus" / "documents.parquet", columns=["text"])["text"].head(500).to_list()
        self.lines = [line for text in texts for line in text.split("\n") if 60 <= len(line) <= 400]

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        """One answer; the same question gets the same."""
        said, user = body["output_config"]["format"]["schema"]["properties"], body["messages"][0]["content"]
        number = int.from_bytes(sha256(user.encode()).digest()[:6], "big")
        if "explanation" in said:
            quoted = " | ".join(MARKED.findall(user)[:4])
            sentence = self.sentences[number % len(self.sentences)]
            return {"evidence": quoted, "explanation": sentence, "kind": "token", "confidence": "medium"}
        if "text_1" in said:
            return {name: self.lines[(number + i) % len(self.lines)] for i, name in enumerate(said)}
        if not body["system"].startswith("You rate"):
            return {name: {"sure": (number + i) % 4} for i, name in enumerate(said)}
        return {
            name: {"evidence": self.evidence[(number + i) % len(self.evidence)], "score": (number + i) % 4}
            for i, name in enumerate(said)
        }


def judged(study: Study, url: str, features: list[int], n_scored: int, n_explained: int) -> Study:
    """The study with a judge, and so many of the features scored and explained."""
    raw = study.model_dump(mode="json")
    raw["explain"] |= {"method": "llm", "features": features[:n_explained]}
    raw["score"] |= {"method": "rubric", "features": features[:n_scored], "n_controls": n_scored // 2}
    del raw["score"]["chosen"]
    raw["judge"] = {"backend": "anthropic", "model": "claude-haiku-5-5", "base_url": url, "budget_usd": 100, "max_concurrency": 4}
    return parse_study(raw)


def run(store: ArtifactStore, work: Path, embedder: SentenceEmbedder) -> tuple[int, int, int]:
    """Both judged stages; (calls, tokens in, tokens out)."""
    study = store.study
    explained, scored = work / "explanations", work / "scores"
    for folder in (explained, scored):
        folder.mkdir(parents=True)
    shared: dict[str, Any] = {name: store.path(name) for name in ("corpus", "activations")}
    shared |= {"size": SIZE, "score": study.score, "feature_stats": store.path("feature_stats", SIZE), "embedder": embedder}
    with open_judge(study.judge, store.root, "bench") as judge:
        build_explanations(
            **shared, explain=study.explain, work=explained, random_model=store.path("random_model"), judge=judge,
            features_of=lambda texts: [set() for _ in texts],
        )  # fmt: skip
        build_specificity_scores(**shared, explanations=explained, work=scored, judge=judge)
    calls = pl.concat([pl.read_parquet(folder / "llm_calls.parquet") for folder in (explained, scored)]).unique("request_sha")
    assert set(calls["status"]) == {"ok"}
    return calls.height, int(calls["n_tokens_input"].sum()), int(calls["n_tokens_output"].sum())


def main(data: Path, study_file: Path) -> None:
    """Print the three plans beside the run."""
    embedder = SentenceEmbedder()
    wordpiece = Tokenizer.from_str(embedder._tokenizer.backend_tokenizer.to_str())
    wordpiece.no_truncation()
    wordpiece.no_padding()
    study = load_study(study_file)
    own = load_tokenizer(study.model)
    with tempfile.TemporaryDirectory() as folder, FakeMessagesApi() as api, MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", api.key)
        api.keeps_log = False
        api.answer, api.count = RealLengths(data), lambda text: len(wordpiece.encode(text, add_special_tokens=False))
        root = Path(folder)
        (root / study.name).mkdir()
        for each in data.iterdir():
            (root / study.name / each.name).symlink_to(each.resolve())  # to be read only: what is made goes elsewhere
        features = list(range(0, SIZE, SIZE // WHOLE[1]))
        store = ArtifactStore(judged(study, api.url, features, *WHOLE), root=root)

        def plan() -> JudgePlan:
            made = plan_judge(store, [SIZE], lambda text: len(own.tokenize(text, bos=False)), ask_server=True)
            assert made is not None
            return made

        plans = {"before any call": plan()}
        small = run(ArtifactStore(judged(study, api.url, features, *SMALL), root=root), root / "small", embedder)
        plans[f"after {small[0]} calls"] = plan()
        n_calls, *actual = run(store, root / "whole", embedder)
        plans[f"after all {n_calls} calls"] = plan()
    print(f"\nthe run: {n_calls} calls, {actual[0]:,} tokens in, {actual[1]:,} out")
    for when, made in plans.items():
        planned = (made.n_tokens_input, made.n_tokens_output)
        shares = [100 * (each / took - 1) for each, took in zip((*planned, sum(planned)), (*actual, sum(actual)), strict=True)]
        print(
            f"planned {when}: {made.n_calls} calls, in {shares[0]:+.1f} %, out {shares[1]:+.1f} %, "
            f"all {shares[2]:+.1f} % (announced ± {100 * made.error:.0f} %)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=Path("data/demo"), help="artefacts of a finished `make run`")
    parser.add_argument("--study", type=Path, default=Path("studies/demo.yaml"))
    given = parser.parse_args()
    main(given.data, given.study)
