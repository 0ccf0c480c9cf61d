"""What visitors may ask for, with bounds. Everything that comes in by URL or form passes through one of these."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

MAX_FACTOR = 20.0
MAX_TEXT = 4000
MAX_STEERED = 5
PER_PAGE = 50


class Refused(Exception):
    """A request outside the bounds; the message goes to the visitor (escaped)."""


def _none_if_empty(value: Any) -> Any:
    return None if value == "" else value


EMPTY = BeforeValidator(_none_if_empty)  # an empty form input leaves the field out
Whole = Annotated[int, Field(ge=0, lt=2**31)]  # a size or a feature: what the database's columns can hold
Flag = Annotated[str | None, Field(max_length=80), EMPTY]
Share = Annotated[float | None, Field(ge=0, le=1), EMPTY]
Score = Annotated[float | None, Field(ge=0, le=3), EMPTY]


class Parameters(BaseModel):
    """Unknown parameters are ignored: links made by others may carry some."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class FeatureFilter(Parameters):
    """Search, filters, order and page of the table of features."""

    q: str = Field(default="", max_length=200)
    by: Literal["words", "meaning"] = "words"
    size: Annotated[Whole | None, EMPTY] = None
    kind: Annotated[Literal["token", "phrase", "topic", "syntax", "position", "other"] | None, EMPTY] = None
    life: Annotated[Literal["alive", "dead"] | None, EMPTY] = None
    steered: Annotated[Literal["tried", "passes"] | None, EMPTY] = None
    source: Flag = None
    language: Flag = None
    min_density: Share = None
    max_density: Share = None
    min_specificity: Score = None
    sort: Literal["feature", "density", "max_activation", "specificity", "difference", "top_token_share"] = "feature"
    order: Literal["up", "down"] = "up"
    page: int = Field(default=1, ge=1, le=100_000)


class Steering(Parameters):
    """One run of the playground. `features`: {feature: factor in multiples of its training maximum}."""

    size: Whole
    features: dict[Whole, Annotated[float, Field(ge=-MAX_FACTOR, le=MAX_FACTOR)]] = Field(min_length=1, max_length=MAX_STEERED)
    prompt: str = Field(min_length=1, max_length=MAX_TEXT)
    mode: Literal["clamp", "add"] = "clamp"
    positions: Literal["not_massive", "all", "response"] = "not_massive"
    form: Literal["chat", "completion"] = "chat"
    max_new_tokens: int = Field(default=48, ge=1, le=200)
    temperature: float = Field(default=0.7, ge=0, le=2)
    seed: int = Field(default=0, ge=0, le=2**31)

    @field_validator("features", mode="before")
    @classmethod
    def _from_pairs(cls, value: Any) -> Any:
        """URLs and forms carry `feature:factor` pairs."""
        if not isinstance(value, list):
            return value
        pairs = [str(pair).partition(":") for pair in value if str(pair).partition(":")[0].strip()]
        return {feature.strip(): (factor.strip() or "1") for feature, _, factor in pairs}


class Text(Parameters):
    """Text to be read by the model."""

    size: Whole
    text: str = Field(min_length=1, max_length=MAX_TEXT)


class Attributing(Parameters):
    """A prompt and two next tokens. `cell`: the position and feature to switch off, written `position:feature`."""

    size: Whole
    prompt: str = Field(min_length=1, max_length=MAX_TEXT)
    target: str = Field(min_length=1, max_length=80)
    baseline: str = Field(min_length=1, max_length=80)
    cell: Annotated[tuple[Whole, Whole] | None, EMPTY] = None

    @field_validator("cell", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return tuple(value.split(":")) if isinstance(value, str) and value else value


def parse(kind: type, values: dict[str, Any]) -> Any:
    """Validate, or raise `Refused` with the first problem in one sentence."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        raise Refused(f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}.") from error
