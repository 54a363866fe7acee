"""The command line: ``python -m cbir_utils --help``. It parses, calls and prints; each command is one function."""

import argparse
import errno
import json
import os
import shlex
import shutil
import sys
from collections import Counter
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from cbir_utils.artifacts.locks import ArtifactError, exclusive
from cbir_utils.datasets import folder_kind, load_dataset
from cbir_utils.folders.folder import pack_folder, save_rejects
from cbir_utils.lessons.tables import results_table
from cbir_utils.names import printable
from cbir_utils.run import Run
from cbir_utils.runner import notebooks
from cbir_utils.runner.notebooks import NotebookFailed, UsageError


def run(arguments):
    """Run the numbered notebooks, one after the other, and print the table of results."""
    kind = folder_kind(arguments.dataset)
    source = str(Path(arguments.dataset).resolve()) if kind else arguments.dataset
    project_run = Run(Path(source).name, Path(arguments.results).resolve())
    if kind == "packed":
        raise UsageError(f"{source} is what a run keeps of a folder of images; give the folder itself")
    if kind == "images" and project_run.folder.is_relative_to(source):
        raise UsageError(f"the results folder lies in the folder of images, {source}; choose another with --results")
    if arguments.size is not None and not 8 <= arguments.size <= 256:
        raise UsageError(f"--size {arguments.size}: images can be fitted to squares of 8 to 256 pixels")
    for name in {"CBIR_DATA_HOME", "KERAS_HOME"} & os.environ.keys():
        os.environ[name] = os.path.abspath(os.environ[name])  # the notebooks run in another folder
    where = {"dataset": str(project_run.path("dataset")) if kind == "images" else source}
    parameters = _parameters(arguments, {**where, "results": str(project_run.results)})
    options = {"size": arguments.size, "labels": arguments.labels}
    seed = next(iter(parameters.values())).get("seed", 0)
    data = None if kind == "images" else load_dataset(source, seed=seed, **options)
    with exclusive(project_run.folder):
        data = data or _pack(source, project_run, **options)
        project_run.belongs_to(source, data.content_hash)
        project_run.record(profile=arguments.profile, **options)
        facts = {"content_hash": data.content_hash, "labels": arguments.labels}
        status = _run_notebooks(project_run, parameters, facts, arguments)
    # Notebook 05 writes the table.
    if status == 0 and arguments.stop >= 5 and "metrics.json" in project_run.manifest["files"]:
        print("\n" + results_table(project_run.load_json("metrics.json")))
        print(f"\nfigures, each as .png and .pdf: {os.path.relpath(project_run.path('figures'))}")
    return status


def _parameters(arguments, where):
    """The notebooks that are asked for and their parameters, ``{path: {name: value}}``."""
    chosen = notebooks.select_notebooks(arguments.start, arguments.stop)
    chosen = [path for path in chosen if int(path.name[:2]) not in arguments.skip]
    if not chosen:
        raise UsageError(f"--skip leaves none of the notebooks from {arguments.start:02} to {arguments.stop:02}")
    given = dict(notebooks.parse_assignment(text) for text in arguments.parameter)
    if given.get("more"):  # from where the user stands: the notebooks run in another folder
        given["more"] = os.path.abspath(os.path.expanduser(given["more"]))
    if arguments.encoder:
        is_file = os.path.exists(arguments.encoder) or arguments.encoder.endswith(".keras")
        given["encoder"] = os.path.abspath(arguments.encoder) if is_file else arguments.encoder
    for name in where.keys() & given.keys():
        raise UsageError(f"give the {name} as --{name}, not with -p")
    return notebooks.parameters_for(chosen, notebooks.load_profile(arguments.profile), given | where)


