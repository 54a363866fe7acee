"""The numbered notebooks: their parameters, running one with papermill, and which need not run again."""

import ast
import difflib
import hashlib
import json
import os
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from cbir_utils.artifacts.files import partial_path
from cbir_utils.artifacts.store import ArtifactError, machine, package_versions
from cbir_utils.paper.commit import current_commit

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
KERNEL = "python3"

#: The parameters that only say how many trainings are made. A run with more trainings than requested counts as done.
TRAININGS = ("seeds", "taught_seeds", "printed_seeds", "guided_seeds")


class UsageError(Exception):
    """The command line asks for something that does not exist; the message says what does."""


class NotebookFailed(Exception):
    """A notebook stopped with an exception; the message names notebook, cell and exception."""


def select_notebooks(start, stop):
    """The notebooks from number ``start`` to ``stop``, in order; raises :class:`UsageError` if there is none."""
    every = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    chosen = [path for path in every if start <= int(path.name[:2]) <= stop]
    if not chosen:
        known = ", ".join(path.stem for path in every) or f"none in {NOTEBOOKS}: run from a clone of the repository"
        raise UsageError(f"no notebook is numbered from {start:02} to {stop:02}; there are {known}")
    return chosen


def declared_parameters(notebook):
    """A notebook's parameters and their default values, as papermill reads them from the tagged cell."""
    from papermill import inspect_notebook

    return {name: ast.literal_eval(facts["default"]) for name, facts in inspect_notebook(str(notebook)).items()}


def load_profile(name):
    """The parameters of a profile: ``workshop`` is the notebooks' own values, any other is ``<name>.yaml``."""
    if name == "workshop":
        return {}
    path = NOTEBOOKS / "parameters" / f"{name}.yaml"
    if not path.is_file():
        known = ["workshop", *sorted(p.stem for p in path.parent.glob("*.yaml"))]
        raise UsageError(f"there is no profile {name!r}; choose one of {', '.join(known)}")
    return yaml.safe_load(path.read_text()) or {}


