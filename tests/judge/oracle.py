"""A scripted judge for the planted world: it names the word that most excerpts mark, and rates by looking for that word."""

import re
from collections import Counter
from typing import Any

MARKED = re.compile(r"«([^»]*)»")
EXAMPLE = re.compile(r"<example[^>]*>(.*?)</example>", re.DOTALL)


def sentence(word: str) -> str:
    return f"The word '{word}', wherever it stands in a sentence, in texts of any subject and with whatever is around it."


def oracle(body: dict[str, Any]) -> dict[str, Any]:
    user = body["messages"][0]["content"]
    system = body["system"] if isinstance(body["system"], str) else body["system"][0]["text"]
    if system.startswith("You describe"):
        word = Counter(word for text in EXAMPLE.findall(user) for word in MARKED.findall(text)).most_common(1)[0][0]
        # As long as a judge's answers are.
        evidence = " | ".join(f"near the {word} and by the old" for _ in range(4))
        return {"evidence": evidence, "explanation": sentence(word), "kind": "token", "confidence": "high"}
    description = user.split("</description>")[0]
    if system.startswith("You write"):
        word = (re.findall(r"'([^']+)'", description) or ["nothing"])[0]
        rest = "and of many other things that have nothing to do with it, as texts do when they are written for no reason at all"
        return {f"text_{i}": f"Text {i} speaks of {word} {rest}." for i in range(1, 6)}
    answers = {}
    for i, text in enumerate(EXAMPLE.findall(user), 1):
        marked = MARKED.findall(text)
        words = re.findall(r"'([^']+)'", description)
        if system.startswith("You rate"):
            score = 3 if marked and marked[0] in words else 1 if any(word in text for word in words) else 0
            answers[f"example_{i}"] = {"evidence": f"{marked[0]} beside the old and the big red", "score": score}
        elif marked:
            answers[f"example_{i}"] = {"sure": 3 if marked[0] in words else 0}
        else:
            answers[f"example_{i}"] = {"sure": 3 if any(re.search(rf"\b{re.escape(word)}\b", text) for word in words) else 0}
    return answers