def _run_notebooks(project_run, parameters, data, arguments):
    """Run the notebooks in ``{path: parameters}`` but those that are done; print a line for each; return the status.

    What counts as done is decided beforehand: those before the first that must run, as what follows builds on it.
    """
    items = list(parameters.items())
    done = list(takewhile(lambda item: notebooks.is_done(project_run, *item, data), items if arguments.resume else []))
    for number, (notebook, used) in enumerate(items):
        title = f"[{number + 1}/{len(items)}] {notebook.stem:<26}"
        if number < len(done):
            print(f"{title} done before, with the same cells, parameters and data")
            continue
        bar = title + notebooks.time_left(project_run, items[number:])
        try:
            seconds = notebooks.run_step(project_run, notebook, used, data, title=bar, log=arguments.log)
        except (NotebookFailed, KeyboardInterrupt) as error:
            words = [sys.executable, "-m", "cbir_utils", *arguments.words, *([] if arguments.resume else ["--resume"])]
            print(f"{str(error) or 'interrupted'}\n  resume with: {shlex.join(words)}", file=sys.stderr)
            return 130 if isinstance(error, KeyboardInterrupt) else 1
        print(f"{title} {seconds:7.1f} s", flush=True)
    return 0


def _pack(source, project_run, **options):
    """Read a folder of images once for all notebooks, say which files cannot be read, and return the dataset."""
    from cbir_utils.retrieval.library import shape_of_added

    data = pack_folder(source, project_run.path("dataset"), shape=shape_of_added(project_run), **options)
    print(f"[read] {len(data.database):,} images", flush=True)
    rejects, listed = data.rejects, project_run.path("rejects.csv")
    if rejects or listed.exists():  # a list from before would name files that are read now
        with project_run.writing("rejects.csv") as partial:
            save_rejects(partial, rejects)
    if rejects:
        reasons = [f"{count:,} {reason}" for reason, count in Counter(reason for _, reason in rejects).most_common(3)]
        total = len(data.database) + len(rejects)
        print(f"{len(rejects):,} of {total:,} files are left out ({'; '.join(reasons)}): see {listed}")
    return data


def results(arguments):
    """Write the tables of RESULTS.md and README.md, and README's picture, from the results folder."""
    from cbir_utils.runner.tables import update_tables

    for page in ("RESULTS.md", "README.md"):
        written = update_tables(notebooks.ROOT / page, Path(arguments.results))
        print(f"{page}: {', '.join(written) or 'nothing written (no results)'}")
    picture = Path(arguments.results) / "digits" / "figures" / "figure_01_retrieval_steps.png"
    if picture.exists():
        shutil.copyfile(picture, notebooks.NOTEBOOKS / "pictures" / "retrieval_steps.png")


def workshop(arguments):
    """Write the participants' notebooks, without solutions, to DIR/workshop."""
    from cbir_utils.runner.workshop import write_workshop

    folder = Path(arguments.results) / "workshop"
    written, kept = write_workshop(notebooks.select_notebooks(0, 99), folder)
    print(f"{len(written)} notebooks written to {folder}")
    if kept:
        print(f"kept, because they hold answers: {', '.join(path.stem for path in kept)}; delete them to get them anew")


# -- a finished run -------------------------------------------------------------------------------------------------


def _finished_run(folder):
    """The run kept in ``folder``, such as ``results/digits``, and its dataset."""
    from cbir_utils.retrieval.retriever import run_data

    folder = Path(folder).resolve()
    project_run = Run(folder.name, folder.parent)
    return project_run, run_data(project_run)


def query(arguments):
    """Print and draw the images nearest to an image file."""
    from cbir_utils.retrieval.query import query_file
    from cbir_utils.retrieval.retriever import ELSEWHERE

    answer = query_file(
        *_finished_run(arguments.results), arguments.image, arguments.k,
        also=arguments.also, unlike=arguments.unlike, max_distance=arguments.max_distance,
        method=arguments.method, metric=arguments.metric, picture=arguments.picture, page=arguments.html,
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(answer, indent=2))
        return
    encoder = f"encoder {answer['encoder'][:12]}" if answer["encoder"] else "no encoder"
    method = ELSEWHERE.get(answer["method"], answer["method"])
    print(f"method {method}, {answer['metric']} distance, {encoder}, {answer['images']:,} images")
    if answer["negative"]:
        print("searched as its negative: the database's background is " + answer["background"])
    for hit in answer["hits"]:
        print(f"{hit['rank']:>4}  {hit['distance']:.4f}  {hit['id']}")
    if not answer["hits"]:
        print("nothing alike: no image is that near")
    for what, path in (("picture", answer["picture"]), ("page", arguments.html)):
        if path:
            print(f"{what}: {os.path.relpath(path)}")


