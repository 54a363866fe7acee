"""Sphinx's settings for the site; build.py puts the pages beside a copy of this file."""

project = "Label-free image retrieval with autoencoders"
extensions = ["myst_nb"]
html_theme = "furo"  # light and dark, legible on a phone
html_title = project
html_extra_path = ["extra"]  # the explorer and the report: pages as they are
html_show_search_summary = False  # a page opened from the disk may not read the others
nb_execution_mode = "off"  # the outputs are those that the notebooks keep
nb_merge_streams = True
myst_heading_anchors = 3
# Links to files that are not pages lead to the repository; a widget that needs a kernel shows its plain text.
suppress_warnings = ["myst.xref_missing", "mystnb.unknown_mime_type", "mystnb.mime_priority", "myst.header"]
