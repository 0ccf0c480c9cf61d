"""The study: one YAML file that says everything that can change a result.

Every default is written here, nothing is hidden in code. Unknown keys and impossible values are refused when the file is
loaded, with field, value and mend. What needs the model (a hook past the last block) is checked by `sae_pipeline.preflight`, what
needs the texts (a budget larger than the corpus) by the first stage: both before anything long starts.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from sae_pipeline.errors import UserError
from sae_pipeline.study_inputs import (
    BuiltinSource,
    Corpus,
    FolderModel,
    Hook,
    HubModel,
    HubSource,
    LocalSource,
    Model,
    PackageModel,
    Section,
    Source,
)
from sae_pipeline.study_judge import Judge, ModelPrice
from sae_pipeline.study_pretrained import PretrainedSae
from sae_pipeline.study_sae import AnySae, Sae
from sae_pipeline.study_survey import Survey
from sae_pipeline.study_yaml import key_path, read_yaml

__all__ = [
    "Activations", "BuiltinSource", "Corpus", "Explain", "Features", "FolderModel", "Hook", "HubModel", "HubSource", "Judge",
    "LocalSource", "Metrics", "Model", "ModelPrice", "PackageModel", "PretrainedSae", "RandomModel", "Sae", "Score", "Section",
    "Source", "Steer", "Study", "Survey", "load_study", "parse_study",
]  # fmt: skip


class Activations(Section):
    """Harvest, token mask and scaling."""

    dtype: Literal["bfloat16", "float32"] = Field(default="bfloat16", description="of stored activations")
    source: Literal["cached", "streaming"] = Field(
        default="cached",
        description="cached: shards on disk, read by every size; streaming: computed again when they are read, none on disk",
    )
    mask_norm_above_median: float = Field(
        default=3.0, gt=1, description="tokens with a larger norm are massive activations and masked"
    )
    max_masked_fraction: float = Field(default=0.05, gt=0, lt=1, description="a larger masked share of tokens is an error")
    center: bool = Field(default=True, description="subtract the training mean; relu_l1 as in the paper uses false")
    n_neurons: int = Field(default=128, ge=0, description="MLP neurons of the hook's block kept as a control")
    seed: int = Field(default=0, description="of every random choice of this section")


class RandomModel(Section):
    """Control: the smallest SAE trained once more, on the model with random weights."""

    n_tokens: int = Field(default=60_000, ge=0, description="of the corpus, train and held out; 0 leaves this control out")
    epochs: float = Field(default=6, gt=0, description="passes over its training tokens")
    seed: int = Field(default=0, description="of the weights and of which blocks are read")


class Metrics(Section):
    """Held-out evaluation of an SAE."""

    splice_tokens: int = Field(default=16_384, gt=0, description="held-out tokens for CE recovered, delta CE and KL")
    seed: int = Field(default=0, description="of every random choice of this section")


class Features(Section):
    """Feature statistics and examples."""

    n_top: int = Field(default=20, gt=0, description="top examples per feature, from distinct documents")
    n_per_interval: int = Field(default=5, gt=0, description="uniform samples per activation interval, feature and split")
    window: int = Field(default=16, gt=0, description="tokens kept on each side of an example")
    n_logits: int = Field(default=10, gt=0, description="most promoted and most suppressed tokens")
    seed: int = Field(default=0, description="of every random choice of this section")


class Explain(Section):
    """How features are put into words. The offline sentences are always made; `llm` puts the judge's beside them."""

    method: Literal["token-stats", "llm"] = Field(default="token-stats", description="llm: the judge explains, too")
    features: list[int] | None = Field(default=None, description="only these features (of every size); default: every live one")
    n_judged: int | None = Field(
        default=None, gt=0, description="features that the judge explains (method llm), the scored ones first; default: every one"
    )
    logit_effects: bool = Field(default=False, description="show the judge also the tokens that a feature promotes")

    @model_validator(mode="after")
    def _judged_by_a_judge(self) -> "Explain":
        if self.method != "llm" and (self.n_judged is not None or self.logit_effects):
            raise ValueError("n_judged and logit_effects belong to method llm")
        return self


