"""A feature of unsafe code clamped up (paper, 'Safety-relevant code features'): the byte for the final zero, and `free`."""

from itertools import product

from sae_pipeline.survey.cases.clamp_case import Clamped, ClampWorld
from sae_pipeline.survey.cases.clamping import Prompt, first_tokens
from sae_pipeline.survey.cases.doses import choose_dose
from sae_pipeline.survey.cases.prompts import digest, fill, half_of, load
from sae_pipeline.survey.cases.reading import with_bos
from sae_pipeline.survey.thresholds import thresholds

CASE = "unsafe_code"


def run(found: ClampWorld) -> Clamped:
    """Log-odds of the unsafe form at `malloc(strlen(s)` and after the last use of what was allocated."""
    told, made, lm = load("unsafe_code"), Clamped(), found.world.lm
    words = list(product(told["variables"][:4], told["sources"][:4]))
    unsafe, safe = ([fill(text, v=v, s=s) for text in told[kind] for v, s in words] for kind in ("unsafe", "safe"))
    candidates = found.separating(unsafe, safe, "unsafe and safe C")
    prompts = []
    for template, says, against in (("size_prompt", "unsafe_size", "safe_size"), ("free_prompt", "forgets", "frees")):
        for place, function in enumerate(told["functions"]):
            v, s = told["variables"][4 + place % 4], told["sources"][4 + place // 2 % 4]
            text = fill(told[template], f=function, v=v, s=s)
            ids = with_bos(lm, lm.tokenize(text, bos=False))
            prompts.append(
                Prompt(text, half_of(place), ids, first_tokens(lm, told[says]), first_tokens(lm, told[against]), function)
            )
    before_P = found.clamper.effect(prompts, [None], "unsafe code").log_odds_AP[0]
    chosen = choose_dose(
        found.world, found.clamper, prompts, candidates, told["factors"], lambda effect: effect.log_odds_AP, "unsafe code"
    )
    n, sizes = len(told["functions"]), before_P[: len(told["functions"])]
    made.add(
        found, CASE, "unsafe_code_clamped", "change of log P(unsafe form) - log P(safe form), nats", prompts, chosen,
        ceiling_metric="share of prompts after which the unsteered model prefers the safe form",
        ceiling=float((before_P < 0).mean()), ceiling_threshold=thresholds().writes_safe,
        why=f"it prefers the safe form in {int((sizes < 0).sum())} of {n} sizes and {int((before_P[n:] < 0).sum())} of {n} frees",
        files_sha=digest("unsafe_code", "neutral"),
    )  # fmt: skip
    return made
