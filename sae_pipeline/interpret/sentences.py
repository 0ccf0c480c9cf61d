"""One readable English sentence from what token statistics know of a unit. Wording only: nothing is measured here."""

from dataclasses import dataclass
from functools import lru_cache

from sae_pipeline.interpret.protocols import LOGIT_CLAUSE, Kind
from sae_pipeline.interpret.rules import Rule

SHOWN = 5  # items of a list that are spelled out
WEAK_F1 = 0.1  # below this train F1 the pattern explains so little that the sentence says so


@dataclass(frozen=True)
class Facts:
    """What is known of one unit. Shares are of its train activations, `rule_share` of its activation mass.

    `tokens`: (text, word it is a piece of or None) of the token ids in the rule. `previous`, `following`: a token that stands
    right before or after most activations. `group`: the source that holds most of them.
    """

    rule: Rule
    rule_share: float
    train_f1: float
    texts: dict[int, str]
    pieces: dict[int, str]
    previous: str | None
    following: str | None
    group: str | None
    at_start: bool
    words: tuple[str, ...]
    promotes: tuple[str, ...]


def sentence(facts: Facts) -> str:
    """The explanation, with a full stop."""
    text = f"{_subject(facts)} ({_percent(facts.rule_share)} of its activation){_context(facts)}"
    if facts.train_f1 < WEAK_F1:
        text = "No clear pattern; at best: " + text[0].lower() + text[1:]
    if facts.promotes:
        text += LOGIT_CLAUSE + ", ".join(quote(token) for token in facts.promotes)
    return text + "."


def kind_of(rule: Rule, train_f1: float, texts: dict[int, str]) -> Kind:
    """The coarse kind of a rule."""
    if train_f1 < WEAK_F1:
        return "other"
    if rule.key in ("token", "token_in"):
        ids = [cell if rule.key == "token" else cell[1] for cell in rule.cells]
        return "token" if any(any(c.isalnum() for c in texts[token]) for token in ids[:SHOWN]) else "syntax"
    if rule.key == "class_in":
        return "syntax" if len({cell[1] for cell in rule.cells}) < 3 else "topic"
    if rule.key == "near":
        return "topic"
    return "position" if rule.key == "position" else "phrase"


@lru_cache(maxsize=2**16)
def quote(token: str) -> str:
    """A token as a reader wants it: 'island'; invisible ones by name."""
    if not token.strip():
        return _white_space(token)
    if "\\x" in token:
        return "pieces of non-Latin characters"
    return "'" + token.strip(" ").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r") + "'"


def _white_space(token: str) -> str:
    if "\n" in token:
        blank, indented = "\n\n" in token, token[-1] in " \t"
        return ("an indented" if indented else "a") + (" blank line" if blank else " line break")
    return "a tab" if "\t" in token else "a space" if len(token) == 1 else "spaces" if token else "nothing"


def list_of(items: list[str], joint: str = "and", shown: int = SHOWN) -> str:
    """'a', 'b' and 3 more; each item once, whatever its case."""
    distinct: dict[str, str] = {}
    for item in items:
        distinct.setdefault(item.lower(), item)
    items = list(distinct.values())
    if len(items) > shown:
        return f"{', '.join(items[:shown])} and {len(items) - shown} more"
    return f" {joint} ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]


def group_text(name: str) -> str:
    """'dialogues/spanish' -> 'Spanish dialogues'; 'world_factbook' -> 'world factbook text'."""
    source, _, language = name.partition("/")
    readable = source.replace("_", " ")
    return f"{language[:1].upper()}{language[1:]} {readable}" if language else f"{readable} text"


def _subject(facts: Facts) -> str:
    rule = facts.rule
    if rule.key == "token":
        return f"Fires on {list_of([_token(facts, token) for token in rule.cells])}"
    if rule.key == "token_in":
        by_group: dict[str, list[str]] = {}
        for group, token in rule.cells:
            by_group.setdefault(group, []).append(_token(facts, token))
        if len(by_group) > 2:
            names = list_of([group_text(group) for group in by_group], shown=2)
            return f"Fires on {list_of([item for items in by_group.values() for item in items])} in {names}"
        return "Fires on " + ", and on ".join(f"{list_of(items)} in {group_text(group)}" for group, items in by_group.items())
    if rule.key == "previous":
        return f"Fires on whatever follows {list_of([_token(facts, token) for token in rule.cells], 'or')}"
    if rule.key == "next":
        return f"Fires right before {list_of([_token(facts, token) for token in rule.cells], 'or')}"
    if rule.key == "bigram":
        return _bigrams(facts)
    if rule.key == "class_in":
        by_group = {}
        for group, name in rule.cells:
            by_group.setdefault(group, []).append(name)
        shown = [f"{list_of(items)} in {group_text(group)}" for group, items in list(by_group.items())[:2]]
        rest = [group_text(group) for group in list(by_group)[2:]]
        return f"Fires on {', and on '.join(shown)}{', also in ' + list_of(rest, shown=2) if rest else ''}"
    if rule.key == "position":
        ranges = list_of([str(low) if low == high else f"{low} to {high}" for low, high in sorted(rule.cells)])
        return f"Fires at token {ranges} of a block, whatever the text"
    return f"Fires in passages about {list_of([quote(word) for word in rule.cells])}"


def _bigrams(facts: Facts) -> str:
    pairs = [(before, token) for before, token in facts.rule.cells]
    firsts, seconds = {a for a, _ in pairs}, {b for _, b in pairs}
    if len(seconds) == 1:
        return f"Fires on {_token(facts, pairs[0][1])} after {list_of([_token(facts, a) for a, _ in pairs], 'or')}"
    if len(firsts) == 1:
        return f"Fires on {list_of([_token(facts, b) for _, b in pairs])} after {_token(facts, pairs[0][0])}"
    return f"Fires at the end of {list_of([_pair(facts.texts.get(a, ''), facts.texts[b]) for a, b in pairs])}"


def _pair(before: str, token: str) -> str:
    if token.strip() and not before.strip():
        if "\n" in before:
            return f"{quote(token)} at the start of a line"
        return quote(token) if before else f"{quote(token)} at the start of a text"
    return quote(before.lstrip(" ") + token)


def _context(facts: Facts) -> str:
    parts = []
    if facts.previous and facts.rule.key not in ("previous", "bigram"):
        parts.append(f"mostly after {quote(facts.previous)}")
    if facts.following and facts.rule.key != "next":
        parts.append(f"mostly before {quote(facts.following)}")
    if facts.group and facts.rule.key not in ("token_in", "class_in"):
        parts.append(f"in {group_text(facts.group)}")
    if facts.at_start and facts.rule.key != "position":
        parts.append("at the start of a block")
    if facts.words and facts.rule.key != "near":
        parts.append(f"near {list_of([quote(word) for word in facts.words[:3]])}")
    return "".join(f", {part}" for part in parts)


def _token(facts: Facts, token: int) -> str:
    text = quote(facts.texts.get(token, ""))
    return f"{text} (in '{facts.pieces[token]}')" if token in facts.pieces else text


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.01 else f"{100 * share:.0f} %"
