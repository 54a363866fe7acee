"""The command line: runs the notebooks with papermill."""
