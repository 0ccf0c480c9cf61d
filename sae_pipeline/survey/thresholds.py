"""What counts as found and what a row needs to be testable, read once from `thresholds.yaml`, which says what each is for."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

FILE = Path(__file__).with_name("thresholds.yaml")


def read_thresholds() -> dict[str, dict[str, Any]]:
    """{name: {"value", "row": of the checklist, "what"}}."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


@cache
def thresholds() -> SimpleNamespace:
    """Every value by its name. A name that is not in the file is an `AttributeError`."""
    return SimpleNamespace(**{name: entry["value"] for name, entry in read_thresholds().items()})


def without_zero(value: float) -> str:
    """As texts write what is never above 1: .75."""
    return f"{value:g}".removeprefix("0")
