"""The code-error feature clamped (paper, 'Code error feature'): up on clean code, down on buggy code, and the `>>>` rewrite."""

import re

import numpy as np
import torch

from sae_pipeline.survey.cases.clamp_case import FIGURE, Clamped, ClampWorld
from sae_pipeline.survey.cases.clamping import Dose, Prompt, first_tokens
from sae_pipeline.survey.cases.code_error import labels, texts_of
from sae_pipeline.survey.cases.code_texts import Pair, pairs, sessions
from sae_pipeline.survey.cases.doses import RIVALS, Chosen, choose_dose, compared
from sae_pipeline.survey.cases.prompts import digest, load
from sae_pipeline.survey.cases.reading import with_bos
from sae_pipeline.survey.cases.selection import aurocs
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.thresholds import thresholds

CASE = "code_error"
ERROR_OVER_OUTPUT = "change of log P(error message) - log P(right output), nats"


def run(found: ClampWorld) -> Clamped:
    """Log-odds of an error message against the right output, at the place where the interpreter answers."""
    told, made, sha = load("code_errors"), Clamped(), digest("code_errors", "neutral")
    candidates, whole = error_units(found), sessions()
    clean, buggy = ([_prompt(found, pair, which) for pair in whole] for which in ("clean", "buggy"))
    told_apart = found.clamper.effect(clean + buggy, [None], "code sessions").log_odds_AP[0].reshape(2, -1)
    ceiling = {
        "ceiling_metric": "share of sessions in which the unsteered model expects an error more with the bug than without",
        "ceiling": float((told_apart[1] > told_apart[0]).mean()), "ceiling_threshold": thresholds().expects_error,
        "files_sha": sha,
    }  # fmt: skip
    drawn = f"{len({pair.template for pair in whole})} templates are resampled, each with all its sessions"
    up = choose_dose(
        found.world, found.clamper, clean, candidates, told["up_factors"], lambda effect: effect.log_odds_AP, "errors, up"
    )
    made.add(found, CASE, "code_error_clamped_up", f"{ERROR_OVER_OUTPUT}, after clean code", clean, up, why=drawn, **ceiling)
    down = choose_dose(
        found.world, found.clamper, buggy, candidates, told["down_factors"], lambda effect: -effect.log_odds_AP, "errors, down"
    )
    metric = f"{ERROR_OVER_OUTPUT}, the sign turned, after code with a bug"
    made.add(found, CASE, "code_error_clamped_down", metric, buggy, down, why=drawn, **ceiling)
    _rewrites(found, made, whole, down, ceiling)
    return made


def error_units(found: ClampWorld) -> dict[int, list[int]]:
    """Of every bank the units that best tell Python with an error from Python without, on half A, as `case_studies` does."""
    half_A = [pair for pair in pairs("python") if pair.half == "choose"]
    positive_I, _, _ = labels(half_A)
    texts = texts_of(found.world.lm, half_A)
    return found.searched(texts, lambda pooled: aurocs(pooled.max_IF, positive_I), "code errors, python")


def _prompt(found: ClampWorld, pair: Pair, which: str) -> Prompt:
    lm, text = found.world.lm, getattr(pair, which)
    ids = with_bos(lm, lm.tokenize(text, bos=False))
    errors, output = (first_tokens(lm, words) for words in (load("code_errors")["errors"], [pair.output]))
    return Prompt(text, pair.half, ids, errors, output, pair.template)


def mended(completion: str, pair: Pair) -> bool:
    """Whether a continuation writes the name as it should be, and not the typo."""
    return bool(re.search(rf"\b{pair.name}\b", completion)) and not re.search(rf"\b{pair.typo}\b", completion)


def _rewrites(found: ClampWorld, made: Clamped, whole: list[Pair], chosen: Chosen, ceiling: dict) -> None:
    """Greedy continuations of the buggy session and one more prompt marker, under the doses of the clamp down."""
    lm, settings = found.world.lm, found.world.settings
    kept = [pair for pair in whole if pair.half == "report"]
    prompts = [pair.buggy + load("code_errors")["rewrite_prompt"] for pair in kept]
    ids = [with_bos(lm, lm.tokenize(prompt.rstrip(" "), bos=False)) for prompt in prompts]
    arms: list[tuple[str, Dose | None]] = [("baseline", None), ("none", chosen.dose)]
    arms += [(dose.control, dose) for dose in (*chosen.rivals, *chosen.random)]
    rates = []
    for arm, (control, dose) in enumerate(arms):
        texts = lm.generate(ids, settings.new_tokens, 0.0, torch.Generator(), found.clamper.edit(dose))
        completions = [lm.decode(text) for text in texts]
        rates.append(np.array([mended(text, pair) for text, pair in zip(completions, kept, strict=True)], float))
        for item, (prompt, completion, score) in enumerate(zip(prompts, completions, rates[-1], strict=True)):
            row = {
                "case_name": "code_error_rewrites",
                "item": item,
                "arm": arm,
                "control": control,
                "prompt": prompt,
                "completion": completion,
            }
            row |= {"feature": None if dose is None else dose.feature, "factor": None if dose is None else dose.factor}
            made.generations.append(row | {"score": float(score)})
    templates = [pair.template for pair in kept]
    n_tokens = settings.new_tokens * len(arms) * len(kept)
    rivals_RP, random_RP = (
        np.array([rate for (control, _), rate in zip(arms, rates, strict=True) if control == name])
        for name in ("random_direction", "random_feature")
    )
    main = Measurement(
        "code_error_rewrites", "share of greedy continuations after `>>>` with the name mended and no typo",
        n_scored=len(kept), n_attempted=len(kept), size=found.world.size, control=RIVALS,
        why=f"without a clamp {rates[0].mean():.2f}; at most {n_tokens} tokens generated", rows="case_generations",
        figure=FIGURE, **compared(rates[1], rivals_RP, found.world.seed, templates), **ceiling,
    )  # fmt: skip
    made.add_compared(main, rates[1], random_RP, found.world.seed, templates)
