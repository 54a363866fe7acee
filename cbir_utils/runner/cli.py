"""Runs the numbered notebooks with papermill: ``python -m cbir_utils run --help``."""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from cbir_utils.datasets import SOURCES, DatasetError, folder_kind, load_dataset, pack_folder
from cbir_utils.folders.files import save_rejects
from cbir_utils.metrics import results_table
from cbir_utils.run import ArtifactError, Run, atomic_path, machine, package_versions
from cbir_utils.runner.notebooks import (
    NOTEBOOKS,
    ROOT,
    NotebookFailed,
    UsageError,
    _stderr_to,
    assign_parameters,
    declared_parameters,
    execute,
    load_profile,
    normalise,
    parse_assignment,
    progress_line,
    select_notebooks,
)
from cbir_utils.runner.tables import update_readme
from cbir_utils.runner.workshop import write_workshop

#: Seconds that each notebook took on two cores, by dataset and profile: for the time left.
#: What a run has noted itself goes before.
SECONDS = {
    ("digits", "workshop"): {"01": 10, "02": 60, "03": 20, "04": 10, "05": 15, "06": 120, "07": 30, "08": 80, "09": 15,
                             "10": 60, "12": 30},
    ("mnist", "paper"): {"01": 8, "02": 480, "03": 30, "04": 8, "05": 135, "06": 830, "07": 350, "08": 1030,
                         "09": 580, "12": 1300},
}  # fmt: skip

#: The parameters that only say how many trainings are made. More than wanted will do: ``--resume`` passes over such a
#: notebook, and those after it need not run again because of their number.
TRAININGS = ("seeds", "contrastive_seeds", "printed_seeds", "guided_seeds")


# -- running ----------------------------------------------------------------------------------------------------


