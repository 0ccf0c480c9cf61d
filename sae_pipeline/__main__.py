"""`sae-pipeline`: run, status, plan, ui, browse, steer. Each command says what it does, what it writes, what to try next."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sae_pipeline.cli.formats import register
from sae_pipeline.errors import UserError

app = typer.Typer(
    help="Scaling Monosemanticity on any open language model: from raw text to steering evals.\n\n"
    "Start with `sae-pipeline plan` (what would happen, how long, how much disk), then `sae-pipeline run`.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode="markdown",
)  # fmt: skip

StudyOption = Annotated[
    Path,
    typer.Option("--study", envvar="SAE_PIPELINE_STUDY", help="The study file: it says everything that can change a result."),
]
CountTokensOption = Annotated[
    bool,
    typer.Option(
        "--count-tokens",
        help="For the plan, let the judge's server count some questions: free, but their texts go there before it is printed.",
    ),
]
DEFAULT_STUDY = Path("studies/demo.yaml")
INTERRUPTED = 130


@app.command()
def run(
    study: StudyOption = DEFAULT_STUDY,
    size: Annotated[list[int] | None, typer.Option(help="Only this SAE size; repeat for several. Default: all.")] = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="Only this stage, for example `steering_evals`.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Recompute even when digests say it is fresh.")] = False,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="I,J,...",
            help="Explain, score or steer just these features; together with --only explanations, specificity_scores or "
            "steering_evals. The next plain run goes back to the study's own features.",
        ),
    ] = None,
    one_pass: Annotated[
        bool,
        typer.Option("--one-pass", help="Train all sizes from one pass over the activations: sooner in all, the first later."),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    max_minutes: Annotated[float | None, typer.Option(help="Refuse to start when more time than this is expected.")] = None,
    job: Annotated[
        str | None,
        typer.Option(
            metavar="survey",
            help="`survey`: after the main run, the paper's second half: neighbours and map, scaling laws, search, case studies, "
            "ways of steering, and a verdict on each of its results (docs/survey.md).",
        ),
    ] = None,
    count_tokens: CountTokensOption = False,
) -> None:
    """Materialize what is not fresh, print the results.

    First a pre-flight checks model, hook, texts, disk and memory, and prints the plan. Then every stage runs whose inputs,
    settings or code changed since it was built, or whose files did; a second run therefore has nothing to do. Runs appear in
    `sae-pipeline ui`. Ctrl-C is safe: finished parts are kept, and the next run goes on from there.
    """
    from sae_pipeline.cli.run import RunOptions, run_command

    options = RunOptions(
        study_file=study, sizes=tuple(size or ()), only=only, force=force, features=features, device=device,
        max_minutes=max_minutes, job=job, one_pass=one_pass, count_tokens=count_tokens,
    )  # fmt: skip
    raise typer.Exit(run_command(options))


@app.command()
def plan(
    study: StudyOption = DEFAULT_STUDY,
    count_tokens: CountTokensOption = False,
) -> None:
    """Check everything and print what `run` would do: tokens, sizes, expected time, disk and dollars. Writes nothing."""
    from sae_pipeline.cli.run import plan_command

    plan_command(study, count_tokens)


@app.command()
def status(study: StudyOption = DEFAULT_STUDY) -> None:
    """What is fresh, stale (and why), missing or damaged. Writes nothing; takes as long as reading the artefacts once."""
    from sae_pipeline.cli.status import status_command

    status_command(study)


@app.command()
def suggest(
    budget: Annotated[float | None, typer.Option(metavar="FLOPS", help="Compute budget, for example 1e13.")] = None,
    tokens: Annotated[
        float | None, typer.Option(metavar="N", help="Or: training tokens, each seen once, for example 4e6.")
    ] = None,
    study: StudyOption = DEFAULT_STUDY,
) -> None:
    """Size, steps and learning rate for a budget, from the study's own scaling laws (`run --job survey` fits them).

    Warns where the budget lies far outside those that were tried.
    """
    from sae_pipeline.cli.suggest import suggest_command

    suggest_command(study, budget, tokens)


@app.command()
def ui(
    study: StudyOption = DEFAULT_STUDY,
    port: Annotated[int, typer.Option(help="First port to try; the next free one is taken and printed.")] = 3000,
) -> None:
    """Open Dagster (graph, runs, metrics against size, checks, schedule) and the feature browser, on this machine only."""
    from sae_pipeline.cli.ui import ui_command

    raise typer.Exit(ui_command(study, port))


@app.command()
def browse(
    study: StudyOption = DEFAULT_STUDY,
    port: Annotated[int, typer.Option(help="First port to try; the next free one is taken and printed.")] = 3001,
    host: Annotated[
        str, typer.Option(help="Address to serve on. Away from this machine every visitor needs the printed token.")
    ] = "127.0.0.1",
    device: Annotated[str, typer.Option(help="Where the model of the playground runs: cpu, cuda:N or mps.")] = "cpu",
) -> None:
    """Open the feature browser: search features, read their examples, test a text, steer the model.

    It reads the study's `analysis.duckdb` (and shows a new version as soon as there is one); the model is loaded when a page
    first needs it. Nothing is fetched from anywhere.
    """
    from sae_pipeline.cli.browse import browse_command

    raise typer.Exit(browse_command(study, host, port, device))


@app.command()
def steer(
    feature: Annotated[list[int], typer.Option(help="Feature to steer; repeat for several.")],
    prompt: Annotated[str, typer.Option(help="What the model is asked.")],
    factor: Annotated[
        list[float] | None,
        typer.Option(
            help="Multiple of the feature's training maximum, one per --feature (or one for all); default 2. 0 switches it off."
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(help="SAE size; default: the largest of the study.")] = None,
    mode: Annotated[str, typer.Option(help="clamp: set the feature to the value; add: push along its direction.")] = "clamp",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of both answers.")] = 80,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.7,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Both answers use the same random numbers.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    study: StudyOption = DEFAULT_STUDY,
) -> None:
    """Unsteered and steered answer side by side, as they are written. Saves nothing.

    Good features to begin with are in the summary of `run` and in the view `best_steerable`. Small models take about 0.5 to 2 x
    the maximum; more breaks the text. Example: `sae-pipeline steer --feature 123 --factor 2 --prompt "Who are you?"`
    """
    from sae_pipeline.cli.steer import steer_command

    steer_command(study, feature, factor or [2.0], prompt, size, mode, max_new_tokens, temperature, seed, device)


@app.command()
def attribute(
    prompt: Annotated[str, typer.Option(help="The text before the token in question.")],
    target: Annotated[str, typer.Option(help="A next token, one token long; words usually begin with a space.")],
    baseline: Annotated[str, typer.Option(help="The next token that it is compared with.")],
    size: Annotated[int | None, typer.Option(help="SAE size; default: the largest of the study.")] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="How many (token, feature) pairs to show.")] = 12,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    study: StudyOption = DEFAULT_STUDY,
) -> None:
    """Which features decide between two next tokens: attribution of the logit difference, and the effect of switching them off.

    Example: `sae-pipeline attribute --prompt "The keys to the cabinet" --target " are" --baseline " is"`. The browser page
    `/attribute` shows the same as a grid. Saves nothing.
    """
    from sae_pipeline.cli.attribute import attribute_command

    attribute_command(study, prompt, target, baseline, size, top, device)


@app.command()
def search(
    positive: Annotated[list[str], typer.Option(help="A text that has the concept; repeat for several.")],
    negative: Annotated[list[str] | None, typer.Option(help="A like text without it; repeat for several.")] = None,
    method: Annotated[str, typer.Option(help="single_prompt, prompt_sets, geometry, attribution or classifier.")] = "prompt_sets",
    label: Annotated[str | None, typer.Option(help="attribution: the next token that names the concept.")] = None,
    other: Annotated[str | None, typer.Option(help="attribution: the next token that it is compared with.")] = None,
    size: Annotated[int | None, typer.Option(help="SAE size; default: the largest of the study.")] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="How many features to show.")] = 10,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    study: StudyOption = DEFAULT_STUDY,
) -> None:
    """Look for the feature of a concept with texts of your own. Saves nothing.

    Example: `sae-pipeline search --positive "The island of Malta" --positive "Two small islands" --negative "The town of Bern"`
    """
    from sae_pipeline.cli.search import search_command

    search_command(study, positive, negative or [], method, label, other, size, top, device)


@app.command()
def export_site(
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist or be empty.")],
    features: Annotated[
        str | None, typer.Option(metavar="SIZE/I,...", help="Which features. Default: the best steerable ones of the study.")
    ] = None,
    study: StudyOption = DEFAULT_STUDY,
) -> None:
    """Write feature pages as a static folder that opens without a server, to be kept or put on any web host."""
    from sae_pipeline.cli.export_site import export_site_command

    raise typer.Exit(export_site_command(study, out, features))


@app.command("serve-local")
def serve_local(
    study: StudyOption = DEFAULT_STUDY,
    model: Annotated[Path | None, typer.Option(help="A .gguf file; default: the study's own model.")] = None,
    port: Annotated[int, typer.Option(help="Port to listen on, on this machine only.")] = 8080,
    threads: Annotated[int, typer.Option(min=1, help="Threads that generate.")] = 1,
) -> None:
    """Serve a GGUF model as a judge (`judge: {backend: local}`) on this machine; needs the extra `local`.

    Good for trying out the judged methods without a key. A small model fails the calibration, so its scores get no headline.
    """
    from sae_pipeline.cli.serve_local import serve_local_command

    serve_local_command(study, model, port, threads)


register(app, DEFAULT_STUDY)


def main(argv: list[str] | None = None) -> None:
    """Entry point. A mistake that the user can mend is one line on stderr and exit code 2, never a traceback."""
    try:
        app(args=argv, prog_name="sae-pipeline")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; what was finished is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
