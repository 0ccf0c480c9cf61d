"""What runs again and what does not: digests decide, and a change stops where the bytes are equal again."""

import shutil

import dagster as dg

from sae_pipeline.stages import STAGES
from tests.assembly.fake_graph import FILE

MAIN = [stage for stage, spec in STAGES.items() if not spec.in_survey]
ALL = [(stage, size) for stage in MAIN for size in ((32, 64) if STAGES[stage].per_size else (None,))]
PER_SIZE = [stage for stage, spec in STAGES.items() if spec.per_size and not spec.in_survey]
ANALYSIS = [("analysis_tables", None), ("size_comparison", None), ("report", None)]


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))


def test_first_run_builds_everything_once_in_order_second_builds_nothing(pipeline):
    report = pipeline.run()
    assert not report.failed and sorted(pipeline.fake.built, key=str) == sorted(ALL, key=str)
    assert pipeline.fake.built[:2] == [("corpus", None), ("activations", None)]
    assert pipeline.fake.built[-3:] == ANALYSIS
    assert [run.job_name for run in pipeline.instance.get_runs()][::-1] == ["prepare", "per_size", "per_size", "compare"]
    report = pipeline.run()
    assert pipeline.fake.built == [] == report.executed


def test_flipped_byte_runs_exactly_that_partition(pipeline):
    pipeline.run()
    flip_a_byte(pipeline.store.path("sae", 64) / FILE)
    report = pipeline.run()
    assert pipeline.fake.built == [("sae", 64)] == report.executed


def test_children_run_only_as_far_as_digests_change(pipeline):
    pipeline.fake.coarse = {"feature_stats"}  # its bytes do not depend on the SAE
    pipeline.run()
    # As after a change of the training code: other weights of one size.
    pipeline.fake.coarse |= {"sae"}
    pipeline.run(only="sae", sizes=(64,), force=True)
    pipeline.run()
    # Explanations read the SAE, too: a judge's texts are encoded by it.
    below = {(stage, 64) for stage in ("sae_metrics", "feature_stats", "steering_evals", "explanations")}
    assert set(pipeline.fake.built[: len(below)]) == below
    assert pipeline.fake.built[len(below) :] == [("specificity_scores", 64), *ANALYSIS]


def test_edit_of_steer_factors_runs_steering_and_analysis_only(pipeline):
    pipeline.run()
    pipeline.mapping["steer"]["factors"] = [0, 1, 3]
    pipeline.write()
    pipeline.run()
    assert pipeline.fake.built == [("steering_evals", 32), ("steering_evals", 64), *ANALYSIS]


def test_what_is_incomplete_is_tried_once_a_run_until_it_is_whole(pipeline):
    pipeline.fake.incomplete = {("explanations", 32)}
    report = pipeline.run()
    # Published and read by what lies below it, comparison included.
    assert not report.failed and not report.left_out and sorted(pipeline.fake.built, key=str) == sorted(ALL, key=str)
    now = pipeline.store.freshness("explanations", 32)
    assert (now.state, now.why, now.incomplete) == ("stale", "3 answers are missing", True)
    pipeline.run()
    assert pipeline.fake.built == [("explanations", 32)]  # tried again; the bytes are equal, so nothing below runs
    pipeline.fake.incomplete = set()
    pipeline.run()
    assert pipeline.fake.built == [("explanations", 32)]
    assert pipeline.store.freshness("explanations", 32).state == "fresh"
    pipeline.run()
    assert pipeline.fake.built == []


def test_lost_file_with_equal_bytes_runs_nothing_below(pipeline):
    pipeline.run()
    (pipeline.store.path("activations") / FILE).unlink()
    pipeline.run()
    assert pipeline.fake.built == [("activations", None)]


def test_new_size_runs_that_size_and_the_comparison(pipeline):
    pipeline.run()
    pipeline.mapping["sae"]["sizes"] = [32, 64, 128]
    pipeline.write()
    pipeline.run()
    # 64 is no longer the largest, and addition is evaluated on the largest alone.
    assert set(pipeline.fake.built) == {*((stage, 128) for stage in PER_SIZE), ("steering_evals", 64), *ANALYSIS}


def test_changed_model_files_run_every_stage_that_loads_the_model(pipeline, tmp_path):
    folder = shutil.copytree(pipeline.mapping["model"]["path"], tmp_path / "model")
    pipeline.mapping["model"]["path"] = str(folder)
    pipeline.write()
    pipeline.fake.coarse = set(STAGES)  # the bytes of every stage stay the same
    pipeline.run()
    with (folder / "tokenizer_config.json").open("a", encoding="utf-8") as file:
        file.write("\n")  # as a new chat template would: it changes steering without changing any activation
    pipeline.run()
    assert {stage for stage, _ in pipeline.fake.built} == {
        "corpus", "activations", "random_model", "sae_metrics", "feature_stats", "steering_evals",
    }  # fmt: skip


def test_failing_partition_leaves_the_others(pipeline):
    pipeline.fake.user_error = ("feature_stats", 32)
    report = pipeline.run()
    assert [str(error) for error in report.user_errors] == ["feature_stats: was made to fail. Stop making it fail."]
    assert not report.bugs and report.left_out == ["the comparison of all sizes: 32 failed"]
    built = set(pipeline.fake.built)
    assert {("sae", 32), ("sae_metrics", 32)} | {(stage, 64) for stage in PER_SIZE} <= built
    assert not built & {("explanations", 32), ("steering_evals", 32), *ANALYSIS}
    pipeline.fake.user_error = None
    pipeline.run()
    assert set(pipeline.fake.built) == {*((stage, 32) for stage in PER_SIZE[2:]), *ANALYSIS}


