"""The model behind the browser: loaded on first use, one piece of work at a time, a busy answer for the rest.

torch is imported inside functions: pages that only read tables start at once.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sae_pipeline.browser.parameters import Attributing, Refused, Steering
from sae_pipeline.errors import UserError
from sae_pipeline.inputs import model_digest
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import Study

if TYPE_CHECKING:
    from sae_pipeline.attribution.attribute import Attributed
    from sae_pipeline.language_model.model import LanguageModel
    from sae_pipeline.sae.autoencoder import SparseAutoencoder

MAX_TOKENS = 512  # of a text or prompt
MAX_EXACT_PARAMETERS = 1_000_000_000  # of a model that is held in single precision, too (4 GB)
# transformers resolves its names while it is first imported: two threads that do so at once can both fail.
LOADING = threading.Lock()


class Busy(Exception):
    """Somebody else's text is being read or written."""


class Stopped(Exception):
    """The visitor left."""


@dataclass(frozen=True)
class ReadToken:
    """One token of a visitor's text. `features`: (feature, activation), strongest first; empty where `masked` says why.

    `error`: squared reconstruction error over squared distance from the mean activation; None on masked tokens.
    """

    text: str
    features: list[tuple[int, float]]
    error: float | None
    masked: str


class Playground:
    """Language model and SAEs of a study."""

    def __init__(self, study: Study, root: Path, device: str) -> None:
        self.study, self.root, self.device = study, root, device
        self._turn = threading.Lock()
        self._saes: dict[Path, tuple[int, SparseAutoencoder]] = {}

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory already."""
        return "model" in self.__dict__

    @cached_property
    def model(self) -> "LanguageModel":
        """The language model. Use it only inside `turn`."""
        self._check_model()
        with LOADING:
            from sae_pipeline.language_model.load import load_language_model

            return load_language_model(self.study.model, self.study.hook, device=self.device, dtype=self.study.model.dtype)

    @cached_property
    def exact_model(self) -> "LanguageModel":
        """The model in float32, for differences of logits: 16 bits leave steps of about 0.1. A very large one stays as it is."""
        import torch

        n_parameters = sum(parameter.numel() for parameter in self.model.model.parameters())
        if self.model.dtype == torch.float32 or n_parameters > MAX_EXACT_PARAMETERS:
            return self.model
        with LOADING:
            from sae_pipeline.language_model.load import load_language_model

            return load_language_model(self.study.model, self.study.hook, device=self.device, dtype="float32")

    def _check_model(self) -> None:
        """Raises `UserError` when the artefacts were made with another model than the study names now."""
        manifest = ArtifactStore(self.study, self.root.parent).manifest("activations")
        if manifest is not None and manifest.inputs.get("model") != model_digest(self.study):
            raise UserError(str(self.root), "was made with another model than the study names now", "Run `sae-pipeline run`.")

    def _pair(self, size: int) -> "tuple[SparseAutoencoder, LanguageModel]":
        """SAE and model that belong together. Raises `UserError` when their widths differ."""
        sae, model = self.sae(size), self.model
        if sae.d_model != model.d_model:
            what = f"reads activations of width {sae.config['d_model']}, the study's model has {model.d_model}"
            raise UserError(str(self.root / "sae" / str(size)), what, "Run `sae-pipeline run`.")
        return sae, model

    def sae(self, size: int) -> "SparseAutoencoder":
        """The SAE of this size, read again when its file changed. Raises `UserError` when it is not there."""
        from sae_pipeline.sae.autoencoder import SparseAutoencoder

        folder = self.root / "sae" / str(size)
        try:
            stamp = (folder / "weights.safetensors").stat().st_mtime_ns
        except OSError as error:
            raise UserError(str(folder), "is not there yet", "Run `sae-pipeline run` first.") from error
        known = self._saes.get(folder)
        if known is None or known[0] != stamp:
            known = self._saes[folder] = (stamp, SparseAutoencoder.load(folder, self.device))
        return known[1]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the model. Raises `Busy` at once when somebody else does."""
        self.take_turn()
        try:
            yield
        finally:
            self.give_turn_back()

    def take_turn(self) -> None:
        """For work that ends in another thread than it began in; otherwise use `turn`."""
        if not self._turn.acquire(blocking=False):
            raise Busy

    def give_turn_back(self) -> None:
        """The other end of `take_turn`."""
        self._turn.release()

    def read(self, text: str, size: int, n_features: int = 5) -> list[ReadToken]:
        """What the SAE sees in a text, token by token. The caller holds `turn`."""
        import torch

        sae, model = self._pair(size)
        ids = model.tokenize(text, bos=self.study.corpus.bos == "prepend")
        _refuse_long(len(ids), "The text")
        with torch.inference_mode():
            r_ND = model.residual(torch.tensor([ids]))[0].float().to(sae.mean_D.device)
            codes = sae.encode_sparse(r_ND)
            error_N = (r_ND - sae.decode_sparse(codes)).square().sum(1) / (r_ND - sae.mean_D).square().sum(1)
            massive_N = r_ND.norm(dim=1) > sae.config["threshold_norm"]
        tokens = []
        for at, token_id in enumerate(ids):
            masked = "position 0" if at == 0 else "special token" if token_id in model.special_ids else ""
            masked = masked or ("massive activation" if massive_N[at] else "")
            found = slice(int(codes.offsets[at]), int(codes.offsets[at + 1]))
            pairs = sorted(
                zip(codes.feature[found].tolist(), codes.value[found].tolist(), strict=True), key=lambda pair: -pair[1]
            )
            tokens.append(
                ReadToken(
                    text=model.tokens.texts[token_id], features=[] if masked else pairs[:n_features],
                    error=None if masked else float(error_N[at]), masked=masked,
                )
            )  # fmt: skip
        return tokens

    def attribute(self, asked: Attributing) -> "tuple[Attributed, list[str], float | None, bool]":
        """(attribution, token texts, effect of switching `asked.cell` off, whether the model computes in float32).

        Raises `Refused` for words that are not one token. The caller holds `turn`.
        """
        import torch

        from sae_pipeline.attribution.ablation import ablation_effects
        from sae_pipeline.attribution.attribute import attribute
        from sae_pipeline.attribution.contrast import contrast

        sae, model = self._pair(asked.size)[0], self.exact_model
        bos = self.study.corpus.bos == "prepend"
        _refuse_long(len(model.tokenize(asked.prompt, bos)), "The prompt")
        try:
            wanted = contrast(model, asked.prompt, asked.target, asked.baseline, bos)
        except UserError as error:
            raise Refused(str(error)) from error
        found = attribute(model, sae, wanted)
        effect = None
        if asked.cell is not None:
            position, feature = asked.cell
            (pairs,) = torch.where((found.position_P == position) & (found.feature_P == feature))
            if not len(pairs):
                raise Refused(f"Feature {feature} is not active on token {position}.")
            effect = float(ablation_effects(model, sae, found, pairs)[0])
        return found, [model.tokens.texts[token_id] for token_id in wanted.token_ids], effect, model.dtype == torch.float32

    def steer(
        self, settings: Steering, maxima: dict[int, float], on_text: Callable[[int, str], None], stop: threading.Event
    ) -> tuple[str, str]:
        """Write twice in one batch, without and with the features: (unsteered, steered).

        `maxima`: training maximum of each steered feature. `on_text(side, text so far)` follows along, side 0 is unsteered.
        Raises `Stopped` soon after `stop` is set. The caller holds `turn`.
        """
        import torch

        from sae_pipeline.steering.interventions import Intervention, pushes

        sae, model = self._pair(settings.size)
        prompt = model.chat(settings.prompt) if settings.form == "chat" else model.tokenize(
            settings.prompt, bos=self.study.corpus.bos == "prepend"
        )  # fmt: skip
        _refuse_long(len(prompt), "The prompt")
        values = {feature: factor * maxima[feature] for feature, factor in settings.features.items()}
        rows = [[], pushes(values, settings.mode, sae.n_features)]
        edit = Intervention(sae, rows, sae.config["threshold_norm"], settings.positions, device=model.device)
        written: tuple[list[int], list[int]] = ([], [])

        def follow(row: int, token_id: int) -> None:
            if stop.is_set():
                raise Stopped
            written[row].append(token_id)
            on_text(row, model.decode(written[row]))

        generator = torch.Generator().manual_seed(settings.seed)
        unsteered, steered = model.generate(
            [prompt, prompt], settings.max_new_tokens, settings.temperature, generator, edit=edit, on_token=follow
        )
        return model.decode(unsteered), model.decode(steered)


def _refuse_long(n_tokens: int, what: str) -> None:
    if n_tokens > MAX_TOKENS:
        raise Refused(f"{what} has {n_tokens} tokens; at most {MAX_TOKENS} are read.")
