"""Who judges explanations besides the offline methods. A section of `sae_pipeline.study`."""

from typing import Literal

from pydantic import Field, model_validator

from sae_pipeline.study_inputs import Section


class ModelPrice(Section):
    """USD per million tokens of a model that the price table lacks, or has wrong."""

    input: float = Field(ge=0, description="tokens sent")
    output: float = Field(ge=0, description="tokens received")
    cache_write: float | None = Field(default=None, ge=0, description="default: twice the input price")
    cache_read: float | None = Field(default=None, ge=0, description="default: the input price")
    batch_factor: float | None = Field(default=None, gt=0, le=1, description="price of a batched request; default 1")


class Judge(Section):
    """The language-model judge. `none`: offline methods only, no socket is opened. The key never stands in a study.

    `anthropic` answers while you wait, `anthropic-batch` within a day at half the price, `local` is any server that speaks the
    Messages API. The key comes from ANTHROPIC_API_KEY or `key_file`; without one, what is not yet answered is `not_run`.
    """

    backend: Literal["none", "anthropic", "anthropic-batch", "local"] = Field(default="none", description="who is asked")
    model: str | None = Field(default=None, description="its name as the server knows it")
    base_url: str | None = Field(
        default=None, pattern=r"^https?://", description="address of a local server or a gateway, without /v1"
    )
    key_file: str | None = Field(default=None, description="a file that holds the key and nobody else can read")
    budget_usd: float | None = Field(default=None, gt=0, description="hard cap over the life of this study")
    budget_usd_per_run: float | None = Field(default=None, gt=0, description="hard cap for one run")
    max_concurrency: int = Field(default=8, ge=1, le=64, description="requests in flight")
    effort: Literal["low", "medium", "high"] = Field(default="low", description="of the Messages API; not sent to a local server")
    thinking: bool = Field(default=False, description="leave the model's thinking on; some models do not allow to switch it off")
    plumbing: bool | None = Field(
        default=None,
        description="a model too small to judge: its rows are marked and enter no headline. Default: local models that say they "
        "have fewer than 7 billion parameters, or do not say how many",
    )
    votes: int = Field(default=1, ge=1, le=9, description="how often a window is rated; the median counts")
    batch_wait_minutes: float = Field(default=20, ge=0, description="how long a run waits for a batch before it leaves it alone")
    prices: dict[str, ModelPrice] = Field(default={}, description="by model; overrides the dated table in judge/prices.yaml")

    @model_validator(mode="after")
    def _fields_of_the_backend(self) -> "Judge":
        hosted = self.backend in ("anthropic", "anthropic-batch")
        others = [name for name in type(self).model_fields if name != "backend"]
        if self.backend == "none" and any(getattr(self, name) != type(self).model_fields[name].default for name in others):
            raise ValueError("with backend none nothing else of this section has an effect; name a backend or remove the rest")
        if self.backend != "none" and not self.model:
            raise ValueError("`model` is missing")
        if hosted and self.budget_usd is None:
            raise ValueError("`budget_usd` is missing: paid calls need a cap")
        if self.backend == "local" and not self.base_url:
            raise ValueError("`base_url` is missing: where the local server listens, for example http://127.0.0.1:8080")
        if self.backend == "local" and (self.budget_usd or self.budget_usd_per_run or self.prices or self.key_file):
            raise ValueError("a local server costs nothing and needs no key: remove budgets, prices and key_file")
        if self.base_url and self.base_url.rstrip("/").endswith("/v1"):
            raise ValueError("`base_url` ends in /v1; leave that out, the client adds it")
        return self
