"""A scripted judge for the planted world: it names the word that most excerpts mark, and rates by looking for that word."""

import re
from collections import Counter
from typing import Any

MARKED = re.compile(r"«([^»]*)»")
EXAMPLE = re.compile(r"<example[^>]*>(.*?)</example>", re.DOTALL)


def oracle(body: dict[str, Any]) -> dict[str, Any]:
    user = body["messages"][0]["content"]
    system = body["system"] if isinstance(body["system"], str) else body["system"][0]["text"]
    if system.startswith("You describe"):
        word = Counter(word for text in EXAMPLE.findall(user) for word in MARKED.findall(text)).most_common(1)[0][0]
        return {"evidence": word, "explanation": f"The word '{word}'.", "kind": "token", "confidence": "high"}
    description = user.split("</description>")[0]
    if system.startswith("You write"):
        word = (re.findall(r"'([^']+)'", description) or ["nothing"])[0]
        return {f"text_{i}": f"Text {i} speaks of {word}." for i in range(1, 6)}
    answers = {}
    for i, text in enumerate(EXAMPLE.findall(user), 1):
        marked = MARKED.findall(text)
        words = re.findall(r"'([^']+)'", description)
        if system.startswith("You rate"):
            score = 3 if marked and marked[0] in words else 1 if any(word in text for word in words) else 0
            answers[f"example_{i}"] = {"evidence": marked[0], "score": score}
        elif marked:
            answers[f"example_{i}"] = {"sure": 3 if marked[0] in words else 0}
        else:
            answers[f"example_{i}"] = {"sure": 3 if any(re.search(rf"\b{re.escape(word)}\b", text) for word in words) else 0}
    return answers
