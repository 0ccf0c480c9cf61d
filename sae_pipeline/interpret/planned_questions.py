"""What a judge would be asked, prompt by prompt: from the artefacts where they exist, else as much as the study lets expect."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from sae_pipeline.interpret import llm_explainer, sensitivity
from sae_pipeline.interpret.answers import ExplanationAnswer, WrittenTexts, ratings, surenesses
from sae_pipeline.interpret.build_specificity import N_DECOYS
from sae_pipeline.interpret.dry_run import questions_of, say, text_of, typical
from sae_pipeline.interpret.explanation_scores import N_DECOYS as N_DETECTION_DECOYS
from sae_pipeline.interpret.judge_calibration import n_labels
from sae_pipeline.interpret.judged_specificity import N_REPEATED_FEATURES
from sae_pipeline.interpret.judged_windows import N_MISPLACED, N_NEAREST, N_SAME_TOKEN
from sae_pipeline.interpret.llm_scorers import DETECTION, FUZZING, RUBRIC
from sae_pipeline.interpret.prompts import load_prompt
from sae_pipeline.interpret.token_estimate import spread
from sae_pipeline.interpret.windows import REACH
from sae_pipeline.judge.request import Request, Settings, wire_bytes
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import Study
from sae_pipeline.tables.columns import N_INTERVALS

N_KEPT = 48  # questions of a size and prompt that are kept for counting
# Used only where a size's statistics do not exist yet; measured on the demo study. A feature with n held-out activations leaves
# about EMPTY / sqrt(n) of its ten intervals without one, and 15 % more for every further window wanted of each.
EMPTY, EMPTY_PER_WINDOW = 3.9, 0.15
WORDS_PER_TOKEN = 0.6
EXPLANATION_WORDS = 16


@dataclass(frozen=True)
class Load:
    """Everything asked with one prompt. `sample`: some of the questions, spread over their sizes; `said`: typical answers."""

    prompt: str
    n_calls: float
    n_bytes: float
    n_answer_bytes: float
    sample: tuple[Request, ...]
    said: tuple[str, ...]
    is_assumed: bool = False


def merged(loads: Iterable[Load]) -> list[Load]:
    """One load per prompt."""
    by_prompt: dict[str, list[Load]] = {}
    for load in loads:
        by_prompt.setdefault(load.prompt, []).append(load)
    return [
        Load(
            prompt, sum(each.n_calls for each in mine), sum(each.n_bytes for each in mine),
            sum(each.n_answer_bytes for each in mine), tuple(request for each in mine for request in each.sample),
            tuple(text for each in mine for text in each.said),
        )
        for prompt, mine in by_prompt.items()
    ]  # fmt: skip


def counted_loads(store: ArtifactStore, size: int, settings: Settings) -> list[Load]:
    """The questions of a size whose statistics exist, made by the stages' own code."""
    judge, factors = questions_of(store, size, settings)
    loads: list[Load] = []
    for prompt, asked in judge.asked_for.items():
        n_bytes = [wire_bytes(request.wire(settings)) for request, _ in asked]
        factor, chosen = factors.get(prompt, 1.0), spread(n_bytes, N_KEPT)
        loads.append(Load(
            prompt, factor * len(asked), factor * sum(n_bytes), factor * sum(len(said.encode()) for _, said in asked),
            tuple(asked[i][0] for i in chosen), tuple(asked[i][1] for i in chosen),
        ))  # fmt: skip
    return loads


