"""`sae-pipeline attribute`."""

from pathlib import Path

from sae_pipeline.device import choose_device
from sae_pipeline.study import load_study


def attribute_command(study_file: Path, prompt: str, target: str, baseline: str, size: int | None, top: int, device: str) -> None:
    """Print the features. Raises `UserError` for a size, prompt or token that does not fit."""
    study = load_study(study_file)

    from sae_pipeline.attribution.terminal import attribute_in_terminal

    size = max(study.sae.sizes) if size is None else size
    attribute_in_terminal(study, "data", size, prompt, target, baseline, top, choose_device(device).name)
