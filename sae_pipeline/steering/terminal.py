"""`sae-pipeline steer`: the unsteered and the steered answer to one prompt, side by side, as they are written."""

from pathlib import Path

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from sae_pipeline.api import OpenStudy, steering
from sae_pipeline.errors import UserError
from sae_pipeline.steering.interventions import Intervention, Mode, Positions, Push
from sae_pipeline.study import Study

BASELINE, STEERED = 0, 1


def steer_in_terminal(
    study: Study,
    data_root: Path | str,
    size: int,
    feature_factors: dict[int, float],
    prompt: str,
    max_new_tokens: int = 80,
    mode: Mode = "clamp",
    temperature: float = 0.7,
    seed: int = 0,
    positions: Positions = "not_massive",
    console: Console | None = None,
    device: str = "cpu",
) -> tuple[str, str]:
    """Print both answers and return them (unsteered, steered).

    Both rows run in one batch on the same random numbers, so that they differ by the steering alone. On a terminal two columns
    grow token by token; elsewhere both texts are printed when they are finished. Factors are multiples of the training maximum.
    Raises `UserError` for an unknown size or feature and for an empty list of features.
    """
    if not feature_factors:
        raise UserError("--feature", "no feature is given", "Name one, for instance `--feature 123 --factor 2`.")
    console = console or Console()
    opened = OpenStudy(study, data_root, device)
    lm, sae = opened.lm, opened.sae(size)
    steering(lm, sae, feature_factors, mode, positions)  # names what is wrong with a feature
    chat = lm.chat(prompt)
    if lm.context_limit is not None and len(chat) + max_new_tokens > lm.context_limit:
        what = f"{len(chat)} tokens and {max_new_tokens} new ones are more than the {lm.context_limit} that the model reads"
        raise UserError("--prompt, --max-new-tokens", what, "Give a shorter prompt or ask for a shorter answer.")
    row = [Push(factor * float(sae.max_activation_F[feature]), mode, feature) for feature, factor in feature_factors.items()]
    edit = Intervention(sae, [[], row], sae.config["threshold_norm"], positions, lm.device)
    view = _View(_heading(opened, size, feature_factors, mode), prompt)
    ids: list[list[int]] = [[], []]

    def write(which: int, token_id: int) -> None:
        ids[which].append(token_id)
        view.texts[which] = lm.decode(ids[which])
        live.update(view.columns())

    if console.is_terminal:
        with Live(view.columns(), console=console, refresh_per_second=12, vertical_overflow="visible") as live:
            lm.generate([chat] * 2, max_new_tokens, temperature, [seed, seed], edit, write)
    else:
        completions = lm.generate([chat] * 2, max_new_tokens, temperature, [seed, seed], edit)
        view.texts = [lm.decode(completion) for completion in completions]
        console.print(view.plain(), soft_wrap=True, highlight=False, markup=False)
    return view.texts[BASELINE], view.texts[STEERED]


def _heading(opened: OpenStudy, size: int, feature_factors: dict[int, float], mode: Mode) -> str:
    explanations = opened.explanations(size)
    verb = "clamped to" if mode == "clamp" else "plus"
    lines = []
    for feature, factor in feature_factors.items():
        meaning = f": {explanations[feature]}" if feature in explanations else ""
        lines.append(f"feature {size}/{feature} {verb} {factor:g} x its maximum{meaning}")
    return "\n".join(lines)


class _View:
    """The two texts and how they are shown."""

    def __init__(self, heading: str, prompt: str) -> None:
        self.heading, self.prompt = heading, prompt
        self.texts = ["", ""]

    def columns(self) -> Group:
        # `Text`: what a model writes is never read as markup.
        panels = [
            Panel(Text(text), title=title, border_style=style)
            for text, title, style in zip(self.texts, ("unsteered", "steered"), ("dim", "bold"), strict=True)
        ]
        return Group(Text(self.heading), Text(f"> {self.prompt}"), Columns(panels, equal=True, expand=True))

    def plain(self) -> str:
        return f"{self.heading}\n> {self.prompt}\n\nunsteered: {self.texts[BASELINE]}\n\nsteered:   {self.texts[STEERED]}"
