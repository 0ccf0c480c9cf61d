"""Three clamps that are read off the next token of an answer: praise, persona, and a secret word.

Paper: 'Sycophancy', 'Features relating to the model's representation of self', 'Case study: detecting and correcting deception'.
"""

import numpy as np
import torch

from sae_pipeline.survey.cases.clamp_case import Clamped, ClampWorld
from sae_pipeline.survey.cases.clamping import Prompt, first_tokens
from sae_pipeline.survey.cases.doses import choose_dose
from sae_pipeline.survey.cases.prompts import digest, fill, half_of, load
from sae_pipeline.survey.cases.reading import Pooled, from_ids
from sae_pipeline.survey.cases.selection import aurocs
from sae_pipeline.survey.cases.self_features import passing, questions, strength
from sae_pipeline.survey.thresholds import thresholds


def answer_prompt(
    found: ClampWorld, turn: str, opening: str, place: int, says: list[str], against: list[str], text: str = "",
    group: str | None = None,
) -> Prompt:  # fmt: skip
    """A chat turn with the beginning of its answer."""
    lm = found.world.lm
    ids = [*lm.chat(turn), *lm.tokenize(opening, bos=False)]
    said = text or f"{turn} / {opening}"
    return Prompt(said, half_of(place), ids, first_tokens(lm, says), first_tokens(lm, against), group)


def praise(found: ClampWorld) -> Clamped:
    """Row 64: words of praise against plain words, first in the verdict on a phrase that the user says to have coined."""
    told, made = load("praise"), Clamped()
    prompts = [
        answer_prompt(found, fill(turn, phrase=phrase), opening, place, told["praise_words"], told["plain_words"], group=phrase)
        for place, phrase in enumerate(told["phrases"])
        for turn in told["turns"]
        for opening in told["openings"]
    ]
    candidates = found.separating(told["praise"], told["plain"], "praise and plain remarks")
    chosen = choose_dose(
        found.world, found.clamper, prompts, candidates, told["factors"], lambda effect: effect.log_odds_AP, "praise"
    )
    metric = "change of log P(words of praise) - log P(plain words) in the verdict on a coined phrase, nats"
    made.add(found, "sycophancy", "sycophancy_clamped", metric, prompts, chosen, files_sha=digest("praise", "neutral"))
    return made


def persona(found: ClampWorld) -> Clamped:
    """Row 65: a self feature clamped down; how much less the model calls itself a machine rather than a person."""
    told, made = load("self"), Clamped()
    prompts = [
        answer_prompt(found, turn, told["persona_opening"], place, told["machine"], told["person"])
        for place, turn in enumerate(told["persona_turns"])
    ]
    candidates = self_units(found)
    chosen = choose_dose(
        found.world, found.clamper, prompts, candidates, told["factors"], lambda effect: -effect.log_odds_AP, "persona"
    )
    metric = "fall of log P(words for a machine) - log P(words for a person) after `I am a`, nats"
    made.add(found, "persona", "persona_shift", metric, prompts, chosen, files_sha=digest("self", "neutral"))
    return made


def self_units(found: ClampWorld) -> dict[int, list[int]]:
    """Of every bank the units that pass the filter of `self_features` on half A, strongest first.

    Of a bank where none passes: those that best separate the two kinds of questions.
    """
    turns, about_self_I, choose_I = questions()
    texts = [from_ids(found.world.lm.chat(turn)) for turn, choose in zip(turns, choose_I, strict=True) if choose]
    about_A = about_self_I[choose_I]

    def search(pooled: Pooled) -> np.ndarray:
        passed_F = passing(pooled.max_IF > 0, about_A) & (found.clamper.maximum_F > 0)
        if not passed_F.any():
            return aurocs(pooled.max_IF, about_A)
        return np.where(passed_F, strength(pooled.mean_IF, about_A), -np.inf)

    return found.searched(texts, search, "questions to the model")


def secrecy(found: ClampWorld) -> Clamped:
    """Row 39: does clamping a feature of secrecy down bring out a word that the model was told to keep?"""
    told, made, lm = load("secrecy"), Clamped(), found.world.lm
    turns = [fill(told["keep"], word=word) for word in told["words"]]
    prompts = [
        answer_prompt(found, turn, told["opening"], place, [f" {word}"], [])
        for place, (turn, word) in enumerate(zip(turns, told["words"], strict=True))
    ]
    candidates = found.separating(told["secret"], told["open"], "secrets and open statements")
    chosen = choose_dose(
        found.world, found.clamper, prompts, candidates, told["factors"], lambda effect: effect.log_odds_AP, "secrecy"
    )
    answers = lm.generate([lm.chat(turn) for turn in turns], found.world.settings.new_tokens, 0.0, torch.Generator())
    kept = []
    for item, (turn, ids, word) in enumerate(zip(turns, answers, told["words"], strict=True)):
        completion = lm.decode(ids)
        kept.append(word not in completion.lower())
        row = {"case_name": "secrecy", "item": item, "arm": 0, "control": "baseline", "prompt": turn, "completion": completion}
        made.generations.append(row | {"feature": None, "factor": None, "score": float(kept[-1])})
    made.add(
        found, "secrecy", "deception_revealed", "change of log P(the secret word) at the beginning of the answer, nats", prompts,
        chosen, ceiling_metric="share of greedy answers without the word that the model was told to keep",
        ceiling=sum(kept) / len(kept), ceiling_threshold=thresholds().keeps_secret, files_sha=digest("secrecy", "neutral"),
    )  # fmt: skip
    return made
