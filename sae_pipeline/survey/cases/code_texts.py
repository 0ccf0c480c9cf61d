"""Minimal pairs of code with and without an error, filled from `code_errors.yaml`."""

from dataclasses import dataclass

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.survey.cases.prompts import fill, half_of, in_half, load
from sae_pipeline.survey.cases.reading import Text, whole_text


@dataclass(frozen=True)
class Pair:
    """The same code without and with an error. `output`: what the clean one prints, where that is known. Pairs of one `template`
    differ in their words alone: they are no independent cases."""

    kind: str
    half: str
    clean: str
    buggy: str
    name: str
    typo: str
    template: str
    output: str = ""


def pairs(language: str) -> list[Pair]:
    """All pairs of a language. Templates of a kind, and the words that fill them, go to the halves in turn."""
    texts = load("code_errors")
    made = []
    for kind, templates in texts[language].items():
        for place, template in enumerate(templates):
            half = half_of(place)
            for words in _fills(half, texts["n_fills"][language], offset=place):
                clean, buggy = (fill(template[which], **words) for which in ("clean", "buggy"))
                made.append(Pair(kind, half, clean, buggy, words["b"], words["t"], f"{kind} {place}"))
    # Templates without names of their own can come out the same with other words.
    return list({(pair.clean, pair.buggy): pair for pair in made}.values())


def sessions() -> list[Pair]:
    """Whole interactive sessions with a misspelled name, and what they print without it; halves by word."""
    texts = load("code_errors")
    made = []
    for place, template in enumerate(texts["sessions"]):
        for half in ("choose", "report"):
            for words in _fills(half, texts["n_session_fills"] // 2, offset=place):
                clean, buggy, output = (fill(template[which], **words) for which in ("clean", "buggy", "output"))
                made.append(Pair("name typo", half, clean, buggy, words["b"], words["t"], f"session {place}", output))
    return made


def prose() -> list[Pair]:
    """Sentences with a word spelled rightly and wrongly, all for reporting."""
    texts = load("code_errors")
    words = list(texts["fills"]["second"].items())[: texts["n_fills"]["prose"]]
    return [
        Pair("prose typo", "report", fill(sentence, b=right), fill(sentence, b=wrong), right, wrong, sentence)
        for sentence in texts["prose"]
        for right, wrong in words
    ]


def _fills(half: str, n: int, offset: int) -> list[dict]:
    lists = load("code_errors")["fills"]
    functions, first, words = (in_half(lists[name], half) for name in ("functions", "first", "words"))
    second = in_half(list(lists["second"].items()), half)
    made = []
    for place in range(n):
        turn = place + offset
        name, typo = second[turn % len(second)]
        m, n2 = 11 + 3 * turn, 4 + turn % 5
        made.append({
            "f": functions[turn % len(functions)], "a": first[(turn + 1) % len(first)], "b": name, "t": typo,
            "w": words[(turn + 2) % len(words)], "m": m, "n": n2, "sum": m + n2, "product": m * n2, "difference": m - n2,
        })  # fmt: skip
    return made


def pair_texts(lm: LanguageModel, pair: Pair) -> tuple[Text, Text]:
    """(clean, buggy), each scored from the first token in which they differ."""
    clean, buggy = (lm.tokenize(text, bos=False) for text in (pair.clean, pair.buggy))
    shared = 0
    while shared < min(len(clean), len(buggy)) - 1 and clean[shared] == buggy[shared]:
        shared += 1
    return whole_text(lm, pair.clean, shared), whole_text(lm, pair.buggy, shared)
