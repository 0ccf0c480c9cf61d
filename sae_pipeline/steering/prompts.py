"""The neutral prompts: a versioned file, split into the half that chooses a factor and the half that reports."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml

from sae_pipeline.errors import UserError

Half = Literal["choose", "report"]
WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class Prompt:
    """One neutral question. `prompt_id` is its place in prompts.yaml."""

    prompt_id: int
    text: str

    @property
    def half(self) -> Half:
        """Even places choose the factor, odd places report."""
        return "report" if self.prompt_id % 2 else "choose"


@cache
def _file() -> dict:
    return yaml.safe_load(files("sae_pipeline.steering").joinpath("prompts.yaml").read_text(encoding="utf-8"))


def prompts_version() -> int:
    """Version of prompts.yaml, recorded with the evals."""
    return _file()["version"]


def load_prompts(n_prompts: int) -> list[Prompt]:
    """The first `n_prompts` of prompts.yaml. Raises `UserError` when there are not so many."""
    texts = _file()["prompts"]
    if n_prompts > len(texts):
        raise UserError("steer.n_prompts", f"{n_prompts} prompts wanted, prompts.yaml has {len(texts)}", "Lower the number.")
    return [Prompt(i, text) for i, text in enumerate(texts[:n_prompts])]


def instructions() -> list[str]:
    """Templates of the prompt-only control, with {question} and {terms}."""
    return _file()["instructions"]


def output_score_texts() -> list[str]:
    """The openings after which the logit-output score reads the next token; no prompt of the evals is among them."""
    return _file()["output_score_texts"]


def output_score_turn() -> str:
    """The user turn whose answer begins with one of these openings."""
    return _file()["output_score_turn"]


@cache
def excluded_words() -> frozenset[str]:
    """Words that can never be concept terms: English stop words and every word of the prompts and instructions, stemmed."""
    stop_words = files("sae_pipeline.steering").joinpath("stop_words.txt").read_text(encoding="utf-8").split()
    asked = [*_file()["prompts"], *_file()["instructions"]]
    return frozenset(stem(word) for word in stop_words) | frozenset(word for text in asked for word in words_of(text))


def stem(word: str) -> str:
    """Lower case, without a plural s: `Islands` and `island` are one word."""
    word = word.lower()
    return word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith("ss") else word


def words_of(text: str) -> list[str]:
    """Stemmed words of at least three letters, in any script, in order."""
    return [stem(word) for word in WORD.findall(text)]
