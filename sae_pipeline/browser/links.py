"""Where the feature browser is, and which of its pages shows what a stage made. Light: Dagster's assets import it."""

from urllib.parse import quote

HOST = "127.0.0.1"
PORT = 3001  # the first port that is tried; `sae-pipeline ui` keeps it free
PAGES = {
    "sae": "features?size={size}",
    "sae_metrics": "compare",
    "feature_stats": "features?size={size}&sort=density&order=down",
    "explanations": "features?size={size}",
    "specificity_scores": "features?size={size}&sort=specificity&order=down",
    "steering_evals": "features?size={size}&steered=tried&sort=difference&order=down",
    "neighbourhoods": "map",
    "survey_verdicts": "survey",
    "analysis_tables": "",
    "size_comparison": "compare",
}


def page_url(study_name: str, stage: str, size: int | None) -> str | None:
    """Address of the page about what `stage` made, None when there is none.

    It names the study: another one may be served there.
    """
    page = PAGES.get(stage)
    return None if page is None else f"http://{HOST}:{PORT}/of/{quote(study_name)}/{page.format(size=size)}"
