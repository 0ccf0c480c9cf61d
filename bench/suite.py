"""What a suite is: contenders at one shape, the ratios that are taken, the bar that each should pass, and the guard."""

from dataclasses import dataclass

from bench.setting import Spec

FP32, BF16 = "float32", "bfloat16"
CHECK, READ_BACK, FOUND = "weighted sum of the statistics", "sum of magnitudes read back", "sum of the strongest"
COSINES = "sum of the first block's cosines"
ERROR, READ_AT_HOOK, GIVEN = "squared error", "magnitude at the hook", "share of rows that were given"
NO_TRAINING = (CHECK, READ_BACK, FOUND, GIVEN, COSINES)


@dataclass(frozen=True)
class Pair:
    """`slower` should take at least `bar` times as long as `faster`. `what`: in words."""

    what: str
    slower: str
    faster: str
    bar: float


@dataclass(frozen=True)
class Limit:
    """What one step of a contender may take at most, where no peer does the same."""

    what: str
    contender: str
    wall_s: float
    peak_gb: float


@dataclass(frozen=True)
class Suite:
    """Contenders at one shape, in one set of interleaved rounds."""

    name: str
    title: str
    specs: tuple[Spec, ...]
    pairs: tuple[Pair, ...]
    alike: tuple[Pair, ...] = ()
    """Who must have equal errors throughout `parity_steps`; `bar`: relative difference."""
    parity_steps: int = 0
    n_steps: int = 0
    """Steps a round; 0: as many as take half a second."""
    guard: str = ERROR
    """What must be equal before anything is timed."""
    limits: tuple[Limit, ...] = ()

    def with_rooflines(self) -> tuple[Spec, ...]:
        """Its contenders, and the machine's own limits at this shape in the same rounds: products in both dtypes, a copy."""
        if self.parity_steps or self.guard in NO_TRAINING:  # so the encoder is no limit of theirs
            return self.specs
        shape = self.specs[0].shape
        limits = (Spec("encode only", shape, BF16), Spec("encode only", shape), Spec("copy", shape))
        labels = {spec.label for spec in self.specs}
        return self.specs + tuple(spec for spec in limits if spec.label not in labels)
