"""`sae-pipeline suggest`: size, steps and learning rate for a budget, from the study's scaling laws."""

from dataclasses import dataclass
from math import inf
from pathlib import Path

import polars as pl

from sae_pipeline.cli.run import plain_console
from sae_pipeline.errors import UserError
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import load_study
from sae_pipeline.survey.scaling.fits import PowerLaw

FAR = 10.0  # beyond this factor outside the budgets that were tried, a law is a guess
FEW = 4  # budgets: through fewer points a law says little about itself
NAMES = {
    "loss": "the loss",
    "optimal_features": "features",
    "optimal_steps": "steps",
    "optimal_learning_rate": "the learning rate",
}


@dataclass(frozen=True)
class Suggestion:
    """What the laws give. `warnings` say why it may not hold."""

    flops: float
    n_features: int
    n_steps: int
    learning_rate: float | None
    loss: float
    warnings: tuple[str, ...]


def suggest(laws: pl.DataFrame, flops: float | None = None, n_tokens: float | None = None) -> Suggestion:
    """From the table `scaling_laws`, for a compute budget or for that many training tokens.

    Raises `UserError` for no budget or two, and where the sweep did not enclose an optimum.
    """
    given = [each for each in (flops, n_tokens) if each is not None]
    if len(given) != 1 or not 0 < given[0] < inf:
        raise UserError("--budget, --tokens", "exactly one positive number is needed", "Give --budget FLOPs or --tokens N.")
    rows = {row["quantity"]: row for row in laws.iter_rows(named=True)}
    missing = [name for name in ("loss", "optimal_features", "optimal_steps") if rows[name]["exponent"] is None]
    if missing:
        raise UserError(
            "scaling_laws", f"has no law for {', '.join(missing)}: no optimum lay inside the sizes that were tried",
            "Widen survey.scaling_laws.sizes or .steps and run the survey again.",
        )  # fmt: skip
    law = {
        name: PowerLaw(row["coefficient"], row["exponent"], row["r_squared"])
        for name, row in rows.items()
        if row["exponent"] is not None
    }
    batch = rows["optimal_steps"]["batch"]
    compute = given[0]
    if n_tokens is not None:
        steps = law["optimal_steps"]
        if steps.exponent <= 0:
            raise UserError("--tokens", "optimal steps do not grow with compute in this study", "Give --budget FLOPs instead.")
        compute = float((n_tokens / batch / steps.coefficient) ** (1 / steps.exponent))
    rate = law.get("optimal_learning_rate")
    return Suggestion(
        compute, max(1, round(law["optimal_features"].at(compute))), max(1, round(law["optimal_steps"].at(compute))),
        rate.at(compute) if rate else None, law["loss"].at(compute), tuple(_warnings(rows, compute)),
    )  # fmt: skip


def _warnings(rows: dict[str, dict], flops: float) -> list[str]:
    found = []
    for name, row in rows.items():
        if row["exponent"] is None:
            continue
        low, high, exponent_low, exponent_high = (
            row[key] for key in ("flops_low", "flops_high", "exponent_low", "exponent_high")
        )
        what, off = NAMES[name], max(flops / high, low / flops)
        if off > FAR:
            side = "above the largest" if flops > high else "below the smallest"
            found.append(
                f"{what}: this budget lies a factor of {off:,.0f} {side} at which it was measured "
                f"({low:.1e} to {high:.1e} FLOPs); so far outside, the number is a guess"
            )
        if row["n_budgets"] < FEW:
            found.append(f"{what}: its law goes through {row['n_budgets']} budgets only")
        if exponent_low is not None and exponent_low < 0 < exponent_high:
            found.append(f"{what}: the sign of the exponent is not certain ({exponent_low:.2f} to {exponent_high:.2f})")
    return found


def suggest_command(study_file: Path, flops: float | None, n_tokens: float | None) -> None:
    """Print the suggestion and what speaks against it."""
    import sys

    store = ArtifactStore(load_study(study_file), study_file=study_file)
    file = store.path("scaling_laws") / "scaling_laws.parquet"
    if not file.is_file():
        raise UserError(str(file), "is not there", "Run `sae-pipeline run --job survey`.")
    laws = pl.read_parquet(file)
    found, batch = suggest(laws, flops, n_tokens), int(laws["batch"][0])
    console = plain_console(sys.stdout)
    rate = "not known (no law)" if found.learning_rate is None else f"{found.learning_rate:.1e}"
    console.print(f"budget          {found.flops:.2e} FLOPs (12 x width x features x tokens)")
    console.print(f"features        {found.n_features:,}")
    console.print(f"steps           {found.n_steps:,} of {batch:,} tokens = {found.n_steps * batch:,} tokens, seen once")
    console.print(f"learning rate   {rate}")
    console.print(f"expected loss   {found.loss:.4g} (squared error per token, scaled space)")
    for warning in found.warnings:
        console.print(f"[yellow]beware[/] {warning}")