def add(arguments):
    """Add the images of a folder to what a run searches, without training."""
    from cbir_utils.retrieval.library import add_folder

    added, known, rejects = add_folder(*_finished_run(arguments.results), arguments.folder)
    rejected = f", {rejects:,} files rejected (rejects_added.csv)" if rejects else ""
    print(f"{added:,} images added, {known:,} there already{rejected}")


def duplicates(arguments):
    """List groups of near-duplicates, the largest file first; nothing is deleted."""
    from cbir_utils.retrieval.query import duplicates as find

    groups = find(*_finished_run(arguments.results), page=arguments.html)
    print(f"{len(groups):,} groups of near-duplicates")
    for group in groups:
        print("  " + ", ".join(printable(file["id"]) for file in group))


def sync(arguments):
    """Bring a run up to date with its folder: what is new, changed, renamed or gone; nothing is trained."""
    from cbir_utils.retrieval.sync import sync as follow

    done = follow(*_finished_run(arguments.results))
    rejected = f", {done.rejects:,} files rejected (rejects_added.csv)" if done.rejects else ""
    print(f"{done.added:,} images added, {done.renamed:,} renamed, {done.gone:,} gone{rejected}")
    if done.much:
        print("much has changed since the run learned; to learn anew, run the notebooks again")


def remove(arguments):
    """Take images out of what a run searches; their files stay."""
    from cbir_utils.retrieval.sync import remove as take_out

    take_out(*_finished_run(arguments.results), arguments.ids)
    print(f"{len(arguments.ids):,} images removed")


def app(arguments):
    """Serve the explorer of a run as a page on this machine, until Ctrl-C."""
    import asyncio

    from cbir_utils.explorer.explorer import Explorer
    from cbir_utils.explorer.server import serve

    explorer = Explorer(*_finished_run(arguments.results), k=10)

    def tell(address):
        print(f"open {address}\nthe token in it is the key, so keep it; Ctrl-C stops the explorer", flush=True)

    try:
        asyncio.run(serve(explorer.ask, arguments.port, tell))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UsageError(f"port {arguments.port} is taken (another explorer?); choose one with --port") from error


def report(arguments):
    """Write the report on the paper from a run's artifacts."""
    from cbir_utils.paper.report import summary, write_report

    folder = Path(arguments.results).resolve()
    page, findings = write_report(Run(folder.name, folder.parent))
    print(f"{summary(findings)}\n{os.path.relpath(page)}")


def measure(arguments):
    """An experiment for the report; a second start goes on where the first stopped."""
    from cbir_utils.paper import experiments

    if arguments.seeds is not None and (arguments.seeds < 1 or arguments.experiment == "machines"):
        raise UsageError("--seeds is 1 or more, for collapse and guided; machines repeats one training from one seed")
    project_run, data = _finished_run(arguments.results)
    if arguments.experiment == "guided" and data.database.labels is None:
        raise UsageError(f"{data.name} has no labels, so there is nothing to judge the trainings by")
    with exclusive(project_run.folder):
        if arguments.experiment == "machines":
            experiments.sensitivity(project_run)
        else:
            experiment = experiments.collapse if arguments.experiment == "collapse" else experiments.guided
            experiment(project_run, data, **({"seeds": arguments.seeds} if arguments.seeds else {}))


# -- the grammar ----------------------------------------------------------------------------------------------------


