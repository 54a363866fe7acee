"""Executed notebooks as they are kept, without progress bars, and what a cell prints as one text: `make notebooks`."""

import re
import sys

import nbformat


def tidy(notebook):
    """Drop the bars of tqdm from the outputs, and join texts that follow each other; returns the notebook."""
    for cell in notebook.cells:
        kept = []
        for output in cell.get("outputs", []):
            if re.search(r"\d+%\|", output.get("data", {}).get("text/plain", "")):
                continue
            if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
            else:
                kept.append(output)
        if "outputs" in cell:
            cell.outputs = kept
    return notebook


if __name__ == "__main__":
    for path in sys.argv[1:]:
        nbformat.write(tidy(nbformat.read(path, as_version=4)), path)
