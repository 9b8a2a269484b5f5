"""Selects the files of the model that a reference names from a repository's listing. Pure."""

from services.downloader.selection.choose import select_files
from services.downloader.selection.files import RemoteFile, Selection, SelectionError

__all__ = ["RemoteFile", "Selection", "SelectionError", "select_files"]
