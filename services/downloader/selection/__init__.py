"""Which files of a repository make up the model that a reference names. Pure: nothing is asked here."""

from services.downloader.selection.choose import select_files
from services.downloader.selection.files import RemoteFile, Selection, SelectionError

__all__ = ["RemoteFile", "Selection", "SelectionError", "select_files"]
