"""Files of any kind, near or far, as a stream of raw documents.

`sources` finds the files that `data.source` names, `containers` opens compressed files and archives, and a module a
family of formats turns bytes into documents: `text`, `records` (JSON, CSV, Parquet) and `markup` (HTML, EPUB).
"""

from jslm.text.readers.formats import check_settings, format_name, peek, read_file
from jslm.text.readers.records import NoColumn
from jslm.text.readers.sources import InputFile, StoriesSource, find_files, parse_stories

__all__ = [
    "InputFile",
    "NoColumn",
    "StoriesSource",
    "check_settings",
    "find_files",
    "format_name",
    "parse_stories",
    "peek",
    "read_file",
]
