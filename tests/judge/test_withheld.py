"""A judge that failed its calibration: its rows stay in the database, its numbers in no table of the report, and it says why."""

import polars as pl
import pytest

from sae_pipeline.plots.comparison import TABLE, build_size_comparison
from sae_pipeline.report.build import REPORT, build_report
from tests.synthetic_analysis import SIZES, synthetic_tables, write_synthetic_analysis

METHOD = "rubric-v1-of-llm-v1"


@pytest.mark.parametrize("passed", [False, True])
def test_numbers_of_a_failed_judge_are_withheld_and_the_report_says_why(tmp_path, passed):
    tables = synthetic_tables()
    scores = tables["specificity_scores"]
    judged = scores.with_columns(method=pl.lit(METHOD), model=pl.lit("some-judge"))
    verdict = {
        "model": "some-judge", "prompt": "rubric-v1", "label_kappa": 0.31, "n_labels": 24, "n_labels_answered": 24,
        "repeat_kappa": None, "n_repeated": 0, "matched_minus_shuffled_low": 0.1, "answered_share": 1.0, "passed": passed,
        "reasons": "" if passed else "agreement with <b>labels</b>: kappa 0.31", "plumbing": False, "n_proxy_pairs": 40,
        "proxy_kappa": 0.52, "proxy_rank_correlation": 0.61,
    }  # fmt: skip
    tables["specificity_scores"] = pl.concat([scores, judged])
    tables["judge_calibration"] = pl.DataFrame([{"size": size, **verdict} for size in SIZES])
    database = write_synthetic_analysis(tmp_path / "analysis.duckdb", tables)
    compared, reported = tmp_path / "comparison", tmp_path / "report"
    compared.mkdir()
    reported.mkdir()
    build_size_comparison(database, compared)
    methods = set(pl.read_parquet(compared / TABLE)["method"])
    assert "proxy" in methods and (METHOD in methods) == passed
    build_report(database, compared, reported)
    page = (reported / REPORT).read_text(encoding="utf-8")
    assert ("failed its calibration" in page) == (not passed) and "<b>labels</b>" not in page
    assert ("passed its calibration" in page) == passed and "0.31" in page
    # Where both scored, the proxy's agreement with the judge is shown, whatever the verdict.
    assert "on\n40 windows: kappa 0.52" in page and "rank correlation 0.61" in page
    # The offline explainer stands against its shuffled control, with an interval.
    assert "Explainers against their shuffled explanations" in page
