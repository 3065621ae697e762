"""`ctxembed bench words|sentences|retrieval|similarity|senses`: how good the vectors of several systems are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import load_static, long_option, report_encoder, runtime_options, seed_option, stacked
from .output import emit, format_option, print_table, say
from .systems import against_option, models_option, open_systems

if TYPE_CHECKING:
    from ctxembed.evaluation.records import Kind, Suite
    from ctxembed.evaluation.runner import Comparison, SystemResult

output_option = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the results as JSON, with versions, seed, fingerprints and hashes of the data.",
)
html_option = click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write one offline page."
)
layers_option = click.option(
    "--layer", "layers", type=int, multiple=True, help="Layer to score, repeatable; by default the model's own choice."
)
bench_options = stacked(
    click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Folder of data sets (see above)."),
    models_option,
    against_option,
    output_option,
    html_option,
    format_option,
    seed_option,
    long_option,
    runtime_options,
)


@click.command()
@layers_option
@bench_options
def words(**options: Any) -> None:
    """Does a word mean the same in two contexts? Accuracy of a threshold on the cosine, or Spearman where graded.

    Rows of .jsonl or .jsonl.gz files: word, sentence1, start1, end1, sentence2, start2, end2 (character offsets) and
    label (1: same meaning), or score (how alike, any scale); word1 and word2 instead of word for two words in context.
    The files train, dev and test of a folder are one task: test is scored, or else dev, with the threshold tuned on
    train (or on dev, or on the words of one half); a file of another name is a task of its own.

    \b
    Example:   ctxembed bench words --data wic/ -m my-model --against static:word2vec.bin --against length
    """
    _run("words", **options)


@click.command()
@bench_options
def sentences(**options: Any) -> None:
    """Are two sentences alike? Spearman's rank correlation of cosine and human score.

    Rows of .jsonl or .jsonl.gz files: sentence1, sentence2 and score, or label (1: they say the same; average
    precision). Of the files train, dev and test of a folder, test is scored, or else dev; a file of another name is a
    task of its own. No such set ships: --data is needed.

    \b
    Example:   ctxembed bench sentences --data stsb/ --against static --against length
    """
    _run("sentences", **options)


@click.command()
@bench_options
def retrieval(**options: Any) -> None:
    """Do the right documents come first? nDCG@10, recall@100 and MAP of the ranking by cosine.

    A data set is a folder of corpus.jsonl (id, text, optionally title), queries.jsonl (id, text), both also .gz, and
    qrels.tsv with the header line query-id, corpus-id, score (0 is not relevant), parted by tabs.

    \b
    Example:   ctxembed bench retrieval --data cranfield/ -m my-model --against bm25 --format csv
    """
    _run("retrieval", **options)


@click.command()
@layers_option
@click.option(
    "--by-frequency",
    is_flag=True,
    help="Score the half of the pairs with the rarer words apart, by the counts of the static vectors that ship.",
)
@bench_options
def similarity(**options: Any) -> None:
    """Are two words alike, without any context? Spearman's rank correlation of cosine and human score.

    Rows of .jsonl or .jsonl.gz files: word1, word2 and score. A static lookup is at home here; a model reads each word
    by itself. No such set ships: --data is needed.

    \b
    Example:   ctxembed bench similarity --data wordsim/ --against static --against layer0
    """
    _run("similarity", **options)


@click.command()
@layers_option
@bench_options
def senses(**options: Any) -> None:
    """Does the nearest use of a word have the same sense? 1-nearest-neighbour accuracy within the word.

    Rows of .jsonl or .jsonl.gz files: lemma (or word), sentence (or text), start, end and sense (or label); or, as of
    SemCor, sentence and instances, a list of lemma, start, end and senses. Known senses come from train where test or
    dev is scored, else from one half: of the documents where they are named, or of each sense's uses.

    \b
    Example:   ctxembed bench senses --data my-uses.jsonl -m my-model --against static
    """
    _run("senses", **options)


COMMANDS = (words, sentences, retrieval, similarity, senses)


def _run(
    kind: Kind,
    *,
    data: Path | None,
    models: tuple[str, ...],
    peers: tuple[str, ...],
    output: Path | None,
    html: Path | None,
    seed: int,
    device: str,
    on_long: str,
    output_format: str,
    layers: tuple[int, ...] = (),
    by_frequency: bool = False,
) -> None:
    from ctxembed.evaluation.datasets import frequency_halves, load_suite
    from ctxembed.evaluation.runner import compare_systems, result_rows, run_suite, system_names, write_results

    suite = load_suite(kind, data, seed=seed)
    _say_left_out(suite)
    if by_frequency:
        static = load_static(None)
        suite = frequency_halves(suite, dict(zip(static.words, static.counts.tolist(), strict=True)))
    systems, leading = open_systems(models, peers, device=device, on_long=on_long, seed=seed)
    results = run_suite(suite, systems, layers=layers or (None,), seed=seed)
    comparisons = compare_systems(results, leading=leading, seed=seed)
    _say_uncovered(results)
    for system in systems:
        report_encoder(system)
    if output is not None:
        named = zip(system_names(systems), systems, strict=True)
        conditions = {name: dict(getattr(system, "conditions", {})) for name, system in named}
        write_results(output, results, suite=suite, seed=seed, comparisons=comparisons, conditions=conditions)
    if html is not None:
        from ctxembed.report.benchmark import benchmark_page
        from ctxembed.report.page import write_page

        write_page(html, benchmark_page(results, comparisons, suite=suite, seed=seed))
    if output_format == "table":
        _print_tables(results, comparisons)
    else:
        emit(result_rows(results), output_format)


def _print_tables(results: list[SystemResult], comparisons: list[Comparison]) -> None:
    """Print a table of systems and tasks for each metric, what the thresholds rest on, and the comparisons."""
    from ctxembed.evaluation.runner import system_table, task_notes

    for metric in dict.fromkeys(each.result.metric for each in results):
        print_table(system_table(results, metric), title=f"{metric}, with 95 % interval")
        click.echo()
    for note in task_notes(results):
        click.echo(note)
    if comparisons:
        click.echo()
        rows = [
            {
                "system": each.system,
                "against": each.against,
                "task": each.task,
                "metric": each.metric,
                "difference": f"{each.test.difference:+.3f} [{each.test.low:+.3f}, {each.test.high:+.3f}]",
                "p (Holm)": f"{each.p_holm:.4f}" if each.p_holm >= 0.0001 else "<.0001",
                "test": each.test.method,
            }
            for each in comparisons
        ]
        print_table(rows, title=f"paired, p corrected for {len(rows)} comparisons")


def _say_left_out(suite: Suite) -> None:
    from ctxembed.evaluation.records import RetrievalSet, SenseSet
    from ctxembed.evaluation.tasks import frequent_sense_accuracy, num_unambiguous

    if suite.skipped:
        names = sorted(suite.skipped)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        say(f"{len(names)} files or folders hold nothing for {suite.kind}: {', '.join(names[:3])}{more}")
    for data in suite.sets:
        if isinstance(data, RetrievalSet) and (unjudged := len(data.queries) - len(data.judged_queries)):
            say(f"{data.name}: {unjudged} of {len(data.queries)} queries have no relevant document and are not scored")
        if isinstance(data, SenseSet):
            say(
                f"{data.name}: always the most frequent sense would score {frequent_sense_accuracy(data):.3f}; "
                f"{num_unambiguous(data)} of {len(data.uses)} uses are of words with fewer than two known senses "
                "and are not scored"
            )


def _say_uncovered(results: list[SystemResult]) -> None:
    for each in results:
        if each.result.coverage < 1:
            say(
                f"{each.label}: {1 - each.result.coverage:.1%} of the rows of {each.result.task} have no vector on "
                f"at least one side and count with similarity 0 in {each.result.metric}"
            )
