"""Prompt texts, one versioned file each. Change a text only together with its version: old answers keep their old digest."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path


@dataclass(frozen=True)
class Prompt:
    """A system prompt; `name` carries the version, `sha` is the SHA-256 of the text."""

    name: str
    text: str
    sha: str


@cache
def load_prompt(name: str) -> Prompt:
    """The prompt in `<name>.md` beside this module."""
    text = Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8").strip()
    return Prompt(name, text, sha256(text.encode()).hexdigest())