class Score(Section):
    """Specificity scores, 0-3. `proxy` needs no language model and is always made; `rubric` puts the judge's beside it."""

    method: Literal["proxy", "rubric"] = Field(default="proxy", description="rubric: the judge scores, too")
    n_features: int = Field(default=100, gt=0, description="random live features per size")
    features: list[int] | None = Field(default=None, description="score these features instead of a random sample")
    examples_per_interval: int = Field(default=3, gt=0, description="held-out windows per feature and activation interval")
    chosen: list[int] | int | None = Field(
        default=None, description="features to look at closely, or how many of the scored ones, taken by rule (docs/metrics.md)"
    )
    examples_per_chosen: int = Field(default=1000, gt=0, description="held-out activations of each, over all intervals")
    n_controls: int = Field(
        default=50, gt=0, description="random directions, MLP neurons and random-model features scored beside the features"
    )
    examples_per_call: int = Field(default=6, ge=1, le=20, description="held-out windows in one question to the judge")
    seed: int = Field(default=0, description="of every random choice of this section")

    @model_validator(mode="after")
    def _some_are_chosen(self) -> "Score":
        if isinstance(self.chosen, int) and self.chosen < 1:
            raise ValueError(f"chosen: {self.chosen} features cannot be taken; leave it out for none")
        return self


class Steer(Section):
    """Steering evals. Factors are multiples of the feature's training maximum."""

    n_features: dict[int | Literal["other"], int] = Field(
        default={"other": 6}, description="features that are steered, by size (`other`: the sizes not named)"
    )
    features: list[int] | None = Field(default=None, description="steer these features instead of a drawn sample")
    factors: list[float] = Field(default=[0, 1, 1.5, 2], min_length=1, description="tried; one of the positive ones is chosen")
    max_new_tokens: int = Field(default=20, gt=0, description="length of a completion, at most")
    n_prompts: int = Field(default=16, ge=4, description="neutral prompts; half choose the factor, half report")
    samples_per_prompt: int = Field(default=5, gt=0, description="completions per reporting prompt at the chosen factor")
    choose_samples: int = Field(default=8, gt=0, description="completions per factor on the choosing prompts")
    dose_samples: int = Field(default=4, gt=0, description="completions per other factor on the reporting prompts")
    n_controls: int = Field(default=8, gt=0, description="control features and random directions, each a pool for all features")
    temperature: float = Field(default=0.7, ge=0, description="of sampling; 0 takes the likeliest token")
    positions: Literal["not_massive", "all", "response"] = Field(
        default="not_massive", description="steered tokens: all but massive activations, every one (the paper), or the answer's"
    )
    seed: int = Field(default=0, description="of every random choice of this section")

    @model_validator(mode="after")
    def _something_to_choose_from(self) -> "Steer":
        if len(set(self.factors)) < len(self.factors) or max(self.factors) <= 0:
            raise ValueError(f"factors = {self.factors}: they must differ, and one must be positive")
        if (least := min(self.n_features.values(), default=0)) < 0:
            raise ValueError(f"n_features must not be negative, but one is {least}")
        return self


