"""The explorer in a notebook: the page's own script as a widget, its requests answered by the notebook's kernel."""

import anywidget

from cbir_utils.explorer.server import HERE, SCRIPTS


class ExplorerWidget(anywidget.AnyWidget):
    """Shows an :class:`~cbir_utils.explorer.explorer.Explorer`; a message asks, with an ``id``, and gets its answer."""

    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    _css = HERE / "explorer.css"

    def __init__(self, explorer):
        super().__init__()
        self.explorer = explorer
        self.on_msg(lambda _, message, __: self.send({"id": message["id"], "answer": explorer.ask(message["request"])}))
