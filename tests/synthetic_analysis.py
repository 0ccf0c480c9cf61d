"""A small made-up analysis database with every table of the schemas, hostile text included: what pages and reports are tested on.

Numbers are drawn from a seeded generator; the shapes are those of a real study with two sizes.
"""
# ruff: noqa: E501  (rows of made-up tables read better side by side)

from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from sae_pipeline.interpret.score_summaries import summarize
from sae_pipeline.tables.schemas import TABLES, conform, empty
from sae_pipeline.tables.views import create_views

SIZES = (32, 64)
N_STEERED = 4
SCRIPT = "<script>alert('x')</script>"
HOSTILE = [
    " <b>",
    SCRIPT,
    "\u202eright-to-left\u202c",
    "zero\u200bwidth",
    "\\xe2",
    "w" * 400,
    "\n",
    "\x00\x07",
    "&amp;",
    '" onload="x',
]
WORDS = [
    " the",
    " island",
    " of",
    " a",
    " ship",
    " in",
    " harbour",
    " bread",
    " judge",
    " Paris",
    "日本",
    "naïve",
    " def",
    " law",
]
CONTROLS = ("none", "shuffled", "random_direction", "mlp_neuron")


def synthetic_tables(seed: int = 0) -> dict[str, pl.DataFrame]:
    """Every in-database table as a checked frame."""
    rng = np.random.default_rng(seed)
    tables = {name: empty(name) for name, table in TABLES.items() if table.in_database}
    tables["documents"] = _documents()
    tables["corpus_sources"] = pl.DataFrame({
        "source": ["stories", "notes", "stories", "notes"], "language": ["English"] * 4, "split": ["train"] * 2 + ["held_out"] * 2,
        "n_documents": [6, 3, 2, 1], "n_tokens": [4000, 2000, 900, 400], "n_dropped_empty": [1, 0, 0, 0],
        "n_dropped_undecodable": [0] * 4, "n_dropped_duplicate": [2, 0, 0, 0], "held_out_13gram_share": [None, None, 0.12, 0.05],
    })  # fmt: skip
    tables["masked_fraction"] = pl.DataFrame({
        "split": ["train", "train", "held_out", "held_out"], "reason": ["keep", "massive"] * 2, "n_tokens": [5900, 100, 1280, 20],
        "fraction": [0.9833, 0.0167, 0.985, 0.015],
    })  # fmt: skip
    tables["sae_metrics"] = pl.DataFrame([_metrics(size, 0.70 + 0.1 * i) for i, size in enumerate(SIZES)])
    tables["sae_metrics_by_source"] = pl.DataFrame([
        {"size": size, "source": source, "n_tokens": 600, "l0": 8.0, "explained_variance": 0.7}
        for size in SIZES for source in ("stories", "notes")
    ])  # fmt: skip
    steps = np.arange(60)
    history = pl.concat(  # its schema is that of one size's file
        conform("training_history", pl.DataFrame({
            "size": size, "step": steps, "n_tokens": steps * 128, "loss": np.exp(-steps / 20), "mse": np.exp(-steps / 20),
            "l0": 8 + rng.normal(size=60), "explained_variance_batch": 0.8 - 0.6 * np.exp(-steps / 9), "dead_fraction": 0.0,
            "learning_rate": 1e-3, "l1": None, "grad_norm": 1.0,
        }))
        for size in SIZES
    )  # fmt: skip
    tables["features"] = pl.DataFrame([_feature(size, i, rng) for size in SIZES for i in range(size)])
    tables["feature_intervals"] = pl.DataFrame([
        {"size": size, "feature": i, "split": split, "interval": interval, "n": int(rng.integers(1, 60))}
        for size in SIZES for i in range(size) if i != 5 for split in ("train", "held_out") for interval in range(1, 11)
    ])  # fmt: skip
    tables["feature_correlations"] = pl.DataFrame([
        {"size": size, "feature": i, "unit": unit, "unit_id": i % 4, "r": 0.4, "r_held_out": None if i == 6 else 0.3}
        for size in SIZES for i in range(size) if i != 5 for unit in ("mlp_neuron", "residual_dimension")
    ])  # fmt: skip
    tables["feature_examples"] = pl.DataFrame([
        row for size in SIZES for i in range(size) if i != 5 for row in _examples(size, i, rng)
    ])  # fmt: skip
    tables["feature_logits"] = pl.DataFrame([
        {"size": size, "feature": i, "sign": sign, "rank": rank, "token_id": rank, "token": (WORDS + HOSTILE)[(i + rank) % 20],
         "effect": (1.5 - rank / 10) * (1 if sign == "+" else -1)}
        for size in SIZES for i in range(size) for sign in "+-" for rank in range(1, 6)
    ])  # fmt: skip
    tables["explanations"] = pl.DataFrame([_explanation(size, i) for size in SIZES for i in range(size)])
    tables["explanation_scores"] = pl.DataFrame([
        {"size": size, "unit": "sae_feature", "unit_id": i, "feature": i, "method": "token-stats", "metric": metric,
         "control": control, "value": None if i == 7 else float(0.5 + 0.4 * (control == "none") * rng.random()),
         "n": 0 if i == 7 else 40, "status": "too_few_examples" if i == 7 else "ok", "scorer": "rule", "plumbing": False}
        for size in SIZES for i in range(12) for metric in ("rule_f1", "detection_auroc") for control in ("none", "shuffled")
    ])  # fmt: skip
    tables["explanation_score_summaries"] = summarize(conform("explanation_scores", tables["explanation_scores"]), seed=0)
    tables["specificity_scores"] = pl.DataFrame(
        [row for size in SIZES for row in _specificity(size, rng)], infer_schema_length=None
    )
    tables |= _steering(rng)
    tables["feature_map"] = pl.DataFrame([
        {"size": size, "feature": i, "x": float(rng.normal()), "y": float(rng.normal())} for size in SIZES for i in range(size)
    ])  # fmt: skip
    # Of two features only: for all others pages compute neighbours from the weights.
    tables["feature_neighbours"] = pl.DataFrame([
        {"size": size, "feature": i, "neighbour_size": other, "rank": rank, "neighbour": 10 * rank, "cosine": 0.9 - rank / 8 - other / 1000}
        for size, i in ((32, 2), (64, 3)) for other in SIZES for rank in (1, 2, 3)
    ])  # fmt: skip
    tables["feature_links"] = pl.DataFrame([
        {"parent_size": 32, "parent": i % 2, "child_size": 64, "child": i, "cosine": 0.8, "parent_given_child": 0.9,
         "child_given_parent": 0.2, "n_child": 20}
        for i in range(3)
    ])  # fmt: skip
    tables["lineage"] = pl.DataFrame({
        "stage": ["corpus"], "size": [None], "code_version": ["1"], "data_version": ["d" * 64], "study_digest": ["s" * 64],
        "started": [datetime(2026, 1, 2, 3, 4, 5)], "seconds": [12.0],
    })  # fmt: skip
    return {name: conform(name, frame) for name, frame in tables.items()} | {"training_history": history}


