"""`sae-pipeline steer`."""

from math import isfinite
from pathlib import Path
from typing import cast

from sae_pipeline.device import choose_device
from sae_pipeline.errors import UserError
from sae_pipeline.study import load_study

MODES = ("clamp", "add")
MAX_FACTOR = 1000  # far beyond what leaves a text standing


def steer_command(
    study_file: Path,
    features: list[int],
    factors: list[float],
    prompt: str,
    size: int | None,
    mode: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    device: str,
) -> None:
    """Print both answers. Raises `UserError` for a size, feature, factor or mode that does not fit."""
    study = load_study(study_file)
    if len(factors) == 1:
        factors = factors * len(features)
    if len(factors) != len(features):
        raise UserError("--factor", f"{len(factors)} factors for {len(features)} features", "Give one for all, or one for each.")
    if repeated := sorted({feature for feature in features if features.count(feature) > 1}):
        raise UserError("--feature", f"{repeated[0]} is given twice", "Name every feature once.")
    if wrong := [factor for factor in factors if not abs(factor) <= MAX_FACTOR]:
        raise UserError("--factor", f"{wrong[0]} is not between -{MAX_FACTOR} and {MAX_FACTOR}", "0.5 to 2 are usual.")
    if not isfinite(temperature):
        raise UserError("--temperature", f"{temperature} is no temperature", "Give a number; 0 takes the likeliest token.")
    if mode not in MODES:
        raise UserError("--mode", f"no mode {mode!r}", f"Give {' or '.join(MODES)}.")

    from sae_pipeline.steering.interventions import Mode
    from sae_pipeline.steering.terminal import steer_in_terminal

    steer_in_terminal(
        study, "data", max(study.sae.sizes) if size is None else size, dict(zip(features, factors, strict=True)), prompt,
        max_new_tokens, cast(Mode, mode), temperature, seed, device=choose_device(device).name,
    )  # fmt: skip