def assumed_loads(study: Study, size: int, settings: Settings) -> list[Load]:
    """A size of which nothing exists: every feature alive, its activations spread as those of the demo study are."""
    score, explain, per_call = study.score, study.explain, study.score.examples_per_call
    named = len(score.chosen) if isinstance(score.chosen, list) else 0
    n_scored = min(size, (len(score.features) if score.features else score.n_features) + named)
    n_chosen = score.chosen if isinstance(score.chosen, int) else named
    n_controls = score.n_controls * (1 + bool(study.random_model.n_tokens)) + min(score.n_controls, study.activations.n_neurons)
    n_held_out = sum(source.tokens for source in study.corpus.sources) * study.corpus.held_out
    n_active = n_held_out * (getattr(study.sae, "k", None) or 64) / size

    def found(per_interval: int) -> float:
        """Windows of one unit, of `per_interval` wanted in each interval."""
        empty = EMPTY * (1 + EMPTY_PER_WINDOW * (per_interval - 1)) / sqrt(max(n_active, 1))
        return N_INTERVALS * per_interval * max(1 - empty, 0.1)

    loads: list[Load] = []
    if explain.method == "llm":
        n_explained = min(explain.n_judged or size, len(explain.features) if explain.features else size)
        excerpts = llm_explainer.N_TOP + llm_explainer.N_PER_INTERVAL * N_INTERVALS + llm_explainer.N_INACTIVE
        prompt = llm_explainer.PROMPT_LOGITS if explain.logit_effects else llm_explainer.PROMPT
        loads.append(_load(prompt, n_explained + n_controls, excerpts, llm_explainer.REACH, settings))
        units = 2 * (2 * n_scored + n_controls)  # two explainers; features matched and shuffled
        loads.append(_windows(DETECTION, units, found(1) + 2 * N_DETECTION_DECOYS + N_NEAREST, per_call, settings))
        loads.append(_windows(FUZZING, units, found(1) + N_MISPLACED + 2 * N_SAME_TOKEN, per_call, settings))
        loads.append(_load(sensitivity.PROMPT, 2 * n_scored, 0, 0, settings))
    if score.method == "rubric":
        own = found(score.examples_per_interval) + 2 * N_DECOYS
        groups = n_scored + 2 * min(n_scored, score.n_controls)  # matched; shuffled, baseline
        n_groups = study.judge.votes * groups + min(n_scored, N_REPEATED_FEATURES)
        loads.append(_windows(RUBRIC, n_groups, own, per_call, settings))
        loads.append(_windows(RUBRIC, study.judge.votes * n_controls, found(1) + 2 * N_DECOYS, per_call, settings))
        close = min(score.examples_per_chosen, n_active)
        loads.append(_windows(RUBRIC, 2 * n_chosen * study.judge.votes, close, per_call, settings))
        loads.append(_load(RUBRIC, n_labels(), 1, REACH, settings))
    return [load for load in loads if load.n_calls]


def _windows(prompt: str, n_groups: int, n_windows: float, per_call: int, settings: Settings) -> Load:
    calls_per_group = max(ceil(n_windows / per_call), 1)
    return _load(prompt, n_groups * calls_per_group, max(round(n_windows / calls_per_group), 1), REACH, settings)


def _load(prompt: str, n_calls: float, n_examples: int, reach: int, settings: Settings) -> Load:
    request = _stand_in(prompt, n_examples, reach)
    said = say(typical(request.answer, request.user))
    n_bytes, n_said = wire_bytes(request.wire(settings)), len(said.encode())
    return Load(prompt, n_calls, n_calls * n_bytes, n_calls * n_said, (request,), (said,), is_assumed=True)


def _stand_in(prompt: str, n_examples: int, reach: int) -> Request:
    """A question with the real prompt, schema and mark-up, and words in the place of the corpus."""
    words = text_of(round(WORDS_PER_TOKEN * (2 * reach + 1)))
    explains = prompt.startswith("explain-")
    tag = 'example strength="5"' if explains else 'example number="1"'
    examples = [f"<{tag}>{words[:30]}«{words[30:36]}»{words[36:]}</example>"] * n_examples
    about = [] if explains else [f"<description>{text_of(EXPLANATION_WORDS)}</description>"]
    answer = _answer_of(prompt, n_examples)
    return Request("plan", "plan", prompt, "", load_prompt(prompt).text, "\n".join([*about, *examples]), answer, 1)


def _answer_of(prompt: str, n_examples: int):
    if prompt.startswith("explain-"):
        return ExplanationAnswer
    if prompt == sensitivity.PROMPT:
        return WrittenTexts
    return ratings(n_examples) if prompt == RUBRIC else surenesses(n_examples)


def sample_of(load: Load, n: int, settings: Settings) -> Sequence[Request]:
    """`n` questions of a load, over all its sizes."""
    return [load.sample[i] for i in spread([wire_bytes(request.wire(settings)) for request in load.sample], n)]
