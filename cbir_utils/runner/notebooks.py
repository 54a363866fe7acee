"""The numbered notebooks: which there are, their parameters, and running one with papermill."""

import ast
import difflib
import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import yaml

from cbir_utils.run import atomic_path

ROOT = Path(__file__).resolve().parents[2]


NOTEBOOKS = ROOT / "notebooks"


KERNEL = "python3"


class UsageError(Exception):
    """The command line asks for something that does not exist; the message says what does."""


class NotebookFailed(Exception):
    """A notebook stopped with an exception; the message names notebook, cell and exception."""


def select_notebooks(start, stop):
    """The notebooks from number ``start`` to ``stop``, in order; raises :class:`UsageError` if there is none."""
    every = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not every:
        raise UsageError(f"there are no notebooks in {NOTEBOOKS}; run from a clone of the repository")
    chosen = [path for path in every if int(start) <= int(path.name[:2]) <= int(stop)]
    if not chosen:
        known = ", ".join(path.stem for path in every)
        raise UsageError(f"no notebook is numbered from {start} to {stop}; there are {known}")
    return chosen


def declared_parameters(notebook):
    """A notebook's parameters and their default values, as papermill reads them from the tagged cell."""
    from papermill import inspect_notebook

    found = inspect_notebook(str(notebook))
    return {name: ast.literal_eval(facts["default"]) for name, facts in found.items()}


def load_profile(name):
    """The parameters of a profile: ``workshop`` is the notebooks' own values, any other is ``<name>.yaml``."""
    if name == "workshop":
        return {}
    path = NOTEBOOKS / "parameters" / f"{name}.yaml"
    if not path.is_file():
        known = ["workshop", *sorted(p.stem for p in path.parent.glob("*.yaml"))]
        raise UsageError(f"there is no profile {name!r}; choose one of {', '.join(known)}")
    return yaml.safe_load(path.read_text()) or {}


class Words(str):
    """A value as it stands on the command line, before the parameter's own type says how to read it."""


def parse_assignment(text):
    """``"epochs=3"`` → ``("epochs", Words("3"))``."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"-p {text}: expected name=value, such as -p epochs=3")
    return name, Words(value)


def assign_parameters(given, notebooks, every):
    """Give each notebook those of the ``given`` parameters that it declares.

    ``notebooks`` are the ones to be run, ``every`` all there are (each a path). Returns ``{path: {name: value}}``.
    From the command line, a parameter that is a text takes the words as they stand and any other is read as YAML
    (``true``, ``0.5``, ``[1, 2]``). Raises :class:`UsageError` for a name that none of ``notebooks`` declares, or a
    value of another type than the default: papermill would only warn.
    """
    assigned = {path: {} for path in notebooks}
    declared = {path: declared_parameters(path) for path in every}
    chosen = {name for path in notebooks for name in declared[path]}
    for name, value in given.items():
        owners = [path.stem for path in every if name in declared[path]]
        if not owners:
            known = sorted({n for parameters in declared.values() for n in parameters})
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise UsageError(f"no notebook has a parameter {name!r}; {hint}")
        if name not in chosen:
            raise UsageError(f"{name!r} is a parameter of {', '.join(owners)}, which this run does not include")
        for path in notebooks:
            if name in declared[path]:
                assigned[path][name] = _as_kind_of(declared[path][name], value, f"{name} in {path.stem}")
    return assigned


def _as_kind_of(default, value, what):
    """``value`` in the type of ``default``; a whole number will do for a float."""
    if isinstance(value, Words):
        try:
            value = str(value) if isinstance(default, str) else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"{what} cannot be read: {str(value)!r}") from error
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise UsageError(f"{what} must be of type {type(default).__name__}, like {default!r}, and {value!r} is not")
    return value


def execute(notebook, output, parameters, *, log=False):
    """Run one notebook in its own folder and keep the executed copy at ``output``, also if it fails.

    While it runs the copy has a temporary name; interrupting leaves none. Raises :class:`NotebookFailed`.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    failure, kernel_log = None, output.with_suffix(".log")
    try:
        with atomic_path(output) as partial, _stderr_to(kernel_log):
            try:
                papermill.execute_notebook(
                    str(notebook), str(partial), parameters, kernel_name=KERNEL, cwd=str(notebook.parent),
                    progress_bar=False, log_output=log, stdout_file=sys.stdout if log else None, coalesce_streams=True,
                )  # fmt: skip
            except papermill.PapermillExecutionError as error:
                first = (error.evalue or "").strip().splitlines()[:1]
                what = f"{error.ename}: {first[0]}" if first else error.ename
                failure = f"{notebook.stem} failed in cell [{error.exec_count}]: {what}"
            except DeadKernelError as error:
                failure = f"{notebook.stem} failed: its kernel died ({error}); was there enough memory?"
            except Exception as error:  # no kernel, a full disk: whatever else keeps a notebook from running
                failure = f"{notebook.stem} could not be run: {type(error).__name__}: {error}"
    finally:
        if not failure:
            kernel_log.unlink(missing_ok=True)
    if failure:
        raise NotebookFailed(f"{failure}\n  executed copy: {output}\n  kernel's log:  {kernel_log}")


@contextmanager
def _stderr_to(path):
    """Send file descriptor 2 to a file: a kernel inherits it, and its start-up notes would break the progress lines."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(path, "wb") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def progress_line(text, *, log=False):
    """Print ``text`` and, when the block ends, its seconds, on one line; on a terminal the seconds tick along.

    With ``log`` the block prints lines of its own, so ``text`` stands again beside the seconds at the end.
    """
    start, done = time.perf_counter(), threading.Event()
    ticking = sys.stdout.isatty() and not log

    def tick():
        while not done.wait(1):
            print(f"\r{text} {time.perf_counter() - start:7.0f} s", end="", flush=True)

    ticker = threading.Thread(target=tick, daemon=True)
    print(text, end="\n" if log else "", flush=True)
    if ticking:
        ticker.start()
    end = " (stopped)"
    try:
        yield
        end = ""
    finally:
        done.set()
        if ticking:
            ticker.join()
        again = "\r" + text if ticking else text if log else ""
        print(f"{again} {time.perf_counter() - start:7.1f} s{end}", flush=True)


def normalise(notebook):
    """Drop from an executed notebook what changes from run to run or machine to machine, and return it."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": KERNEL},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {"tags": list(cell.metadata["tags"])} if cell.metadata.get("tags") else {}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = {}
    return notebook
