"""`sae-pipeline steer`."""

from pathlib import Path
from typing import cast

from sae_pipeline.device import choose_device
from sae_pipeline.errors import UserError
from sae_pipeline.study import load_study

MODES = ("clamp", "add")


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
    if mode not in MODES:
        raise UserError("--mode", f"no mode {mode!r}", f"Give {' or '.join(MODES)}.")

    from sae_pipeline.steering.interventions import Mode
    from sae_pipeline.steering.terminal import steer_in_terminal

    steer_in_terminal(
        study, "data", size or max(study.sae.sizes), dict(zip(features, factors, strict=True)), prompt, max_new_tokens,
        cast(Mode, mode), temperature, seed, device=choose_device(device).name,
    )  # fmt: skip
