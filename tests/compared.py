"""How much nbval has rerun and compared, from its reports and the copies that it ran: the last line of `make test`."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat


def compared(folder):
    """The notebooks in ``folder`` whose cells all ran, of how many, and the cells whose output was compared."""
    rerun, cells, notebooks = 0, 0, sorted(folder.glob("*/notebooks/[0-9]*.ipynb"))
    passed = {
        (case.get("classname").removesuffix(".ipynb").split(".")[-1], case.get("name"))
        for report in folder.glob("*.xml")
        for case in ElementTree.parse(report).iter("testcase")
        if len(case) == 0  # no failure, error or skip inside
    }
    for path in notebooks:
        code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        ran = [(path.stem, f"Cell {number}") in passed for number in range(len(code))]
        rerun += all(ran)
        tagged = ["nbval-check-output" in cell.metadata.get("tags", []) for cell in code]
        cells += sum(one and other for one, other in zip(ran, tagged, strict=True))
    return rerun, len(notebooks), cells


if __name__ == "__main__":
    rerun, count, cells = compared(Path("results/check"))
    print(f"{rerun} of {count} notebooks rerun, {cells} cells compared")
    sys.exit(rerun < count)
