"""Which texts are generated: how many per arm, on which prompts.

On the choosing half every arm sees every factor a few times; on the reporting half the chosen factor is measured, and the other
factors of the features themselves lightly, for the dose curve. Clamped features and their controls get the full number of texts;
addition and the concept asked for in words, which no pass mark rests on, get fewer.

Control features and random directions are pools: their texts are shared by all features of a size, and read for each feature's
own concept terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

from torch import Tensor

from sae_pipeline.steering.generation import Arm, Request
from sae_pipeline.steering.interventions import Mode, Push
from sae_pipeline.steering.prompts import Half, Prompt, instructions
from sae_pipeline.steering.selection import Draw, Drawn

CHOOSE_PER_PROMPT = 2  # samples of one prompt share its reading
THIN_CHOOSE, THIN_REPORT = 4, 1  # addition, prompt-only: texts per choice, texts per reporting prompt
THIN_SHARED = 2  # the same for random directions, which all features share


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
    return Arm(
        "random_feature", mode, drawn.feature, drawn.feature, None, factor, Push(factor * drawn.maximum, mode, drawn.feature)
    )


def direction_arm(unit: int, direction_D: Tensor, maximum: float, factor: float) -> Arm:
    """A random direction pushed as far as a steered feature with training maximum `maximum` would be."""
    return Arm("random_direction", "add", unit, None, None, factor, Push(factor * maximum, "add", direction_D=direction_D))


def prompt_arms(drawn: Drawn) -> list[Arm]:
    """The concept asked for in words, one arm per instruction (`unit_id`: its place)."""
    terms, target = ", ".join(drawn.concept.terms[:3]) or repr(drawn.top_token), drawn.feature
    return [Arm("prompt_only", "none", i, None, target, template=text, terms=terms) for i, text in enumerate(instructions())]


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
    """`n_texts` requests over a pool of units: every prompt gets equally many, from units in turn."""
    requests: list[Request] = []
    taken: dict[tuple[int, int], int] = {}
    for i in range(n_texts):
        # Prompts and units in turn; after a full round of pairs the units move on by one.
        unit, at = (i + i // lcm(len(arms), len(prompts))) % len(arms), i % len(prompts)
        requests.append(Request(arms[unit], prompts[at], taken.setdefault((unit, at), 0)))
        taken[unit, at] += 1
    return sorted(requests, key=lambda request: (request.arm.unit_id or 0, request.prompt.prompt_id, request.sample))


@dataclass(frozen=True)
class Chosen:
    """What the choosing half decided: factor by (control, mode, target), instruction by target."""

    factor: dict[tuple[str, str, int], float]
    template: dict[int, int]

    def factors_of(self, control: str, mode: str) -> list[float]:
        """The factors that any feature chose for this control."""
        return sorted({factor for (kind, its_mode, _), factor in self.factor.items() if (kind, its_mode) == (control, mode)})


@dataclass(frozen=True)
class Plan:
    """One run: what was drawn, the prompts, and how much of everything."""

    draw: Draw
    prompts: list[Prompt]
    modes: list[Mode]
    factors: list[float]
    amounts: Amounts
    directions_UD: Tensor

    # --- arms

    def arms(self, control: str, mode: Mode, factor: float) -> list[Arm]:
        """The shared arms of a control kind at one factor."""
        if control == "random_feature":
            return [control_arm(drawn, mode, factor) for drawn in self.draw.controls]
        targets = self.draw.targets
        return [
            direction_arm(unit, direction_D, targets[unit % len(targets)].maximum, factor)
            for unit, direction_D in enumerate(self.directions_UD)
        ]

    @property
    def choices(self) -> list[float]:
        """Factors that may be chosen: above zero (a concept is asked for, not avoided); all when there is none."""
        return [factor for factor in self.factors if factor > 0] or self.factors

    # --- requests

    def baseline_requests(self) -> list[Request]:
        """Unsteered texts of both halves."""
        per_prompt = {"choose": CHOOSE_PER_PROMPT, "report": self.amounts.samples_per_prompt}
        return [Request(Arm("baseline"), prompt, i) for prompt in self.prompts for i in range(per_prompt[prompt.half])]

    def choosing_requests(self) -> list[Request]:
        """Every arm at every factor that may be chosen."""
        prompts, n, per_prompt = of_half(self.prompts, "choose"), self.amounts.choose_samples, CHOOSE_PER_PROMPT
        n_of = {"clamp": n, "add": min(n, THIN_CHOOSE)}
        requests: list[Request] = []
        for i, drawn in enumerate(self.draw.targets):
            for arm in prompt_arms(drawn):
                requests += spread(arm, prompts, min(n, THIN_CHOOSE), per_prompt, first=i)
            for mode in self.modes:
                for factor in self.choices:
                    requests += spread(feature_arm(drawn, mode, factor), prompts, n_of[mode], per_prompt, first=i)
        for factor in self.choices:
            requests += pool_requests(self.arms("random_direction", "add", factor), prompts, n)
            for mode in self.modes:
                requests += pool_requests(self.arms("random_feature", mode, factor), prompts, n_of[mode])
        return requests

    def reporting_requests(self, chosen: Chosen) -> list[Request]:
        """Every arm at the factor chosen for it; clamped features at the other factors too."""
        prompts, amounts = of_half(self.prompts, "report"), self.amounts
        per_prompt_of = {"clamp": amounts.samples_per_prompt, "add": min(THIN_REPORT, amounts.samples_per_prompt)}
        requests: list[Request] = []
        for i, drawn in enumerate(self.draw.targets):
            asked = prompt_arms(drawn)[chosen.template[drawn.feature]]
            requests += spread(asked, prompts, THIN_REPORT * len(prompts), THIN_REPORT, first=i)
            for mode in self.modes:
                best = chosen.factor["none", mode, drawn.feature]
                n = per_prompt_of[mode]
                requests += spread(feature_arm(drawn, mode, best), prompts, n * len(prompts), n, first=i)
                for factor in self.factors:
                    if mode == "clamp" and factor != best:
                        requests += spread(feature_arm(drawn, mode, factor), prompts, amounts.dose_samples, 1, first=i)
        for mode in self.modes:
            for factor in chosen.factors_of("random_feature", mode):
                requests += pool_requests(self.arms("random_feature", mode, factor), prompts, per_prompt_of[mode] * len(prompts))
        wanted = {factor for mode in self.modes for factor in chosen.factors_of("random_direction", mode)}
        for factor in sorted(wanted):
            requests += pool_requests(self.arms("random_direction", "add", factor), prompts, THIN_SHARED * len(prompts))
        return requests
