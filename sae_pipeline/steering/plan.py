"""Which texts are generated: how many per arm, on which prompts.

On the choosing half every arm sees every factor a few times; on the reporting half the chosen factor is measured, and the other
factors of the features themselves lightly, for the dose curve. What looks hopeless on the choosing half is measured with fewer texts.

Control features and random directions are pools: their texts are shared by all features of a size, and read for each feature's
own concept terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sae_pipeline.steering.generation import Arm, Request
from sae_pipeline.steering.interventions import Mode, Push
from sae_pipeline.steering.prompts import Half, Prompt, instructions
from sae_pipeline.steering.selection import Drawn

CHOOSE_PER_PROMPT = 2  # samples of one prompt share its reading
THIN_SAMPLES = 2  # per reporting prompt: hopeless features, addition, prompt-only
PROMISING_HITS = 2  # on the choosing half at the chosen factor


@dataclass(frozen=True)
class Amounts:
    """Numbers of texts: per factor on the choosing half, per prompt and per other factor on the reporting half."""

    choose_samples: int
    samples_per_prompt: int
    dose_samples: int


def feature_arm(drawn: Drawn, mode: Mode, factor: float) -> Arm:
    """A steered feature; c = factor x its training maximum."""
    push = Push(factor * drawn.maximum, mode, drawn.feature)
    return Arm("none", mode, drawn.feature, drawn.feature, drawn.feature, factor, push)


def control_arm(drawn: Drawn, mode: Mode, factor: float) -> Arm:
    """The same for a control feature, which stands beside every steered feature of the size."""
    return Arm("random_feature", mode, drawn.feature, drawn.feature, None, factor, Push(factor * drawn.maximum, mode, drawn.feature))


def direction_arm(unit: int, direction_D, maximum: float, factor: float) -> Arm:
    """A random direction pushed as far as a steered feature with training maximum `maximum` would be."""
    return Arm("random_direction", "add", unit, None, None, factor, Push(factor * maximum, "add", direction_D=direction_D))


def prompt_arms(drawn: Drawn) -> list[Arm]:
    """The concept asked for in words, one arm per instruction (`unit_id`: its place)."""
    terms = ", ".join(drawn.concept.terms[:3])
    if not terms:
        return []
    return [Arm("prompt_only", "none", i, None, drawn.feature, template=text, terms=terms) for i, text in enumerate(instructions())]


def of_half(prompts: Sequence[Prompt], half: Half) -> list[Prompt]:
    """The prompts of one half."""
    return [prompt for prompt in prompts if prompt.half == half]


def spread(arm: Arm, prompts: Sequence[Prompt], n_texts: int, per_prompt: int, first: int) -> list[Request]:
    """`n_texts` requests over the prompts from place `first` on, `per_prompt` samples of one before the next."""
    taken: dict[int, int] = {}
    requests = []
    for i in range(n_texts):
        at = (first + i // per_prompt) % len(prompts)
        requests.append(Request(arm, prompts[at], taken.setdefault(at, 0)))
        taken[at] += 1
    return sorted(requests, key=lambda request: (request.prompt.prompt_id, request.sample))


def pool_requests(arms: Sequence[Arm], prompts: Sequence[Prompt], n_texts: int) -> list[Request]:
    """`n_texts` requests over a pool of units, so that every prompt gets equally many texts and no two the same unit and prompt."""
    requests: list[Request] = []
    taken: dict[tuple[int, int], int] = {}
    for i in range(n_texts):
        # Prompts in turn; the unit moves on by one with every prompt and by one more with every round.
        unit, at = (i + i // len(prompts)) % len(arms), i % len(prompts)
        requests.append(Request(arms[unit], prompts[at], taken.setdefault((unit, at), 0)))
        taken[unit, at] += 1
    return sorted(requests, key=lambda request: (request.arm.unit_id or 0, request.prompt.prompt_id, request.sample))
