"""The API key: from the environment or a key file, kept out of every text that leaves this process.

Whether there is a key is decided here, before any client is made: the client would otherwise go on looking for profiles on
disk, and fail on the first call with an error that does not say what is missing.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from sae_pipeline.errors import UserError

VARIABLE = "ANTHROPIC_API_KEY"
MIN_PART = 8  # characters: shorter parts of a secret are words like any other
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)


class Key:
    """A secret string. Shows itself as `[key]`; `reveal()` is called only where a client is made."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "[key]"

    def reveal(self) -> str:
        """The secret itself."""
        return self._secret

    def redact(self, text: str) -> str:
        """`text` with every occurrence of the secret, and of half of it or more, replaced: servers and proxies may echo headers.

        Redact first and cut afterwards: of a secret that a cut has split, the first part would stay. A text that hides the secret
        behind the escapes of JSON (or of `repr`) comes back without these escapes.
        """
        plain = _ESCAPED.sub(_character, text) if "\\" in text else text
        covered = self._covered(plain)
        return self._covered(text) if covered == plain else covered

    def is_in(self, text: str) -> bool:
        """Whether `redact` would change `text`."""
        return self.redact(text) != text

    def _covered(self, text: str) -> str:
        n = len(self._secret)
        width = min(n, max(MIN_PART, (n + 1) // 2))
        parts = {self._secret[i : i + width] for i in range(n - width + 1)}
        shown: list[str] = []
        start = at = 0
        while at + width <= len(text):
            if text[at : at + width] not in parts:
                at += 1
                continue
            end = at + width
            while text[end + 1 - width : end + 1] in parts:
                end += 1
            shown += [text[start:at], "[key]"]
            start = at = end
        return "".join([*shown, text[start:]])


class NoSecret(Key):
    """What is sent where the protocol wants a key and nobody checks it: an ordinary word, which answers may contain."""

    def redact(self, text: str) -> str:
        """`text` as it is."""
        return text


def find_key(key_file: str | None, environment: Mapping[str, str] | None = None) -> Key | None:
    """The key from `key_file` (its first line) or from the environment; None when there is neither.

    Raises `UserError` for a key file that is missing, empty or readable by others, and for a key that no header can carry.
    """
    if key_file is not None:
        path = Path(key_file).expanduser()
        if not path.is_file():
            raise UserError("judge.key_file", f"{path} does not exist", f"Write the key into it, or set {VARIABLE}.")
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UserError("judge.key_file", f"{path} can be read by other users", f"Run `chmod 600 {path}`.")
        lines = path.read_text(encoding="utf-8").split()
        if not lines:
            raise UserError("judge.key_file", f"{path} is empty", "Write the key into it.")
        return _key(lines[0], "judge.key_file")
    secret = (os.environ if environment is None else environment).get(VARIABLE, "").strip()
    return _key(secret, VARIABLE) if secret else None


def _character(escaped: re.Match[str]) -> str:
    code = escaped[1] or escaped[2]
    return chr(int(code, 16)) if code else escaped[3]


def _key(secret: str, where: str) -> Key:
    # Of a header that cannot be sent, the client's error shows the bytes, escaped: no search for the key would find it there.
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise UserError(where, "the key has characters that no HTTP header can carry", "Copy it again, on one line.")
    return Key(secret)
