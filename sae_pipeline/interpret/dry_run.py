"""The questions that a judge would be asked, made and counted instead of sent.

The stages' own code makes them, from the same artefacts and seeds, with a judge that notes every question and answers it with a
text of typical length. What is not exact: explanations that do not exist yet, and which windows are nearest by embedding (none
are computed here). Explanations are asked for in a sample of the features and counted up.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

import numpy as np
from pydantic import BaseModel

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.interpret.arms import control_units, scored_columns
from sae_pipeline.interpret.build_specificity import rubric_windows
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.judged_explanations import judged_columns, judged_explanations
from sae_pipeline.interpret.judged_specificity import judged_specificity
from sae_pipeline.interpret.protocols import Explanation
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.token_stats import MIN_EXAMPLES, TokenStats
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import Units, sae_features
from sae_pipeline.judge.ledger import Caps, Ledger
from sae_pipeline.judge.reply import Reply
from sae_pipeline.judge.request import Request, Settings
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import Explain, Score
from sae_pipeline.tables.schemas import empty

_TAG = re.compile(r"<[^<>]*>|[«»]")
MAX_QUOTED_BYTES = 250  # Chinese is written without spaces
N_SAMPLED = 60  # features that are asked about in the dry run, at least; all scored ones are
# Words of a typical answer's fields: the middle of what the prompts ask for (evidence of a rating: at most ten words or "none";
# of an explanation: three to five short quotations; a sentence of at most 25 words; texts of 20 to 40).
WORDS = {"evidence": 5, "explanation": 16, **{f"text_{i}": 30 for i in range(1, 6)}}
WORDS_OF_EXPLAINERS_EVIDENCE = 24
FILLER = "the capital of the region lies near a river and many people who live there work in trade or on farms around it"


class CountingJudge:
    """Notes what it is asked. `asked_for[prompt]` holds every question with that prompt, `said[prompt]` its typical answers."""

    n_sent, not_run_because = 0, ""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.settings, self.ledger = settings, ledger
        self.asked: set[str] = set()
        self.unanswered: set[str] = set()
        self.asked_for: dict[str, list[tuple[Request, str]]] = {}

    def ask(self, requests: Iterable[Request], what: str = "judge") -> list[Reply]:
        """A reply of typical length to each."""
        replies: list[Reply] = []
        for request in requests:
            value = typical(request.answer, request.user)
            self.asked_for.setdefault(request.prompt, []).append((request, say(value)))
            replies.append(Reply("", "ok", value))
        return replies


def typical(answer: type[BaseModel], question: str) -> BaseModel:
    """An answer of typical length; it quotes from the question, whose words may take more tokens than ordinary ones."""
    words: list[str] = _TAG.sub(" ", question[: 8 * MAX_QUOTED_BYTES]).split()
    return _typical(answer, words)


def _typical(answer: type[BaseModel], quoted: list[str]) -> BaseModel:
    values: dict[str, Any] = {}
    for name, field in answer.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            values[name] = _typical(kind, quoted)
        elif get_origin(kind) is Literal:
            values[name] = get_args(kind)[-1]
        elif name == "evidence":
            n = WORDS_OF_EXPLAINERS_EVIDENCE if "explanation" in answer.model_fields else WORDS[name]
            values[name] = " ".join(quoted[-n:])[:MAX_QUOTED_BYTES]
        else:
            values[name] = text_of(WORDS[name])
    return answer(**values)


def say(value: BaseModel) -> str:
    """An answer as a model writes it."""
    return json.dumps(value.model_dump(mode="json"), ensure_ascii=False)


def questions_of(store: ArtifactStore, size: int, settings: Settings) -> tuple[CountingJudge, dict[str, float]]:
    """The questions of one size, and by prompt how many stand for each that was made. The size's statistics must exist."""
    study, score, explain = store.study, store.study.score, store.study.explain
    reader = ActivationReader.open(store.path("activations"))
    index = RuleIndex(TokenTable.of(CorpusReader.open(store.path("corpus")), reader))
    features = sae_features(store.path("feature_stats", size))
    if explain.features is not None:
        features = Units(features.unit, features.ids, features.train, features.held_out,
                         np.intersect1d(features.explained, explain.features))  # fmt: skip
    random_model = store.path("random_model")
    arms = [features, *control_units(features, reader, score, random_model if random_model.is_dir() else None)]
    n_live = len(features.explained)
    n_wanted = min(explain.n_judged or n_live, n_live)
    n_sampled = min(n_wanted, max(N_SAMPLED, len(scored_columns(features, score))))
    factor: dict[str, float] = {}
    embedder = cast(SentenceEmbedder, _NoEmbedder())
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder), "plan", Caps(None)) as ledger:
        judge = CountingJudge(settings, ledger)
        if explain.method == "llm":
            offline = [_offline(index, units, score) for units in arms]
            judged_explanations(
                size, arms, offline, {}, explain.model_copy(update={"n_judged": n_sampled}), score, index, embedder, judge,
                lambda texts: [set() for _ in texts],
            )  # fmt: skip
            (prompt,) = (name for name in judge.asked_for if name.startswith("explain-"))
            made = len(judge.asked_for[prompt])
            factor[prompt] = (made + n_wanted - n_sampled) / made
        if score.method == "rubric":
            judged = explain.method == "llm"
            by_arm = [_standing_in(each, explain, score) if judged else _offline(index, each, score) for each in arms]
            known = {(each.unit, each.unit_id): each for mine in by_arm for each in mine.values()}
            rubric, windows, first_id = rubric_windows(index, arms, known, score)
            judged_specificity(
                size, rubric, windows, first_id, score, index.tokens, judge, study.judge.votes, empty("specificity_scores"),
                Path(folder),
            )  # fmt: skip
    return judge, factor


def _offline(index: RuleIndex, units: Units, score: Score) -> dict[int, Explanation]:
    """The offline sentences of what is scored: they need no judge, so here they are the real ones."""
    columns = scored_columns(units, score) if units.unit == "sae_feature" else units.explained.tolist()
    explained = TokenStats(index.only(units.seen), units, {}).explain(units.ids[columns].tolist())
    return dict(zip(columns, explained, strict=True))


def _standing_in(units: Units, explain: Explain, score: Score) -> dict[int, Explanation]:
    """In the place of a judge's sentences, for the columns that it will be asked about."""
    explained: dict[int, Explanation] = {}
    for column in judged_columns(units, explain, score):
        enough = int(units.train.count_U[column]) >= MIN_EXAMPLES
        text, status = (text_of(WORDS["explanation"]), "ok") if enough else (None, "too_few_examples")
        explained[column] = Explanation(units.unit, int(units.ids[column]), "llm", text, None, None, status, 0)
    return explained


def text_of(n_words: int) -> str:
    """So many ordinary English words."""
    words = FILLER.split()
    return " ".join((words * (n_words // len(words) + 1))[:n_words])


class _NoEmbedder:
    """Every text in the same place: then the nearest windows are some windows, of the same length as the right ones."""

    def windows(self, parts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(parts), 1), np.float32), np.zeros((len(parts), 1), np.float32)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.zeros((len(texts), 1), np.float32)
