"""`sae-pipeline browse`: the feature browser of a study."""

from pathlib import Path

from sae_pipeline.device import choose_device
from sae_pipeline.study import load_study


def browse_command(study_file: Path, host: str, port: int, device: str) -> int:
    """Serve until Ctrl-C; returns the exit code. Raises `UserError` for a device, host or port that cannot be had."""
    from sae_pipeline.browser.server import serve

    study = load_study(study_file)
    return serve(study, host=host, port=port, device=device if device == "cpu" else choose_device(device).name)
