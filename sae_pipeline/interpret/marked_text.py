"""Corpus text as a judge sees it: escaped, and with the marked tokens between « and ».

Corpus text is untrusted. `<`, `>`, `&` and the markers themselves are escaped, so that a document can neither close the element
that quotes it nor fake a highlight; instructions stand in the system prompt only. Characters that no reader sees (controls, text
direction, zero width, tags) are spelled out: what the judge reads is what a person sees in the ledger.
"""

import re
from collections.abc import Collection

from sae_pipeline.interpret.tokens import TokenTable

OPEN, CLOSE = "«", "»"
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", OPEN: "&laquo;", CLOSE: "&raquo;", "\r": " ", "\n": "↵"})
# Joiners (U+200C, U+200D) and soft hyphens stay: Persian, Hindi and emoji are written with them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def escape(text: str) -> str:
    """`text` as harmless content of an element."""
    return _UNSEEN.sub(lambda unseen: f"\\u{{{ord(unseen[0]):x}}}", text.translate(_ESCAPES))


def marked(tokens: TokenTable, first: int, last: int, marks: Collection[int] = ()) -> str:
    """Text of the tokens first..last (inclusive), runs of tokens in `marks` between « and ».

    A marked byte piece takes its neighbours along, so that a character is never cut in half.
    """
    inside = [token in marks for token in range(first, last + 1)]
    pieces = [_is_byte(tokens, token) for token in range(first, last + 1)]
    for order in (range(1, len(inside)), range(len(inside) - 2, -1, -1)):
        for i in order:
            neighbour = i - order.step
            inside[i] = inside[i] or (pieces[i] and pieces[neighbour] and inside[neighbour])
    parts: list[str] = []
    start = 0
    for i in range(1, len(inside) + 1):
        if i == len(inside) or inside[i] != inside[start]:
            parts.append(_quoted(tokens.text(first + start, first + i - 1), inside[start]))
            start = i
    return "".join(parts)


def _quoted(text: str, mark: bool) -> str:
    if not mark:
        return escape(text)
    bare = text.strip(" ")
    # A leading space belongs to the token but reads better outside of the markers.
    before, after = (text[: len(text) - len(text.lstrip(" "))], text[len(text.rstrip(" ")) :]) if bare else ("", "")
    return f"{before}{OPEN}{escape(bare or text)}{CLOSE}{after}"


def _is_byte(tokens: TokenTable, token: int) -> bool:
    return "\\x" in tokens.token_text[tokens.token_id_N[token]]