def _query_options(option):
    """The options of ``query``; ``option`` adds one."""
    option("image", metavar="IMAGE", help="an image file, or an id of the run")
    option("--and", dest="also", metavar="IMAGE", action="append", default=[], help="another example")
    option("--not", dest="unlike", metavar="IMAGE", action="append", default=[], help="not like this one")
    option("--max-distance", type=_limit, metavar="D", help="leave out farther ones; auto")
    option("--html", metavar="FILE", help="write a page with the original pictures")
    option("-k", type=int, default=5, help="how many (5)")
    option("--method", help="by which codes (the best that the run has)")
    option("--metric", default="cosine", choices=("cosine", "euclidean", "manhattan"), metavar="NAME",
           help="cosine (the default), euclidean or manhattan")  # fmt: skip
    option("--json", action="store_true", help="print JSON")
    option("--picture", metavar="PNG", help="where the picture goes (queries/)")


def _limit(text):
    """A distance, or ``"auto"``."""
    try:
        return text if text == "auto" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from error


def parser():
    """The command line's grammar."""
    every_run = {"default": "results", "metavar": "DIR", "help": "where runs are kept (results)"}
    one_run = {"default": "results/digits", "metavar": "DIR/NAME", "help": "the run (results/digits)"}
    top = argparse.ArgumentParser(prog="python -m cbir_utils", description="Label-free image retrieval.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(function, results):
        text = function.__doc__.splitlines()[0]
        added = commands.add_parser(function.__name__, help=text, description=text)
        added.set_defaults(command=function)
        added.add_argument("--results", **results)
        return added.add_argument

    option = command(run, every_run)
    option("--dataset", default="digits", help="digits, mnist, fashion_mnist, shapes, or a folder")
    option("--size", type=int, metavar="N", help="side of a folder's images in pixels (28; in colour 128)")
    option("--labels", action="store_true", help="a folder's folders are classes, for the evaluation only")
    option("--encoder", metavar="MODEL", help="for 10: a .keras file, or a Keras application")
    option("--profile", default="workshop", help="workshop (the notebooks' values) or paper (for MNIST)")
    option("-p", dest="parameter", metavar="NAME=VALUE", action="append", default=[], help="set a notebook's parameter")
    option("--from", dest="start", type=int, default=1, metavar="NN", help="first notebook (01)")
    option("--to", dest="stop", type=int, default=5, metavar="NN", help="last notebook (05)")
    option("--skip", type=int, action="append", default=[], metavar="NN", help="leave a notebook out")
    done = "pass over notebooks done with the same cells, parameters, data and files; changes of code are not noticed"
    option("--resume", action="store_true", help=done)
    option("--log", action="store_true", help="show what the notebooks print")
    command(results, every_run)
    command(workshop, every_run)

    _query_options(command(query, one_run))
    option = command(add, one_run)
    option("folder", metavar="FOLDER")
    option = command(duplicates, one_run)
    option("--html", metavar="FILE", help="write a page to review them")
    command(sync, one_run)
    option = command(remove, one_run)
    option("ids", metavar="ID", nargs="+", help="as a query prints them")
    command(app, one_run)("--port", type=int, default=8866, metavar="N", help="where the page is served (8866)")
    command(report, one_run)
    option = command(measure, one_run)
    option("experiment", choices=("collapse", "guided", "machines"), help="by seed; by retrieval; on other threads")
    option("--seeds", type=int, metavar="N", help="trainings of each kind (collapse 20, guided 3)")
    return top


def main(words=None):
    """The console script ``cbir``; returns the exit status.

    It is 0, 1 (a notebook or an experiment failed), 2 (bad usage, data or artifacts) or 130 (Ctrl-C).
    """
    words = sys.argv[1:] if words is None else words
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack letters of a name
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")
    arguments = parser().parse_args(words, argparse.Namespace(words=words))
    try:
        return arguments.command(arguments) or 0
    except (UsageError, ArtifactError, ValueError, OSError) as error:  # ValueError: of data, images and values
        print(f"cbir: {printable(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # of an experiment
        print(f"cbir: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
