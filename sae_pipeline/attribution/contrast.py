"""A prompt and the two next tokens between which the model chooses."""

from dataclasses import dataclass

from sae_pipeline.errors import UserError
from sae_pipeline.language_model.model import LanguageModel


@dataclass(frozen=True)
class Contrast:
    """`token_ids` of the prompt; the score is logit(target) - logit(baseline) after its last token."""

    token_ids: tuple[int, ...]
    target: int
    baseline: int


def contrast(lm: LanguageModel, prompt: str, target: str, baseline: str, bos: bool) -> Contrast:
    """Token ids of a contrast. Raises `UserError` for an empty prompt, for targets that are not one token, and for equal ones."""
    token_ids = lm.tokenize(prompt, bos)
    if not prompt.strip():
        raise UserError("prompt", "is empty", "Give the text before the token in question.")
    if lm.context_limit is not None and len(token_ids) > lm.context_limit:
        raise UserError("prompt", f"has {len(token_ids)} tokens, the model reads {lm.context_limit}", "Give a shorter one.")
    ids = [one_token(lm, name, text) for name, text in (("target", target), ("baseline", baseline))]
    if ids[0] == ids[1]:
        raise UserError("baseline", f"{baseline!r} is the target itself", "Give another token to compare with.")
    return Contrast(tuple(token_ids), *ids)


def one_token(lm: LanguageModel, name: str, text: str) -> int:
    """The id of a text that is one token. Raises `UserError` that shows its pieces, and the spelling that would do."""
    ids = lm.tokenize(text, bos=False)
    if len(ids) == 1:
        return ids[0]
    pieces = " + ".join(repr(lm.tokens.texts[token_id]) for token_id in ids) or "nothing"
    other = text[1:] if text.startswith(" ") else f" {text}"
    fits = text.strip() != "" and len(lm.tokenize(other, bos=False)) == 1
    mend = f"Write {other!r}, which is one token." if fits else "Give a single token; words usually begin with a space."
    raise UserError(name, f"{text!r} is {len(ids)} tokens ({pieces})", mend)