def parse_assignment(text):
    """``"epochs=3"`` → ``("epochs", "3")``; the parameter's own type says later how the value is read."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"-p {text}: expected name=value, such as -p epochs=3")
    return name, value


def parameters_for(notebooks, profile, given):
    """All parameters of each notebook, ``{path: {name: value}}``: its own values, then the profile's, then those given.

    A text for a parameter of another type is read as YAML (``true``, ``0.5``, ``[1, 2]``). Raises :class:`UsageError`
    for a name that no notebook declares, for one that is given but that none of ``notebooks`` declares, and for a
    value of another type than the default (papermill would only warn).
    """
    declared = {path: declared_parameters(path) for path in select_notebooks(0, 99)}
    used = {path: dict(parameters) for path, parameters in declared.items()}
    for name, value in {**profile, **given}.items():
        owners = [path for path in declared if name in declared[path]]
        if not owners:
            known = sorted({name for parameters in declared.values() for name in parameters})
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise UsageError(f"no notebook has a parameter {name!r}; {hint}")
        if name in given and not set(owners) & set(notebooks):
            stems = ", ".join(path.stem for path in owners)
            raise UsageError(f"{name!r} is a parameter of {stems}, which this run does not include")
        for path in owners:
            used[path][name] = _like(declared[path][name], value, f"{name} in {path.stem}")
    return {path: used[path] for path in notebooks}


def _like(default, value, what):
    """``value`` in the type of ``default``; a whole number will do for a float. A number is 0 or more, as the default.

    Where the default is above 0, so is the value: no notebook has a number that may be less.
    """
    if isinstance(value, str) and not isinstance(default, str):
        with suppress(ValueError, yaml.YAMLError):  # YAML would read 010 as 8, 1:30 as 90 and 1e-3 as a text
            number = type(default) in (int, float)
            value = type(default)(value.replace("_", "x")) if number else yaml.safe_load(value)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise UsageError(f"{what} must be of type {type(default).__name__}, like {default!r}, and {value!r} is not")
    if type(default) in (int, float) and not (value > 0 or (value == 0 and default <= 0)) or value == float("inf"):
        least = "above 0" if default > 0 else "0 or more"
        raise UsageError(f"{what} must be {least}, and {value!r} is not")
    return value


def execute(notebook, output, parameters, *, title, log=False):
    """Run a notebook in its own folder, keep the executed copy at ``output`` (also if it fails), return its seconds.

    The exercises' solutions and checks are left out: they are about the bundled data. On a terminal a bar named
    ``title`` counts the cells; with ``log`` what the notebook prints is shown instead. An interrupted run leaves no
    copy, nor does one that could not begin. Raises :class:`NotebookFailed`.
    """
    import nbformat
    import papermill

    bar, failure = {"desc": title, "leave": False, "disable": None}, None
    lesson = nbformat.read(notebook, as_version=4)
    exercises = {"solution", "check"}
    lesson.cells = [cell for cell in lesson.cells if not exercises & {*cell.metadata.get("tags", ())}]
    backend = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # another, from the shell, shows no picture
    with partial_path(output) as partial, _environment(backend):
        nbformat.write(lesson, partial)
        # Papermill takes braces in a path for places of parameters.
        path = str(partial).replace("{", "{{").replace("}", "}}")
        try:
            done = papermill.execute_notebook(
                path, path, parameters, kernel_name=KERNEL, cwd=str(notebook.parent),
                progress_bar=not log and bar, log_output=log, stdout_file=sys.stdout if log else None,
                coalesce_streams=True, extra_arguments=["--log-level=CRITICAL"],
            )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            first = (error.evalue or "").strip().splitlines()[:1]
            failure = f"failed in cell [{error.exec_count}]: {': '.join([error.ename, *first])}"
        except Exception as error:  # no kernel, one that died, a full disk: whatever else keeps a notebook from running
            failure = f"could not be run: {type(error).__name__}: {error}"
        if any(cell.get("execution_count") for cell in nbformat.read(partial, as_version=4).cells):
            os.replace(partial, output)  # a copy of which no cell ran would replace an earlier, good one
    if failure:
        copy = f"\n  executed copy: {output}" if output.exists() else ""
        raise NotebookFailed(f"{notebook.stem} {failure}{copy}")
    return done.metadata.papermill.duration


@contextmanager
def _environment(variables):
    """Set environment variables within a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def run_step(run, notebook, parameters, data, **options):
    """Execute a notebook of a run, and note in the manifest what it ran with, read and wrote; returns its seconds.

    ``data`` are facts about the dataset, such as its content hash; ``options`` are those of :func:`execute`. A step
    that fails or is stopped keeps no key, so it is not done.
    """
    wrote = run.manifest.get("steps", {}).get(notebook.stem, {}).get("wrote", [])
    run.record(steps={notebook.stem: {"key": None, "wrote": wrote}})
    step = {"commit": current_commit(), "packages": package_versions(), "machine": machine()}
    output = run.path(f"notebooks/{notebook.name}")
    with tempfile.NamedTemporaryFile("r") as log:
        with _environment({"CBIR_STEP_LOG": log.name}):  # every process of the notebook tells what it reads and writes
            seconds = round(execute(notebook, output, parameters, **options), 1)
        lines = [json.loads(line) for line in log]
    wrote = {name for verb, name, _ in lines if verb == "wrote"}
    step |= {
        "key": _key(notebook, parameters, data), "wrote": sorted(name for name in wrote if run.path(name).is_file()),
        "read": {name: sha256 for verb, name, sha256 in lines if verb == "read" and name not in wrote},
        "seeds": {name: parameters[name] for name in TRAININGS if name in parameters},
    }  # fmt: skip
    run.record_files(f"notebooks/{notebook.name}")
    run.record(steps={notebook.stem: step}, timings={notebook.stem: seconds}, parameters={notebook.stem: parameters})
    return seconds


def is_done(run, notebook, parameters, data):
    """Whether the run holds, whole, what this notebook makes of the same cells, parameters, data and files.

    A table that a later notebook fills as well does not count among the files that it read: it would never be done.
    """
    steps = run.manifest.get("steps", {})
    step = steps.get(notebook.stem)
    if step is None or step["key"] != _key(notebook, parameters, data):
        return False
    if any(step["seeds"].get(name, 0) < parameters[name] for name in TRAININGS if name in parameters):
        return False
    later = {name for stem, other in steps.items() if stem > notebook.stem for name in other["wrote"]}
    try:
        same = all(run.file_hash(name) == noted for name, noted in step["read"].items() if name not in later)
        # Of the executed copy only the presence counts: who reads it in JupyterLab may save it.
        return same and all(map(run.file_hash, step["wrote"])) and run.path(f"notebooks/{notebook.name}").is_file()
    except ArtifactError:
        return False


def time_left(run, items):
    """How long the notebooks in ``[(path, parameters), ...]`` took when they last ran like this; "" if one has not."""
    known, timings = run.manifest.get("parameters", {}), run.manifest.get("timings", {})
    if any(known.get(notebook.stem) != parameters for notebook, parameters in items):
        return ""
    return f"(~{max(1, round(sum(timings[notebook.stem] for notebook, _ in items) / 60))} min left)"


def _key(notebook, parameters, data):
    """A hash of a notebook's code cells, its parameters and the data; where data and results are kept is left out.

    Changes of this package and of libraries are not noticed: else an edit to a plot would have everything run again.
    """
    import nbformat

    code = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    left_out = ("dataset", "results", *TRAININGS)
    facts = [code, {name: value for name, value in parameters.items() if name not in left_out}, data]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
