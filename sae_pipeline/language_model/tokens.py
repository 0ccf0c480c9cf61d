"""Text to token ids and back: the one tokenise function for blocks and prompts alike."""

import re
from functools import cached_property, lru_cache
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sae_pipeline.errors import UserError
from sae_pipeline.language_model.origin import label, load_config, loading, pretrained_arguments
from sae_pipeline.study import Model


class Tokens:
    """A model's tokenizer with an explicit BOS policy: no tokenizer adds anything by itself here."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, name: str) -> None:
        self.tokenizer: Any = tokenizer
        self.name = name
        self.vocab_size = max(vocab_size, len(tokenizer))  # embeddings are often padded beyond the tokenizer
        self.bos_id: int | None = self.tokenizer.bos_token_id
        self.eos_id: int | None = self.tokenizer.eos_token_id
        added = self.tokenizer.added_tokens_decoder.items()
        self.special_ids = frozenset(self.tokenizer.all_special_ids) | {token_id for token_id, token in added if token.special}

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` writes turns; without a template it is a plain completion."""
        return bool(self.tokenizer.chat_template)

    def tokenize(self, text: str, bos: bool) -> list[int]:
        """Token ids of `text`, with the model's own BOS in front when `bos`; never doubled. `UserError` if there is no BOS."""
        ids = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return [self.require_bos(), *ids] if bos and (not ids or ids[0] != self.bos_id) else ids

    def tokenize_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of many texts, without BOS."""
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]

    def chat(self, user_text: str) -> list[int]:
        """One user turn and the opening of the reply. Without a chat template: a plain completion of `user_text`."""
        if not self.has_chat_template:
            return self.tokenize(user_text, bos=self.bos_id is not None)
        turns = [{"role": "user", "content": user_text}]
        return self.tokenize(
            self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False), self.bos_id is not None
        )

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def require_bos(self) -> int:
        """The BOS id; `UserError` with the mend when the tokenizer has none."""
        if self.bos_id is None:
            raise UserError("corpus.bos", f"prepend, but the tokenizer of {self.name} has no BOS token", "Set corpus.bos: none.")
        return self.bos_id

    def require_eos(self) -> int:
        """The EOS id, which separates documents; `UserError` when the tokenizer has none."""
        if self.eos_id is None:
            raise UserError(
                "model", f"the tokenizer of {self.name} has no EOS token, which separates documents in a block",
                'Add "eos_token" to the model\'s tokenizer_config.json.',
            )  # fmt: skip
        return self.eos_id

    @cached_property
    def texts(self) -> list[str]:
        """What every id reads alone, leading space kept; bytes that are no whole character as `\\xe2`."""
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        byte_level = "ByteLevel" in repr(
            getattr(self.tokenizer, "backend_tokenizer", None) and self.tokenizer.backend_tokenizer.decoder
        )
        added = self.tokenizer.added_tokens_decoder
        texts = []
        for token_id, piece in enumerate(pieces):
            if piece is None:
                texts.append(f"<unused {token_id}>")
            elif token_id in added:
                texts.append(piece)
            else:
                texts.append(_byte_level_text(piece) if byte_level else _sentencepiece_text(piece))
        return texts + [f"<unused {token_id}>" for token_id in range(len(texts), self.vocab_size)]


def load_tokenizer(model: Model) -> Tokens:
    """The tokenizer of a study's model; no weights are read. Raises `UserError`."""
    name, arguments = pretrained_arguments(model)
    with loading(model):
        tokenizer = AutoTokenizer.from_pretrained(name, **arguments)
    config = load_config(model).get_text_config(decoder=True)
    return Tokens(tokenizer, config.vocab_size, label(model))


def _byte_level_text(piece: str) -> str:
    table = _byte_of_character()
    if any(character not in table for character in piece):
        return piece
    return bytes(table[character] for character in piece).decode("utf-8", errors="backslashreplace")


def _sentencepiece_text(piece: str) -> str:
    text = re.sub(r"^<0x([0-9A-F]{2})>$", lambda match: bytes.fromhex(match[1]).decode("utf-8", errors="backslashreplace"), piece)
    return text.replace("▁", " ")


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte-level alphabet: printable Latin-1 stands for itself, every other byte for a character from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + rank): byte for rank, byte in enumerate(others)}
