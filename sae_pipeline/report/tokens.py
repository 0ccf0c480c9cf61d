"""Token windows for HTML pages: hostile text made visible and harmless, activation as one of ten levels.

Escaping is the template's work (autoescape). Here the rest: invisible and direction-changing characters are spelled out, very
long words are cut, and the level becomes a CSS class (`a0`-`a10`), so that pages need no inline style.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

N_LEVELS = 10
MAX_CHARS = 80
MAX_PIECES = 8  # tokens that are joined into whole characters
_PIECES = re.compile(r"((?:\\x[0-9a-f]{2})+)")
_SPELLED = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


@dataclass(frozen=True)
class ShownToken:
    """`text`: safe to show (not yet HTML-escaped); `level`: 0 (inactive) to 10; `center`: the token that was chosen."""

    text: str
    level: int
    activation: float
    center: bool


def shown_tokens(
    tokens: Sequence[str], activations: Sequence[float], maximum: float, center: int | None = None
) -> list[ShownToken]:
    """The window of an example, each token with its level relative to the feature's training `maximum`.

    Tokens that are pieces of one character (`\\xe3\\x81`, `\\x9f`) are shown together as that character, with the strongest
    activation of the pieces.
    """
    shown = []
    for text, first, last in _whole_characters(tokens):
        activation = max(activations[first:last])
        is_center = center is not None and first <= center < last
        shown.append(ShownToken(visible(text), level(activation, maximum), activation, is_center))
    return shown


def _whole_characters(tokens: Sequence[str]) -> list[tuple[str, int, int]]:
    """(text, first token, token after the last): pieces of a character joined, everything else alone."""
    found, at = [], 0
    while at < len(tokens):
        text, after = _joined(tokens, at)
        found.append((text, at, after))
        at = after
    return found


def _joined(tokens: Sequence[str], first: int) -> tuple[str, int]:
    """The shortest run of tokens from `first` on that is whole characters; the token alone when there is none."""
    data = b""
    for last in range(first, min(first + MAX_PIECES, len(tokens))):
        if last > first and not _PIECES.search(tokens[last]):
            break
        data += _bytes_of(tokens[last])
        try:
            return data.decode("utf-8"), last + 1
        except UnicodeDecodeError:
            continue
    return tokens[first], first + 1


def _bytes_of(token: str) -> bytes:
    parts = _PIECES.split(token)  # odd places are the escapes
    return b"".join(bytes.fromhex(part.replace("\\x", "")) if at % 2 else part.encode() for at, part in enumerate(parts))


def level(activation: float, maximum: float) -> int:
    """0 where inactive, else 1..10 in equal parts of (0, maximum]; more than the maximum is 10."""
    if activation <= 0 or maximum <= 0:
        return 0
    return max(1, min(N_LEVELS, round(N_LEVELS * activation / maximum)))


def visible(text: str, max_chars: int = MAX_CHARS) -> str:
    """Spell out what cannot be seen or changes the direction of what follows; cut after `max_chars`."""
    shown = "".join(_SPELLED.get(character) or _spell(character) for character in text[:max_chars])
    return shown + ("…" if len(text) > max_chars else "")


def readable(text: str, max_chars: int = 2000) -> str:
    """The same for running text: line breaks and tabs stay."""
    shown = "".join(character if character in "\n\t" else _spell(character) for character in text[:max_chars])
    return shown + ("…" if len(text) > max_chars else "")


def _spell(character: str) -> str:
    # Cc, Cf: control and format characters (zero width, bidirectional overrides); Cs, Co, Cn: nothing a font can show.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return f"⟨U+{ord(character):04X}⟩"
    return character