def test_bug_is_reported_as_a_bug_with_its_last_line(pipeline):
    pipeline.fake.bug = ("sae", 64)
    report = pipeline.run()
    assert not report.user_errors
    assert len(report.bugs) == 1 and "ZeroDivisionError: a bug" in report.bugs[0] and "step sae" in report.bugs[0]


def test_failing_preparation_stops_everything(pipeline):
    pipeline.fake.user_error = ("activations", None)
    report = pipeline.run()
    assert pipeline.fake.built == [("corpus", None), ("random_model", None)]
    assert report.left_out == ["everything else: it needs corpus and activations"]


def test_interrupt_stops_and_the_next_run_goes_on(pipeline):
    pipeline.fake.interrupt = ("explanations", 32)
    report = pipeline.run()
    assert report.interrupted
    assert ("sae", 64) not in pipeline.fake.built
    done = set(pipeline.fake.built)
    pipeline.fake.interrupt = None
    assert not pipeline.run().interrupted
    assert set(pipeline.fake.built) == set(ALL) - done


def test_failed_check_publishes_nothing_and_keeps_the_old_artefact(pipeline):
    pipeline.run()
    before = {size: pipeline.store.manifest("steering_evals", size) for size in (32, 64)}
    pipeline.mapping["steer"]["factors"] = [0, 1, 3]
    pipeline.write()
    pipeline.fake.bad_check = ("steering_evals", 64)
    report = pipeline.run()
    assert [error.what for error in report.user_errors] == ["failed its check schema: made to fail"]
    assert pipeline.store.manifest("steering_evals", 64) == before[64]
    assert pipeline.store.manifest("steering_evals", 32) != before[32]
    failed = next(run for run in pipeline.instance.get_runs() if run.status == dg.DagsterRunStatus.FAILURE)
    entries = [record.event_log_entry for record in pipeline.instance.get_records_for_run(failed.run_id).records]
    verdicts = [entry.asset_check_evaluation for entry in entries if entry.asset_check_evaluation]
    assert [(verdict.check_name, verdict.passed, verdict.partition) for verdict in verdicts] == [("schema", False, "64")]
    pipeline.fake.bad_check = None
    pipeline.run()
    assert pipeline.fake.built == [("steering_evals", 64), *ANALYSIS]


def test_size_option_runs_that_size_and_leaves_the_comparison_out(pipeline):
    report = pipeline.run(sizes=(64,))
    assert {size for _, size in pipeline.fake.built} == {None, 64}
    assert report.left_out == ["the comparison of all sizes: 32 not built yet"]


def test_only_without_its_upstream_says_what_to_do(pipeline):
    report = pipeline.run(only="sae_metrics", sizes=(32,))
    assert pipeline.fake.built == []
    assert "corpus: is not there yet. Run `sae-pipeline run`" in str(report.user_errors[0])


def test_force_rebuilds_even_when_fresh(pipeline):
    pipeline.run()
    pipeline.run(only="report", force=True)
    assert pipeline.fake.built == [("report", None)]
    pipeline.run(force=True)
    assert sorted(pipeline.fake.built, key=str) == sorted(ALL, key=str)


def test_study_edited_between_load_and_run_is_refused(pipeline):
    defs = pipeline.defs()
    pipeline.mapping["sae"]["seed"] = 5
    pipeline.write()
    result = defs.resolve_job_def("prepare").execute_in_process(instance=pipeline.instance, raise_on_error=False)
    failure = result.failure_data_for_node("corpus")
    assert failure is not None and failure.user_failure_data is not None
    assert "was edited after this process loaded it" in failure.user_failure_data.description
    assert not (pipeline.root / "tiny" / "corpus").exists()


def test_wiped_data_is_rebuilt_though_dagster_remembers(pipeline):
    pipeline.run()
    shutil.rmtree(pipeline.root)
    pipeline.run()
    assert sorted(pipeline.fake.built, key=str) == sorted(ALL, key=str)


def test_the_survey_runs_when_asked_for_and_the_analysis_takes_it_in_while_it_is_fresh(pipeline):
    pipeline.run()
    assert ("neighbourhoods", None) not in pipeline.fake.built
    pipeline.run(survey=True)
    survey = [stage for stage, spec in STAGES.items() if spec.in_survey]
    per_size = [stage for stage in survey if STAGES[stage].per_size]
    once = [(stage, None) for stage in survey if stage not in per_size]
    wanted = {*((stage, size) for stage in per_size for size in (32, 64)), *once, ANALYSIS[0]}
    assert set(pipeline.fake.built) == wanted and len(pipeline.fake.built) == len(wanted)
    assert pipeline.fake.built[-2:] == [("survey_verdicts", None), ANALYSIS[0]]  # equal bytes of the fake stop there
    assert {"neighbourhoods", "survey_verdicts"} <= set(pipeline.store.inputs("analysis_tables"))
    pipeline.run()
    assert pipeline.fake.built == []
    # Other weights: what the survey says is about SAEs that are gone, and the main run does without it.
    pipeline.run(only="sae", sizes=(64,), force=True)
    pipeline.mapping["sae"]["seed"] = 7
    pipeline.write()
    pipeline.run()
    assert ("neighbourhoods", None) not in pipeline.fake.built and ANALYSIS[0] in pipeline.fake.built
    assert pipeline.store.freshness("neighbourhoods").state == "stale"
    assert "neighbourhoods" not in pipeline.store.inputs("analysis_tables")


def test_a_survey_before_the_first_run_names_what_is_missing(pipeline):
    report = pipeline.run(survey=True)
    assert pipeline.fake.built == [] and ": is not there yet" in str(report.user_errors[0]) and report.left_out