def run(arguments):
    """``cbir run``: returns the exit status."""
    from cbir_utils.paper.report import current_commit  # only here: with all it needs, it takes a second to load

    source = arguments.dataset
    if source not in SOURCES:
        if not Path(source).is_dir():
            raise UsageError(f"there is no dataset {source!r}: choose one of {', '.join(SOURCES)}, or give a folder")
        source = str(Path(source).resolve())
    results = Path(arguments.results).resolve()
    of_images = _is_folder_of_images(source, arguments, results)
    for name in {"CBIR_DATA_HOME", "KERAS_HOME"} & os.environ.keys():
        os.environ[name] = os.path.abspath(os.environ[name])  # the notebooks run in another folder
    notebooks = select_notebooks(arguments.start, arguments.stop)
    notebooks = [path for path in notebooks if path.name[:2] not in arguments.skip]
    if not notebooks:
        raise UsageError(f"--skip leaves none of the notebooks from {arguments.start} to {arguments.stop}")
    every = select_notebooks(0, 99)
    own = dict(parse_assignment(text) for text in arguments.parameter)
    for name in {"dataset", "results"} & own.keys():
        raise UsageError(f"give the {name} as --{name}, not with -p")
    project_run = Run(Path(source).name, results)
    everywhere = {"dataset": str(project_run.path("dataset")) if of_images else source, "results": str(results)}
    chosen = assign_parameters({**everywhere, **own}, notebooks, every)
    # For every notebook: a wrong name in the profile is an error whatever is run.
    of_profile = assign_parameters(load_profile(arguments.profile), every, every)
    used = {path: {**declared_parameters(path), **of_profile[path], **chosen[path]} for path in notebooks}

    with project_run.exclusive():
        data = {"content_hash": None, "labels": arguments.labels}
        if of_images:
            data["content_hash"] = _pack(source, arguments, project_run).content_hash
        elif arguments.resume:
            data["content_hash"] = _content_hash(source, used[notebooks[0]].get("seed", 0))
        done = _count_done(project_run, used, data) if arguments.resume else 0
        clock = _Clock(source, arguments.profile, project_run.manifest)
        project_run.record(source=source, profile=arguments.profile, size=arguments.size, labels=arguments.labels)
        if notebooks[done:]:
            project_run.record(commit=current_commit())
        _note_not_done(project_run, notebooks[done:])
        for number, notebook in enumerate(notebooks, 1):
            text = f"[{number}/{len(notebooks)}] {notebook.stem:<26}"
            if number <= done:
                print(f"{text} done before, with the same cells, parameters and data")
                continue
            remaining, output = notebooks[number - 1 :], project_run.path(f"notebooks/{notebook.name}")
            files, commit = project_run.manifest.get("files", {}), current_commit()
            start = time.perf_counter()
            try:
                with progress_line(f"{text} {clock.left(remaining):<18}", log=arguments.log):
                    execute(notebook, output, {**of_profile[notebook], **chosen[notebook]}, log=arguments.log)
            except NotebookFailed as error:
                print(f"{error}\n  resume with:   {_resume(arguments, remaining)}", file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                print(f"interrupted; resume with: {_resume(arguments, remaining)}", file=sys.stderr)
                return 130
            seconds = round(time.perf_counter() - start, 1)
            clock.done(notebook, seconds)
            project_run.record(timings={notebook.stem: seconds}, parameters={notebook.stem: used[notebook]})
            project_run.record_files(f"notebooks/{notebook.name}")
            _note_done(project_run, notebook, used[notebook], data, files, commit)
        if int(notebooks[-1].name[:2]) >= 5:  # notebook 05 writes the table
            _print_summary(project_run)
    return 0


class _Clock:
    """How long is left of a run: what the notebooks took before, times how much slower those of today are."""

    def __init__(self, source, profile, manifest):
        self.typical = SECONDS.get((source, profile), {})
        self.timings = manifest.get("timings", {}) if manifest.get("profile") == profile else {}
        self.expected, self.spent = 0.0, 0.0  # of the notebooks that have run by now

    def _seconds(self, notebook):
        return self.timings.get(notebook.stem, self.typical.get(notebook.name[:2]))

    def done(self, notebook, seconds):
        """Take note that a notebook has run."""
        if self._seconds(notebook):
            self.expected, self.spent = self.expected + self._seconds(notebook), self.spent + seconds

    def left(self, remaining):
        """The time that these notebooks may take, as a text; empty if one of them is not known."""
        expected = [self._seconds(notebook) for notebook in remaining]
        if None in expected:
            return ""
        minutes = sum(expected) * (self.spent / self.expected if self.expected > 30 else 1) / 60
        return f"(~{minutes:.0f} min left)" if minutes >= 1.5 else "(~1 min left)"


def _content_hash(source, seed):
    """The content hash of a dataset as it is now."""
    try:
        return load_dataset(source, seed=seed).content_hash
    except DatasetError as error:
        raise UsageError(str(error)) from error


def _step_key(project_run, notebook, used, data):
    """A hash of what a notebook's results come from: its code cells, its parameters, the data, and the step before it.

    Not in it, so not noticed by ``--resume``: the code of this package and the versions of libraries. An edit to a
    plot would otherwise have everything run again; after a change that counts, run without ``--resume``. Nor is where
    the results are kept, so that a clone can be moved, nor the number of trainings (``TRAININGS``).
    """
    import nbformat

    steps = project_run.manifest.get("steps", {})
    before = [stem for stem, step in steps.items() if stem < notebook.stem and step["key"]]
    code = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    packed = str(project_run.path("dataset"))
    parameters = {
        name: value for name, value in used.items() if name not in ("results", *TRAININGS) and value != packed
    }
    facts = [code, parameters, data, steps[max(before)]["key"] if before else None]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _count_done(project_run, used, data):
    """How many of the notebooks in ``used``, ``{path: parameters}`` in order, need not run.

    It is those before the first that must run: what comes after that one builds on it. Decided before any runs, as one
    that runs may make a file anew that others wrote into as well.
    """
    done = 0
    for notebook, parameters in used.items():
        if not _is_done(project_run, notebook, parameters, data):
            break
        done += 1
    return done


def _is_done(project_run, notebook, used, data):
    """Whether the run holds, whole, what this notebook writes, from what the key names and trainings enough."""
    step = project_run.manifest.get("steps", {}).get(notebook.stem)
    if step is None or step["key"] != _step_key(project_run, notebook, used, data):
        return False
    if any(step["seeds"].get(name, 0) < count for name, count in _trainings(used).items()):
        return False
    try:
        for name in step["wrote"]:
            project_run.checked_path(name)
    except ArtifactError:
        return False
    # The executed copy has only to be there: who reads it in JupyterLab may save it, and no step builds on it.
    return project_run.path(f"notebooks/{notebook.name}").is_file()


def _trainings(used):
    """Those of a notebook's parameters that say how many trainings it makes."""
    return {name: used[name] for name in TRAININGS if name in used}


def _note_not_done(project_run, notebooks):
    """Note that these are about to be run: one that is stopped or fails leaves files that belong to no note of old.

    What each wrote stays noted for :func:`_note_done`.
    """
    steps = project_run.manifest.get("steps", {})
    project_run.record(
        steps={path.stem: {"key": None, "wrote": steps.get(path.stem, {}).get("wrote", [])} for path in notebooks}
    )


def _note_done(project_run, notebook, used, data, files_before, commit):
    """Note for :func:`_is_done` that a notebook has run, which files it wrote, and what it was run with."""
    manifest = project_run.manifest
    wrote = {name for name, facts in manifest.get("files", {}).items() if files_before.get(name) != facts}
    wrote |= set(manifest["steps"][notebook.stem]["wrote"])  # written again, just the same, or still good
    wrote.discard(f"notebooks/{notebook.name}")
    # Where the data were not looked at before the run, their hash is what the notebooks noted.
    data = {**data, "content_hash": data["content_hash"] or manifest.get("content_hash")}
    step = {
        "key": _step_key(project_run, notebook, used, data), "seeds": _trainings(used),
        "wrote": sorted(name for name in wrote if project_run.path(name).is_file()),
        "commit": commit, "packages": package_versions(), "machine": machine(),
    }  # fmt: skip
    project_run.record(steps={notebook.stem: step})


def _is_folder_of_images(source, arguments, results):
    """Whether ``source`` is a folder of images; raises :class:`UsageError` for what does not go together."""
    kind = folder_kind(source)
    if kind == "packed":
        raise UsageError(f"{source} is what a run keeps of a folder of images; give the folder itself")
    if kind != "images" and (arguments.size is not None or arguments.labels):
        raise UsageError(f"--size and --labels are for a folder of images, and {source} is not one; leave them out")
    if arguments.size is not None and not 8 <= arguments.size <= 256:
        raise UsageError(f"--size {arguments.size}: images can be fitted to squares of 8 to 256 pixels")
    if kind == "images" and results.is_relative_to(source):
        raise UsageError(
            f"the results folder {results} lies in the folder of images, and its figures would become images; "
            "choose another with --results"
        )
    return kind == "images"


def _pack(source, arguments, project_run):
    """Read the folder of images ``source`` once for all notebooks, and say which files could not be read.

    Returns the dataset.
    """
    start, on_terminal = time.perf_counter(), sys.stdout.isatty()

    def progress(done, total):
        if on_terminal:
            text = f"[read] {done:,} of {total:,} files"
            print(f"\r{text:<32} {time.perf_counter() - start:7.0f} s", end="", flush=True)

    try:
        with _stderr_to(os.devnull):  # where libtiff writes about damaged files; here they become rejects
            data = pack_folder(
                source, project_run.path("dataset"), size=arguments.size, labels=arguments.labels, progress=progress
            )
    except DatasetError as error:
        raise UsageError(str(error)) from error
    n, rejects, csv = len(data.database), data.rejects, project_run.path("rejects.csv")
    text = f"[read] {n:,} images" + (f", {len(rejects):,} rejected (rejects.csv)" if rejects else "")
    again = "\r" if on_terminal else ""
    print(f"{again}{text:<32} {time.perf_counter() - start:7.1f} s", flush=True)
    if rejects or csv.exists():  # one from before would name files that are read now
        with project_run.writing("rejects.csv") as partial:
            save_rejects(partial, rejects)
    if rejects:
        common = Counter(reason for _, reason in rejects).most_common(3)
        other = len(rejects) - sum(count for _, count in common)
        reasons = [f"{count:,} {reason}" for reason, count in common] + ([f"{other:,} other"] if other else [])
        print(f"{len(rejects):,} of {n + len(rejects):,} files are left out ({'; '.join(reasons)}): see {csv}")
    return data


def _resume(arguments, remaining):
    """The command that runs the ``remaining`` notebooks, with those of the parameters that they declare."""
    known = {name for notebook in remaining for name in declared_parameters(notebook)}
    words = [sys.executable, "-m", "cbir_utils", "run", "--dataset", arguments.dataset]
    words += ["--size", str(arguments.size)] if arguments.size else []
    words += ["--labels"] if arguments.labels else []
    words += ["--profile", arguments.profile]
    words += ["--from", remaining[0].name[:2], "--to", arguments.stop]
    for number in arguments.skip:
        words += ["--skip", number]
    words += ["--resume"] if arguments.resume else []
    words += ["--results", arguments.results]
    for text in arguments.parameter:
        if parse_assignment(text)[0] in known:
            words += ["-p", text]
    return shlex.join(words)


def _print_summary(project_run):
    """The table of results and where the figures are."""
    if project_run.path("metrics.json").exists():
        print("\n" + results_table(project_run.load_json("metrics.json")))
    figures = sorted(project_run.path("figures").glob("*.png"))
    if figures:
        print(f"\n{len(figures)} figures (each as .png and .pdf):")
        print("\n".join(f"  {os.path.relpath(path)}" for path in figures))


# -- the committed notebooks --------------------------------------------------------------------------------------


def refresh(arguments):
    """``cbir refresh``: execute the committed notebooks in place, on their own parameters."""
    import nbformat

    with Run("digits", ROOT / "results").exclusive():
        for notebook in select_notebooks(arguments.start, arguments.stop):
            executed = ROOT / "results" / "refresh" / notebook.name
            try:
                with progress_line(f"{notebook.stem:<26}"):
                    execute(notebook, executed, {})
            except NotebookFailed as error:
                print(error, file=sys.stderr)
                return 1
            with atomic_path(notebook) as partial:
                nbformat.write(normalise(nbformat.read(executed, as_version=4)), partial)
    return 0


def readme(arguments):
    """``cbir readme``: write the README's results tables, and its picture, anew."""
    written = update_readme(ROOT / "README.md", Path(arguments.results))
    if "results digits" in written:
        picture = Run("digits", arguments.results).checked_path("figures/figure_01_retrieval_steps.png")
        shutil.copyfile(picture, NOTEBOOKS / "pictures" / "retrieval_steps.png")
    print(f"README.md: tables written for {', '.join(written) or 'no dataset (none has results)'}")
    return 0


def workshop(arguments):
    """``cbir workshop``: write the participants' notebooks, without solutions."""
    folder = Path(arguments.results) / "workshop"
    written, kept = write_workshop(select_notebooks(0, 99), folder)
    print(f"{len(written)} notebooks written to {folder}")
    if kept:
        print(f"kept, because they hold answers: {', '.join(path.stem for path in kept)}; delete them to get them anew")
    return 0


def measure(arguments):
    """``cbir measure``: one of the experiments for the report; a second start goes on where the first stopped."""
    from cbir_utils.paper import experiments

    if arguments.seeds is not None and arguments.experiment == "machines":
        raise UsageError("--seeds is for collapse and guided; machines repeats one training from one seed")
    if arguments.seeds is not None and arguments.seeds < 1:
        raise UsageError(f"--seeds must be 1 or more, not {arguments.seeds}")
    project_run, data = _finished_run(arguments.results)
    if arguments.experiment == "guided" and data.database.labels is None:
        raise UsageError(f"{data.name} has no labels, so there is nothing to judge the trainings by")
    options = {"seeds": arguments.seeds} if arguments.seeds else {}
    with project_run.exclusive():
        try:
            if arguments.experiment == "machines":
                experiments.sensitivity(project_run)
            else:
                getattr(experiments, arguments.experiment)(project_run, data, **options)
        except ArtifactError:  # its message is for the user already
            raise
        except (RuntimeError, ValueError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"cbir: measuring {arguments.experiment} failed: {first}", file=sys.stderr)
            return 1
    return 0


def report(arguments):
    """``cbir report``: write the report on the paper from a run's artifacts."""
    from cbir_utils.paper.report import summary, write_report

    folder = Path(arguments.results).resolve()
    page, _, parts, said = write_report(Run(folder.name, folder.parent), verbose=True)
    print(f"{summary(parts)}\n{os.path.relpath(page)}\n{said}")
    return 0


# -- searching a finished run ---------------------------------------------------------------------------------------


def _finished_run(folder):
    """The run kept in ``folder``, such as ``results/digits``, and its dataset."""
    from cbir_utils.retrieval.retriever import run_data

    folder = Path(folder).resolve()
    project_run = Run(folder.name, folder.parent)
    try:
        return project_run, run_data(project_run)
    except DatasetError as error:
        raise UsageError(str(error)) from error


def query(arguments):
    """``cbir query``: print the images nearest to an image file, and draw them."""
    from cbir_utils.folders.files import UnreadableImageError, read_image
    from cbir_utils.retrieval.retriever import Retriever, fit_query

    project_run, data = _finished_run(arguments.results)
    try:
        image = read_image(arguments.image, data.database.images.shape[1:])
    except UnreadableImageError as error:
        raise UsageError(f"{arguments.image}: {error}") from error
    retriever = Retriever(project_run, data, arguments.method, arguments.metric)
    if not 1 <= arguments.k <= len(retriever):
        raise UsageError(f"-k must be from 1 to the {len(retriever)} images of the run, not {arguments.k}")
    as_searched = fit_query(image, data)
    hits = retriever.search(as_searched[None], arguments.k)
    found = [
        {"rank": rank, "id": retriever.ids[row], "distance": round(float(distance), 6)}
        for rank, (row, distance) in enumerate(zip(hits.ids[0], hits.distances[0], strict=True), 1)
    ]
    picture = Path(arguments.picture or project_run.path(f"queries/{Path(arguments.image).stem}.png"))
    _draw_hits(as_searched, retriever.images[hits.ids[0]], hits.distances[0], picture)
    answer = {
        "query": arguments.image, "negative": as_searched is not image, "method": retriever.method,
        "metric": retriever.metric, "encoder": retriever.encoder_hash, "hits": found, "picture": str(picture),
    }  # fmt: skip
    if arguments.json:
        print(json.dumps(answer, indent=2))
        return 0
    encoder = f"encoder {retriever.encoder_hash[:12]}" if retriever.encoder_hash else "no encoder"
    print(f"method {retriever.method}, {retriever.metric} distance, {encoder}, {len(retriever):,} images")
    if answer["negative"]:
        print("searched as its negative: the database's background is " + ("light" if data.light else "dark"))
    for hit in found:
        print(f"{hit['rank']:>4}  {hit['distance']:.4f}  {hit['id']}")
    print(f"picture: {os.path.relpath(picture)}")
    return 0


def _draw_hits(image, hits, distances, path):
    """Write a picture of a query and its hits."""
    from cbir_utils import plots

    if path.suffix.lower() != ".png":
        raise UsageError(f"--picture {path}: the picture is a PNG file; give a name that ends with .png")
    plots.use_style()
    figure = plots.query_and_hits(image, hits, distances)
    with atomic_path(path) as partial:
        figure.savefig(partial)


def add(arguments):
    """``cbir add``: encode the images of another folder and add them to what a run searches; nothing is trained."""
    from cbir_utils.folders.files import UnreadableImageError, read_folder
    from cbir_utils.retrieval.retriever import add_images

    project_run, data = _finished_run(arguments.results)
    folder, (size, _, channels) = Path(arguments.folder).resolve(), data.database.images.shape[1:]
    try:
        read = read_folder(folder, size=size, channels=channels)
    except UnreadableImageError as error:
        raise UsageError(str(error)) from error
    source = Path(project_run.manifest.get("source", ""))
    # In the folder that the run was made from, ids go on as they are; another folder's begin with its name.
    inside = source.is_absolute() and folder.is_relative_to(source)
    start = folder.relative_to(source).as_posix() if inside else folder.name
    ids = [name if start == "." else f"{start}/{name}" for name in read.ids]
    with project_run.exclusive():
        added = add_images(project_run, data, read.images, ids)
        if read.rejects:
            with project_run.writing("rejects_added.csv") as partial:
                save_rejects(partial, read.rejects)
    rejected = f", {len(read.rejects):,} files rejected (rejects_added.csv)" if read.rejects else ""
    print(f"{len(added):,} images added, {len(ids) - len(added):,} there already{rejected}")
    return 0


# -- the command line ---------------------------------------------------------------------------------------------


def number(text):
    """A notebook's number, ``"3"`` or ``"03"``."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a notebook, such as 03")
    return text.zfill(2)


def parser():
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="python -m cbir_utils", description="Label-free image retrieval, from notebooks."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("run", help="run the numbered notebooks with papermill and print the table of results")
    one.add_argument("--dataset", default="digits",
                     help=f"{', '.join(SOURCES)}, or a folder of IDX files or of images (digits)")  # fmt: skip
    one.add_argument("--size", type=int, metavar="N",
                     help="of a folder of images: fit them to squares of N pixels (28; in colour 32)")  # fmt: skip
    one.add_argument("--labels", action="store_true",
                     help="folder names are the classes of a folder's images; used by the evaluation only")  # fmt: skip
    one.add_argument("--profile", default="workshop", help="workshop: the notebooks' own values; paper: the paper's")
    one.add_argument("-p", dest="parameter", metavar="NAME=VALUE", action="append", default=[],
                     help="set a parameter of the notebooks; may be repeated")  # fmt: skip
    one.add_argument("--log", action="store_true", help="show what the notebooks print, such as the epochs' losses")
    one.add_argument("--resume", action="store_true",
                     help="pass over notebooks that are done already, with the same cells, parameters and data; "
                     "changes of the package's code or of library versions are not noticed")  # fmt: skip
    one.add_argument("--skip", type=number, action="append", default=[], metavar="NN",
                     help="leave a notebook out; may be repeated")  # fmt: skip
    one.set_defaults(command=run)

    two = commands.add_parser("refresh", help="execute the committed notebooks in place (make notebooks)")
    two.set_defaults(command=refresh)
    # A run is the paper's system, without the primer; more of it is asked for by number.
    for command, first, last in ((one, "01", "05"), (two, "00", "99")):
        command.add_argument(
            "--from", dest="start", type=number, default=first, metavar="NN", help=f"first notebook ({first})"
        )
        command.add_argument(
            "--to", dest="stop", type=number, default=last, metavar="NN", help=f"last notebook ({last})"
        )

    three = commands.add_parser("readme", help="write the README's results tables from metrics.json")
    three.set_defaults(command=readme)
    six = commands.add_parser("workshop", help="write the participants' notebooks, without solutions, to DIR/workshop")
    six.set_defaults(command=workshop)
    for command in (one, three, six):
        command.add_argument("--results", default="results", metavar="DIR", help="where runs are kept (results)")

    four = commands.add_parser("query", help="print and draw the images nearest to an image file")
    four.add_argument("image", metavar="IMAGE", help="a PNG, JPEG, GIF, BMP, TIFF or WebP file")
    four.add_argument("-k", type=int, default=5, help="how many (5)")
    four.add_argument("--method", help="by which codes; by default the run's best (fused, where notebook 08 or 10 ran)")
    four.add_argument("--metric", default="cosine", choices=("cosine", "euclidean", "manhattan"),
                      help="by which distance (cosine)")  # fmt: skip
    four.add_argument("--json", action="store_true", help="print JSON")
    four.add_argument("--picture", metavar="PNG", help="where the picture goes (queries/ in the run's folder)")
    four.set_defaults(command=query)
    five = commands.add_parser("add", help="add the images of a folder to what a run searches, without training")
    five.add_argument("folder", metavar="FOLDER")
    five.set_defaults(command=add)
    seven = commands.add_parser("report", help="write the report on the paper from a run's artifacts (make report)")
    seven.set_defaults(command=report)
    eight = commands.add_parser("measure", help="an experiment for the report: collapse by seed, training guided by "
                                "retrieval, or other threads and libraries (machines)")  # fmt: skip
    eight.add_argument("experiment", choices=("collapse", "guided", "machines"))
    eight.add_argument("--seeds", type=int, help="trainings of each kind (collapse 20, guided 3)")
    eight.set_defaults(command=measure)
    for command in (four, five, seven, eight):
        command.add_argument("--results", default="results/digits", metavar="DIR/NAME",
                             help="the run's own folder (results/digits)")  # fmt: skip
    return top


def main(argv=None):
    """The console script ``cbir``; returns the exit status.

    It is 0, 1 (a notebook or an experiment failed), 2 (bad usage or artifacts) or 130 (Ctrl-C).
    """
    arguments = parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except (UsageError, ArtifactError, OSError) as error:  # OSError: a folder that cannot be written, a full disk
        print(f"cbir: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
