"""The whole survey on the tiny model: every asset through Dagster, a verdict on every row, a page of all of them."""

import shutil

import dagster as dg
import duckdb

from sae_pipeline.definitions import build_defs
from sae_pipeline.runner import Wanted, run_pipeline
from sae_pipeline.stages import STAGES, sizes_of
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import load_study


def test_the_survey_ends_with_a_verdict_on_every_row_and_then_has_nothing_to_do(finished_study, tmp_path):
    """A random model knows nothing: rows that need knowledge are not testable, what must hold exactly does."""
    shutil.copytree(finished_study.folder, tmp_path / "copy")
    file, root = tmp_path / "copy" / "study.yaml", tmp_path / "copy" / "data"
    store = ArtifactStore(load_study(file), root, file)
    defs = build_defs(load_study(file), root=root, study_file=file)
    with dg.DagsterInstance.ephemeral() as instance:
        report = run_pipeline(defs, store, instance, Wanted(survey=True))
        assert not report.failed, "\n".join(
            [*(f"{bug[:300]} ... {bug[-1800:]}" for bug in report.bugs), *map(str, report.user_errors)]
        )
        survey = {(stage, size) for stage, spec in STAGES.items() if spec.in_survey for size in sizes_of(store.study, stage)}
        assert survey <= set(report.executed)
        assert run_pipeline(defs, store, instance, Wanted(survey=True)).executed == []
    with duckdb.connect(str(store.root / "analysis.duckdb"), read_only=True) as connection:
        verdicts = dict(connection.execute('select "row", verdict from survey_verdicts').fetchall())
        (n_measured,) = connection.execute("select count(*) from survey_measurements").fetchone() or (0,)
    assert sorted(verdicts) == list(range(1, 73)) and n_measured > 88
    exact = (1, 2, 7, 17, 28)  # gradients, schedule, decomposition, sampling, clamps
    assert {verdicts[row] for row in exact} == {"reproduced"}
    assert {verdicts[row] for row in (55, 67, 72)} == {"not testable"}  # facts, images, outcomes
    page = (store.path("report") / "survey.html").read_text(encoding="utf-8")
    assert all(f'id="row-{row}"' in page for row in verdicts)