class Study(Section):
    """A whole study. `name` is also the folder under `data/`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="lower-case letters, digits, - and _")
    model: Model
    hook: Hook
    corpus: Corpus
    activations: Activations = Activations()
    sae: AnySae
    random_model: RandomModel = RandomModel()
    metrics: Metrics = Metrics()
    features: Features = Features()
    explain: Explain = Explain()
    score: Score = Score()
    steer: Steer = Steer()
    survey: Survey = Survey()
    judge: Judge = Judge()

    @model_validator(mode="after")
    def _sections_agree(self) -> "Study":
        sizes = set(self.sae.sizes)
        for size in self.steer.n_features:
            if size != "other" and size not in sizes:
                raise ValueError(f"steer.n_features names size {size}, but sae.sizes are {self.sae.sizes}")
        asks = self.explain.method == "llm" or self.score.method == "rubric"
        if asks and self.judge.backend == "none":
            raise ValueError("explain.method llm and score.method rubric need a judge: set judge.backend")
        if not asks and self.judge.backend != "none":
            raise ValueError(
                "the judge is never asked: set explain.method to llm, score.method to rubric, or judge.backend to none"
            )
        for section, features in (
            ("explain.features", self.explain.features),
            ("score.features", self.score.features),
            ("score.chosen", None if isinstance(self.score.chosen, int) else self.score.chosen),
            ("steer.features", self.steer.features),
        ):
            if features is not None and not features:
                raise ValueError(f"{section} is an empty list; leave it out for the study's own choice")
            if features and (min(features) < 0 or max(features) >= self.sae.sizes[0]):
                wrong = min(features) if min(features) < 0 else max(features)
                raise ValueError(f"{section} names feature {wrong}, but the smallest size is {self.sae.sizes[0]}")
        return self

    @property
    def control_sae(self) -> Sae:
        """How the SAE of the random model is trained: the smallest size, as the study trains it; by default where it imports."""
        smallest = self.sae.sizes[0]
        if isinstance(self.sae, PretrainedSae):
            return Sae(sizes=[smallest], k=min(32, smallest), epochs=self.random_model.epochs)
        changed = {"sizes": [smallest], "learning_rate": self.sae.learning_rate_of(smallest), "epochs": self.random_model.epochs}
        return self.sae.model_copy(update=changed)

    def n_steered(self, size: int) -> int:
        """How many features of this size are steered."""
        return self.steer.n_features.get(size, self.steer.n_features.get("other", 0))


def load_study(path: str | Path) -> Study:
    """Read and validate a study. Raises `UserError` that names file, field, value and mend."""
    path = Path(path)
    if not path.is_file():
        known = ", ".join(sorted(str(p) for p in Path("studies").glob("*.yaml"))) or "none"
        raise UserError(str(path), "no such study file", f"Give the path of a study; found here: {known}.")
    return parse_study(read_yaml(path), where=str(path))


def parse_study(raw: Any, where: str = "study") -> Study:
    """Validate a plain mapping as a study; `where` names its origin in errors."""
    if not isinstance(raw, dict):
        raise UserError(where, f"a study is a mapping of sections, got {type(raw).__name__}", "Start from studies/demo.yaml.")
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        raise UserError(where, *_explain(error, raw)) from error


def _explain(error: ValidationError, raw: dict[str, Any]) -> tuple[str, str]:
    """The first problem as (what, mend), the rest counted."""
    problems = [(key_path(each["loc"], raw, each["type"] == "missing"), each) for each in error.errors()]
    # A value that may have one of several types has a problem with each of them: the one that looked deepest says most.
    shallow = problems[0][0]
    alike = [problem for problem in problems if problem[0] == shallow or problem[0].startswith(f"{shallow}.")]
    field, first = max(alike, key=lambda problem: len(problem[1]["loc"]))
    n_others = len({path for path, _ in problems} - {path for path, _ in alike})
    if first["type"] == "extra_forbidden":
        what, mend = f"unknown key `{field}`", "Remove it or correct its spelling; docs/studies.md lists every key."
    elif first["type"] == "union_tag_not_found":
        what, mend = (
            f"`{field}.{first.get('ctx', {}).get('discriminator', '').strip(chr(39))}` is missing",
            "Add it; docs/studies.md has the choices.",
        )
    elif first["type"] == "missing":
        what, mend = f"`{field}` is missing", "Add it; studies/demo.yaml shows a complete study."
    else:
        value = first.get("input")
        shown = "" if isinstance(value, dict) else f" = {value!r}"
        what, mend = f"`{field}`{shown}: {first['msg'].removeprefix('Value error, ')}", "Change that field."
    if n_others:
        mend += f" ({n_others} more problem{'s' if n_others > 1 else ''} in this file.)"
    return what, mend
