"""The measured tables, written from results/ by one command."""

import re
from pathlib import Path

from cbir_utils.metrics import binary_table, family_table, results_table
from cbir_utils.run import Run, atomic_path


def update_readme(readme, results):
    """Write the tables between ``<!-- KIND NAME -->`` and ``<!-- end -->`` anew from ``results/NAME``.

    KIND is results, autoencoders or binary, or bench for ``results/bench/NAME.md``. A block whose file does not exist
    is left as it is. Returns what was written, as ``KIND NAME``.
    """
    written = []

    def fill(match):
        kind, name = match[1], match[2]
        if kind == "bench":
            measured = Path(results) / "bench" / f"{name}.md"
            if not measured.exists():
                return match[0]
            written.append(f"{kind} {name}")
            return f"<!-- {kind} {name} -->\n{measured.read_text()}<!-- end -->"
        project_run, (file, table) = Run(name, results), README_TABLES[kind]
        if not project_run.path(file).exists():
            return match[0]
        written.append(f"{kind} {name}")
        rows = project_run.load_json(file)
        return f"<!-- {kind} {name} -->\n{table(rows)}\n\n{_provenance(rows, project_run.manifest)}\n<!-- end -->"

    pattern = rf"<!-- ({'|'.join(README_TABLES)}|bench) (\S+) -->\n.*?<!-- end -->"
    text = re.sub(pattern, fill, readme.read_text(), flags=re.S)
    with atomic_path(readme) as partial:
        partial.write_text(text)
    return written


#: The README's tables: the artifact they come from and the function that draws them.
README_TABLES = {
    "results": ("metrics.json", results_table),
    "autoencoders": ("autoencoders.json", family_table),
    "binary": ("binary_codes.json", binary_table),
}


def _provenance(rows, manifest):
    """The line under a table: protocol, date, machine."""
    machine, packages = manifest["machine"], manifest["packages"]
    protocol = re.sub(r"; seeds? [\d, ]+\.$", ".", rows[0]["protocol"])  # the seeds differ from row to row
    return (
        f"{protocol} Measured {max(row['measured'] for row in rows)}, {machine['system']} "
        f"{machine['architecture']}, {machine['cores']} cores, TensorFlow {packages['tensorflow']}."
    )
