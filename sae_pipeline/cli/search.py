"""`sae-pipeline search`."""

from pathlib import Path

from sae_pipeline.device import choose_device
from sae_pipeline.study import load_study


def search_command(
    study_file: Path, positives: list[str], negatives: list[str], method: str, label: str | None, other: str | None,
    size: int | None, top: int, device: str,
) -> None:  # fmt: skip
    """Print the finds. Raises `UserError` for texts, a method or a size that do not fit."""
    study = load_study(study_file)

    from rich.console import Console
    from rich.text import Text

    from sae_pipeline.api import OpenStudy
    from sae_pipeline.survey.search.find import find_features

    size = max(study.sae.sizes) if size is None else size
    opened = OpenStudy(study, "data", choose_device(device).name)
    console = Console()
    found = find_features(opened, size, positives, negatives, method, label, other, top)
    if not found:
        console.print("no feature was found")
    for each in found:
        console.print(Text(f"{size}/{each.feature:<8} {each.score:8.3f}  {each.explanation or ''}"), soft_wrap=True)
