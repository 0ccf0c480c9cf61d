"""`sae-pipeline export-site`: feature pages as a static folder."""

from pathlib import Path

from sae_pipeline.study import load_study


def export_site_command(study_file: Path, out: Path, features: str | None) -> int:
    """Write the site and say where it is; returns the exit code. Raises `UserError`."""
    from sae_pipeline.browser.export import export_site, parse_features

    n_pages = export_site(load_study(study_file), "data", out, parse_features(features) if features is not None else None)
    print(f"{n_pages} feature pages: {(out / 'index.html').resolve().as_uri()}")
    return 0
