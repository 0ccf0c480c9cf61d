"""A causal language model with one hook: read the activation there, go on from it, change it on the way.

Shapes: B rows, T tokens, D width at the hook, M neurons, V vocabulary. "Residual" names the activation at the hook site,
whichever site that is. Model dtype throughout, unless a docstring says otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sae_pipeline.language_model.blocks import (
    Anatomy,
    context_limit,
    find_down_projection,
    find_mlp,
    resumed,
    stream_of,
    truncated,
    unembedding,
    with_stream,
)  # fmt: skip
from sae_pipeline.language_model.generate import generate

if TYPE_CHECKING:  # importing either needs more than PyTorch
    from sae_pipeline.language_model.tokens import Tokens
    from sae_pipeline.study import Hook

Edit = Callable[[Tensor, Tensor | None, int], Tensor]
"""(r_BTD, token_ids_BT of this forward or None, position of its first token) -> r_BTD."""


class LanguageModel:
    """Everything the pipeline asks of a language model. Build it with `load_language_model`.

    One thread at a time: hooks and the running forward are state of the model.
    """

    def __init__(self, model: Any, anatomy: Anatomy, tokens: "Tokens", hook: "Hook", dtype_reason: str) -> None:
        self.model, self.anatomy, self.tokens, self.hook, self.dtype_reason = model, anatomy, tokens, hook, dtype_reason
        self.tokenizer = tokens.tokenizer
        self.bos_id, self.eos_id, self.special_ids = tokens.bos_id, tokens.eos_id, tokens.special_ids
        self.tokenize, self.chat, self.decode = tokens.tokenize, tokens.chat, tokens.decode
        self.n_blocks = len(anatomy.blocks)
        self.vocab_size: int = anatomy.head.weight.shape[0]
        self.d_model: int = model.config.get_text_config(decoder=True).hidden_size
        self.context_limit = context_limit(model.config)
        self._block = anatomy.blocks[hook.after_block]
        self._site = self._block if hook.site == "residual" else find_mlp(self._block)
        self._truncated = truncated(model, anatomy, hook.after_block)
        self._given: Tensor | None = None
        self._running: tuple[Tensor | None, int] = (None, 0)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.anatomy.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights; `dtype_reason` says why."""
        return self.model.dtype

    @cached_property
    def d_neurons(self) -> int:
        """Number of neurons in the hook's block: entries of its down projection's input."""
        with torch.no_grad(), _capture(find_down_projection(self._block), before=True) as caught:
            self._run_truncated(torch.zeros(1, 1, dtype=torch.int64), None)
        return caught[0].shape[-1]

    @cached_property
    def unembedding_DV(self) -> Tensor:
        """Float32; the final norm's gain is folded in, so that `W_dec @ unembedding` is a feature's logit effect up to scale."""
        return unembedding(self.anatomy)

    # --- read

    @torch.no_grad()
    def residual(self, token_ids_BT: Tensor, attention_mask_BT: Tensor | None = None, neurons: Tensor | None = None) -> Any:
        """r_BTD at the hook, or (r_BTD, neurons_BTM) with `neurons` (ids of M neurons of the hook's block).

        Blocks after the hook and the head never run. Inside `edited`, what comes back is edited.
        """
        with _capture(self._site) as caught:
            if neurons is None:
                self._run_truncated(token_ids_BT, attention_mask_BT)
                return caught[0]
            with _capture(find_down_projection(self._block), before=True) as inputs:
                self._run_truncated(token_ids_BT, attention_mask_BT)
            return caught[0], inputs[0][..., neurons.to(self.device)]

    @torch.no_grad()
    def neurons_up_to_hook(self, token_ids_BT: Tensor) -> list[Tensor]:
        """Neurons_BTM of every block up to the hook's, first block first: the inputs of their down projections."""
        with ExitStack() as stack:
            caught = [
                stack.enter_context(_capture(find_down_projection(block), before=True))
                for block in self.anatomy.blocks[: self.hook.after_block + 1]
            ]
            self._run_truncated(token_ids_BT, None)
        return [each[0] for each in caught]

    def _run_truncated(self, token_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> None:
        ids_BT = token_ids_BT.to(self.device, torch.int64)
        mask_BT = None if attention_mask_BT is None else attention_mask_BT.to(self.device)
        self._running = (ids_BT, 0)
        self._truncated(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)

    # --- go on

    @torch.no_grad()
    def logits_from(self, r_BTD: Tensor, token_ids_BT: Tensor) -> Tensor:
        """Logits_BTV when the activation at the hook is r.

        Site residual: only the blocks after the hook and the head run. Site mlp_output: the whole forward, r put in place.
        """
        return self._logits_from(r_BTD.to(self.device, self.dtype), token_ids_BT)

    @torch.no_grad()
    def last_logits_from(self, r_BTD: Tensor, token_ids_BT: Tensor) -> Tensor:
        """Logits_BV of the last position when the activation at the hook is r; the head sees no other if it need not."""
        return self._logits_from(r_BTD.to(self.device, self.dtype), token_ids_BT, **self._last_alone)[:, -1]

    def last_logits_and_gradient(
        self, r_1TD: Tensor, token_ids_1T: Tensor, score: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(logits_V of the last position, d score(logits_V) / dr, T x D). The weights stay without gradients."""
        with torch.enable_grad():
            r_1TD = r_1TD.detach().to(self.device, self.dtype).clone().requires_grad_(True)
            logits_V = self._logits_from(r_1TD, token_ids_1T, **self._last_alone)[0, -1]
            (gradient_1TD,) = torch.autograd.grad(score(logits_V), r_1TD)
        return logits_V.detach(), gradient_1TD[0]

    @cached_property
    def _last_alone(self) -> dict[str, int]:
        return {"logits_to_keep": 1} if "logits_to_keep" in signature(type(self.model).forward).parameters else {}

    def _logits_from(self, r_BTD: Tensor, token_ids_BT: Tensor, **options: int) -> Tensor:
        ids_BT = token_ids_BT.to(self.device, torch.int64)
        if self.hook.site == "residual":
            self._given = r_BTD
            try:
                return self._resumed(input_ids=ids_BT, use_cache=False, **options).logits
            finally:
                self._given = None
        handle = self._site.register_forward_hook(lambda module, args, output: with_stream(output, r_BTD))
        try:
            return self.model(input_ids=ids_BT, use_cache=False, **options).logits
        finally:
            handle.remove()

    @cached_property
    def _resumed(self) -> Any:
        with torch.no_grad(), _capture(self._block, whole=True) as caught:
            self._run_truncated(torch.zeros(1, 1, dtype=torch.int64), None)

        def stream() -> Tensor:
            assert self._given is not None
            return self._given

        return resumed(self.model, self.anatomy, self.hook.after_block, stream, as_tuple=isinstance(caught[0], tuple))

    # --- change

    @contextmanager
    def edited(self, edit: Edit) -> Iterator[None]:
        """Inside the block every forward, cached generation steps included, passes the hook's activation through `edit`."""

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            past = kwargs.get("past_key_values")
            self._running = (
                kwargs.get("input_ids", args[0] if args else None),
                0 if past is None else int(past.get_seq_length()),
            )

        def apply(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            stream = stream_of(output)
            return with_stream(output, edit(stream, *self._running).to(stream.dtype))

        handles = [
            self.model.register_forward_pre_hook(note, with_kwargs=True),
            self._site.register_forward_hook(apply, prepend=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def generate(
        self,
        prompts: list[list[int]],
        max_new_tokens: int,
        temperature: float,
        generator: torch.Generator | Sequence[int],
        edit: Edit | None = None,
        on_token: Callable[[int, int], None] | None = None,
        repeats: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """New tokens of each prompt, up to and without the end token; the prompts form one batch.

        Every row has its own random stream, drawn from `generator` in row order (or seeded by it, one seed per row): what a row
        says does not depend on the text of the others. `temperature` 0 is greedy. `on_token(row, token_id)` is called as tokens
        come. `repeats[i]`: continuations of prompt i, which is read once (`edit` then sees one row per prompt, and one per
        continuation afterwards).
        """
        with self.edited(edit) if edit else nullcontext():
            return generate(self.model, self._end_ids, prompts, max_new_tokens, temperature, generator, on_token, repeats)

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        declared = getattr(self.model.generation_config, "eos_token_id", None)
        several = declared if isinstance(declared, list) else [declared]
        return frozenset(token_id for token_id in (*several, self.eos_id) if token_id is not None)


@contextmanager
def _capture(module: nn.Module, before: bool = False, whole: bool = False) -> Iterator[list[Any]]:
    """Collect a module's output (its input with `before`, the output tuple and all with `whole`) while the block runs."""
    caught: list[Any] = []
    if before:
        handle = module.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    else:
        handle = module.register_forward_hook(lambda _, args, output: caught.append(output if whole else stream_of(output)))
    try:
        yield caught
    finally:
        handle.remove()