def write_synthetic_analysis(path: Path, tables: dict[str, pl.DataFrame] | None = None, views: bool = True) -> Path:
    """Write the tables and views into a DuckDB file and return its path."""
    with duckdb.connect(str(path)) as connection:
        for name, frame in (tables or synthetic_tables()).items():
            connection.register("incoming", frame.to_arrow())
            connection.execute(f"create table {name} as select * from incoming").fetchall()
            connection.unregister("incoming")
        if views:
            create_views(connection)
    return path


def _documents() -> pl.DataFrame:
    texts = [f"Document {i}. The island of the ship." for i in range(11)] + ["".join(HOSTILE)]
    return pl.DataFrame([
        {"doc_id": i, "source": ("stories", "notes")[i % 3 == 0], "language": "English", "title": f"title {i} {SCRIPT if i == 11 else ''}",
         "split": "held_out" if i % 4 == 3 else "train", "n_chars": len(text), "n_tokens": len(text.split()), "text": text}
        for i, text in enumerate(texts)
    ])  # fmt: skip


def _metrics(size: int, explained: float) -> dict:
    return {
        "size": size, "n_features": size, "architecture": "batch_topk", "l0": 8.0, "explained_variance": explained,
        "explained_variance_unmasked": 0.98, "explained_variance_standardized": explained - 0.02, "mse": 0.2,
        "ce_recovered_zero": 0.97, "ce_recovered_mean": 0.95, "delta_ce": 0.1, "kl": 0.09, "ce_clean": 2.6, "ce_spliced": 2.7,
        "ce_zero": 13.0, "ce_mean": 11.0, "alive_fraction": 0.97, "dead_fraction": 0.03, "masked_fraction": 0.015,
        "n_tokens_trained": 12_000, "n_tokens_held_out": 1280, "n_tokens_spliced": 512, "seconds": 3.0,
    }  # fmt: skip


def _feature(size: int, i: int, rng: np.random.Generator) -> dict:
    """Feature 5 is dead."""
    fires = i != 5
    return {
        "size": size, "feature": i, "alive": fires, "density": float(10 ** rng.normal(-2.5, 0.3)) * fires, "density_held_out": 0.01 * fires,
        "n_active_train": 60 * fires, "n_active_held_out": 12 * fires, "max_activation": 10.0 * fires, "mean_activation": 3.0 * fires,
        "n_documents_train": 5 * fires, "top_token": (WORDS + HOSTILE)[i % 20] if fires else None, "top_token_share": 0.4 if fires else None,
    }  # fmt: skip


