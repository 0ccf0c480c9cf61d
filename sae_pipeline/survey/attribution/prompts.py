"""The committed prompts, words and requests of this part of the survey."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from sae_pipeline.survey.measurement import files_digest

FOLDER = Path(__file__).parent
PROMPTS, WORDS, REQUESTS = (FOLDER / name for name in ("prompts.yaml", "words.yaml", "requests.yaml"))


@dataclass(frozen=True)
class Prompt:
    """One contrast. `middle`: words for the step in between that the prompt does not name (two-step facts only)."""

    prompt_id: int
    group: str
    text: str
    target: str
    baseline: str
    middle: tuple[str, ...] = ()


def read_prompts() -> list[Prompt]:
    """Every prompt, numbered in the order of the file."""
    groups = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    rows = [(group, row) for group, prompts in groups.items() for row in prompts]
    return [
        Prompt(i, group, row["text"], row["target"], row["baseline"], tuple(row.get("middle", ())))
        for i, (group, row) in enumerate(rows)
    ]


def read_words(name: str) -> tuple[str, ...]:
    """A list of `words.yaml`."""
    return tuple(yaml.safe_load(WORDS.read_text(encoding="utf-8"))[name])


def read_requests() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(harmless requests that ought to be turned down, openings of a refusal in lower case)."""
    held = yaml.safe_load(REQUESTS.read_text(encoding="utf-8"))
    return tuple(held["requests"]), tuple(held["openings"])


def prompts_sha() -> str:
    """Digest of all three files."""
    return files_digest(PROMPTS, WORDS, REQUESTS)
