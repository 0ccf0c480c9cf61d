"""The stage `main_results`: what the main run's tables already say about the paper's claims, as measurements of the survey."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from sae_pipeline.resampling import bootstrap, mean_interval, unpaired_difference
from sae_pipeline.sae.metrics import ce_recovered
from sae_pipeline.store import Outcome
from sae_pipeline.survey.limitations import limitations
from sae_pipeline.survey.measurement import Measurement, files_digest, too_few, write_measurements

STAGE = "main_results"
CHAT, PROSE = "dialogues", "world_factbook"
PROMPTS = Path(__file__).parent.parent / "steering" / "prompts.yaml"  # of the evals
OTHER_UNITS = {"neurons": "mlp_neuron", "random_directions": "random_direction", "random_model": "random_model"}
Folders = dict[int, Path]
Sums = dict[str, float]
SEED = 0
SUMS = ("n_tokens", "n_active", "error", "variation", "ce_clean", "ce_spliced", "ce_zero", "ce_mean")


def _recovered(ablated: str) -> Callable[[Sums], float]:
    def ratio(total: Sums) -> float:
        found = ce_recovered(total["ce_clean"], total["ce_spliced"], total[ablated])
        return float("nan") if found is None else found

    return ratio


RATIOS: dict[str, Callable[[Sums], float]] = {
    "explained_variance": lambda total: 1 - total["error"] / total["variation"],
    "l0": lambda total: total["n_active"] / total["n_tokens"],
    "ce_recovered_zero": _recovered("ce_zero"),
    "ce_recovered_mean": _recovered("ce_mean"),
}


def build_main_results(folders: dict[str, Folders], takes_images: bool, work: Path) -> Outcome:
    """Write `measurements.parquet` into `work`. `folders`: {stage: {size: folder of the artefact}}."""
    documents = _read(folders["sae_metrics"], "sae_metrics_by_document")
    found = [
        *_metrics(_read(folders["sae_metrics"], "sae_metrics"), documents),
        *_chat(_read(folders["sae_metrics"], "sae_metrics_by_source"), documents),
        *_specificity(_read(folders["specificity_scores"], "specificity_scores")),
        *_explanations(_read(folders["explanations"], "explanation_scores")),
        *_steering(_read(folders["steering_evals"], "steering_features")),
        _images(takes_images),
        limitations(),
    ]
    frame = write_measurements(work, STAGE, found)
    return Outcome({"n_measurements": len(frame)})


def _read(folders: Folders, table: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(folder / f"{table}.parquet") for folder in folders.values()])


def _metrics(metrics: pl.DataFrame, documents: pl.DataFrame) -> Iterator[Measurement]:
    """Intervals by document; of the share of dead features by feature."""
    texts = {
        "explained_variance": "explained variance of held-out tokens", "l0": "active features per held-out token",
        "dead_fraction": "share of features without activation on held-out tokens",
        "ce_recovered_zero": "share of cross-entropy recovered against zero ablation",
        "ce_recovered_mean": "share of cross-entropy recovered against mean ablation",
    }  # fmt: skip
    for row in metrics.sort("size").iter_rows(named=True):
        part = documents.filter(pl.col("size") == row["size"]).sort("doc_id")
        dead_F = np.arange(row["n_features"]) < round(row["dead_fraction"] * row["n_features"])
        for name, metric in texts.items():
            n = row["n_tokens_spliced" if name.startswith("ce_") else "n_tokens_held_out"]
            there = row[name] is not None
            interval = mean_interval(dead_F, SEED) if name == "dead_fraction" else document_interval(part, RATIOS[name])
            low, high = interval if there else (None, None)
            yield Measurement(
                name, metric, row[name], n if there else 0, n, row["size"], low, high, rows="sae_metrics",
                **({} if there else too_few("held-out tokens of which the main run could compute it", 0, 1)),
            )  # fmt: skip


def document_interval(documents: pl.DataFrame, metric: Callable[[Sums], float]) -> tuple[float | None, float | None]:
    """95 % interval of a metric of column totals, documents resampled whole. Means that variances refer to stay as they are."""
    sums_O = {name: documents[name].fill_null(0).to_numpy() for name in SUMS}
    return bootstrap(
        lambda drawn: metric({name: float(values[drawn].sum()) for name, values in sums_O.items()}), len(documents), SEED
    )


def _chat(by_source: pl.DataFrame, documents: pl.DataFrame) -> Iterator[Measurement]:
    """Only where the corpus has both."""
    for (size,), part in by_source.group_by(["size"], maintain_order=True):
        values = dict(part.select("source", "explained_variance").iter_rows())
        n = int(part.filter(pl.col("source").is_in([CHAT, PROSE]))["n_tokens"].sum())
        metric = "explained variance of chat minus that of prose"
        both = CHAT in values and PROSE in values
        low, high = _difference_interval(documents.filter(pl.col("size") == size)) if both else (None, None)
        yield Measurement(
            "chat_minus_prose_explained_variance", metric, values[CHAT] - values[PROSE] if both else None, n if both else 0, n,
            int(str(size)), low, high, rows="sae_metrics_by_source",
            **({} if both else too_few(f"of the corpus's sources {CHAT} and {PROSE}", len({CHAT, PROSE} & values.keys()), 2)),
        )  # fmt: skip


def _difference_interval(documents: pl.DataFrame) -> tuple[float | None, float | None]:
    part = documents.filter(pl.col("source").is_in([CHAT, PROSE])).sort("doc_id")
    error_O, variation_O = part["error"].to_numpy(), part["variation_of_source"].to_numpy()
    chat_O = (part["source"] == CHAT).to_numpy()

    def difference(drawn: np.ndarray) -> float:
        left = [error_O[at].sum() / max(variation_O[at].sum(), 1e-300) for at in (drawn[chat_O[drawn]], drawn[~chat_O[drawn]])]
        return float(left[1] - left[0])

    return bootstrap(difference, len(part), SEED)


def _specificity(scores: pl.DataFrame) -> Iterator[Measurement]:
    """Mean rubric score by unit, equal weight to every activation interval; offline proxy."""
    active = scores.filter((pl.col("kind") == "active") & (pl.col("method") == "proxy"))
    units = (
        active.group_by("size", "control", "unit_id", "interval")
        .agg(pl.col("score").mean())
        .group_by("size", "control", "unit_id")
        .agg(pl.col("score").mean())
    )
    for size in units["size"].unique().sort():
        by_control = {
            control: units.filter((pl.col("size") == size) & (pl.col("control") == control)).sort("unit_id")["score"]
            for control in ("none", *OTHER_UNITS.values())
        }
        for name, control in OTHER_UNITS.items():
            yield _against(
                f"specificity_over_{name}", "mean specificity (0 to 3, offline proxy)", size, by_control["none"],
                by_control[control], control, "specificity_scores",
            )  # fmt: skip


def _explanations(scores: pl.DataFrame) -> Iterator[Measurement]:
    """The rule either holds in a window or not, so its AUROC *is* its balanced accuracy."""
    rules = scores.filter((pl.col("method") == "token-stats") & (pl.col("scorer") == "rule"))
    for size in rules["size"].unique().sort():
        part = rules.filter(pl.col("size") == size)

        def values(metric: str, control: str, part: pl.DataFrame = part) -> pl.Series:
            return part.filter((pl.col("metric") == metric) & (pl.col("control") == control)).sort("unit_id")["value"]

        yield _against(
            "explanation_balanced_accuracy", "median balanced accuracy of the token rule in detection", size,
            values("detection_auroc", "none"), values("detection_auroc", "shuffled"), "shuffled", "explanation_scores",
            np.nanmedian,
        )  # fmt: skip
        for name, control in OTHER_UNITS.items():
            yield _against(
                f"explanation_balanced_accuracy_over_{name}", "median balanced accuracy of the token rule in detection", size,
                values("detection_auroc", "none"), values("detection_auroc", control), control, "explanation_scores",
                np.nanmedian,
            )  # fmt: skip
        for name in ("neurons", "random_directions"):
            control = OTHER_UNITS[name]
            yield _against(
                f"rule_f1_over_{name}", "mean F1 of the token rule", size, values("rule_f1", "none"), values("rule_f1", control),
                control, "explanation_scores",
            )  # fmt: skip


def _steering(features: pl.DataFrame) -> Iterator[Measurement]:
    """Over all sizes: how many of the features drawn by their output score pass, beside those drawn at random."""
    passes = {
        kind: features.filter(pl.col("selected_by") == kind).sort("size", "feature")["passes"].cast(pl.Float64)
        for kind in ("output_score", "random")
    }
    yield _against(
        "steering_passes_selected", "share of clamped features whose concept rate is at least 3 times the control's", None,
        passes["output_score"], passes["random"], "random_feature", "steering_features", files_sha=files_digest(PROMPTS),
    )  # fmt: skip


def _against(
    name: str, metric: str, size: int | None, value: pl.Series, control: pl.Series, control_name: str, rows: str, mean=np.nanmean,
    files_sha: str | None = None,
) -> Measurement:  # fmt: skip
    """A mean over units beside the mean over other units, with intervals by unit. Units without a score are not scored."""
    scored, beside = value.drop_nulls().to_numpy(), control.drop_nulls().to_numpy()
    if not len(scored) or not len(beside):
        few = too_few("units, or controls, with a score", 0, 1)
        why = f"{len(scored)} scored units and {len(beside)} scored controls"
        return Measurement(
            name, metric, None, 0, len(value), size, control=control_name, why=why, rows=rows, files_sha=files_sha, **few
        )  # fmt: skip
    drawn = unpaired_difference(scored, beside, seed=0, mean=mean)
    return Measurement(
        name, metric, drawn.value, len(scored), len(value), size, low=drawn.value_low, high=drawn.value_high,
        control=control_name, control_value=drawn.control, difference=drawn.difference, difference_low=drawn.low,
        difference_high=drawn.high, n_control=len(beside), rows=rows, files_sha=files_sha,
    )  # fmt: skip


def _images(takes_images: bool) -> Measurement:
    inputs = float(takes_images)
    return Measurement(
        "image_inputs", "kinds of image input of the model", inputs, 1, 1, ceiling_metric="kinds of image input of the model",
        ceiling=inputs, ceiling_threshold=1, rows="survey_measurements",
    )  # fmt: skip