def _examples(size: int, i: int, rng: np.random.Generator) -> list[dict]:
    rows = []
    places = [("top", "train", 10, rank) for rank in range(1, 5)]
    places += [("interval", split, interval, 1) for split in ("train", "held_out") for interval in (1, 4, 8)]
    for kind, split, interval, rank in places:
        tokens = [str(word) for word in rng.choice(WORDS, 9)]
        if rank == 1:
            tokens[2] = HOSTILE[(i + interval) % len(HOSTILE)]
        activations = [0.0] * 4 + [float(interval)] + [0.0, float(interval) / 2, 0.0, 0.0]
        rows.append({
            "size": size, "feature": i, "kind": kind, "split": split, "interval": interval, "rank": rank,
            "doc_id": int(rng.integers(0, 12)), "token_index": int(rng.integers(0, 5000)), "position": 7, "center": 4,
            "token_ids": list(range(9)), "tokens": tokens, "activations": activations, "activation": float(interval),
        })  # fmt: skip
    return rows


def _explanation(size: int, i: int) -> dict:
    """Feature 5 has no explanation; feature 3's text is hostile."""
    dead = i == 5
    text = SCRIPT + " in stories" if i == 3 else f"Fires on {WORDS[i % 14]!r}, mostly in stories; promotes 'island'."
    return {
        "size": size, "unit": "sae_feature", "unit_id": i, "feature": i, "control": "none", "method": "token-stats", "model": None,
        "text": None if dead else text, "kind": None if dead else ("token", "phrase", "topic")[i % 3], "rule": None if dead else "{}",
        "status": "too_few_examples" if dead else "ok", "prompt_sha": None, "n_examples": 0 if dead else 20, "cost_usd": 0.0,
        "confidence": None, "plumbing": False,
    }  # fmt: skip


def _specificity(size: int, rng: np.random.Generator) -> list[dict]:
    rows = []
    for at_control, control in enumerate(CONTROLS):
        unit = control if control in ("random_direction", "mlp_neuron") else "sae_feature"
        for i in range(8):
            for at in range(12):
                example = 96 * max(at_control, 1) + 12 * i + at  # the shuffled explanation is scored on the same windows
                kind = "active" if at < 10 else ("same_token_inactive", "random")[at - 10]
                refused = i == 6 and at == 0
                score = int(np.clip(round(rng.normal(2.4 if control == "none" else 0.8, 0.8)), 0, 3))
                rows.append({
                    "size": size, "unit": unit, "unit_id": i, "feature": i if unit == "sae_feature" else None, "example_id": example,
                    "kind": kind, "interval": at + 1 if kind == "active" else None, "activation": at + 1.0 if kind == "active" else None,
                    "token_index": example, "control": control, "method": "proxy", "model": None, "score": None if refused else score,
                    "status": "too_few_examples" if refused else "ok", "evidence": "token <b>named</b>", "cost_usd": 0.0, "plumbing": False,
                })  # fmt: skip
    return rows


def _steering(rng: np.random.Generator) -> dict[str, pl.DataFrame]:
    generations, scores, features = [], [], []
    arms = (("none", "clamp", (0.0, 1.0, 2.0)), ("random_feature", "clamp", (0.0, 1.0, 2.0)), ("baseline", "none", (None,)))
    for size in SIZES:
        for target in range(N_STEERED):
            for control, mode, factors in arms:
                for factor in factors:
                    strength = 0.05 + 0.3 * (factor or 0) * (control == "none") + 0.01 * target
                    for prompt in range(4):
                        generations.append({
                            "size": size, "feature": target if control == "none" else None, "unit_id": target if control == "none" else None,
                            "target_feature": target, "control": control, "mode": mode, "factor": factor,
                            "half": ("choose", "report")[prompt % 2], "prompt_id": prompt, "sample": 0, "prompt": f"Tell me about {prompt}.",
                            "completion": f"{control} at {factor} {SCRIPT if target == 1 else ''} the island", "n_tokens": 6,
                            "concept_hit": bool(rng.random() < strength), "cross_entropy": 2.5, "repetition": 0.0, "fluent": True,
                        })  # fmt: skip
                    for half in ("choose", "report"):
                        for metric, value in (("concept_rate", strength), ("fluency", 0.9 - 0.2 * (factor or 0))):
                            scores.append({
                                "size": size, "target_feature": target, "control": control, "mode": mode, "factor": factor, "half": half,
                                "metric": metric, "value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1), "n": 40,
                            })  # fmt: skip
            passes = target in (1, 2)
            features.append({
                "size": size, "feature": target, "selected_by": ("random", "output_score")[target % 2], "output_score": 0.5,
                "concept_terms": ["island", SCRIPT], "density": 0.003, "best_factor": 1.0 if target else None,
                "sweet_low": 0.5, "sweet_high": 2.0, "concept_rate": 0.6 if passes else 0.1, "control_rate": 0.05,
                "ratio": 12.0 if passes else 2.0, "difference": 0.55 if passes else 0.05, "low": 0.4 if passes else -0.1,
                "high": 0.7 if passes else 0.2, "n": 40, "passes": passes,
            })  # fmt: skip
    return {
        "steering_generations": pl.DataFrame(generations, infer_schema_length=None),
        "steering_scores": pl.DataFrame(scores, infer_schema_length=None),
        "steering_features": pl.DataFrame(features, infer_schema_length=None),
    }
