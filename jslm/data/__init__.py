"""Raw text to batches: documents, cleaners, token files, the loader.

Only light names here: `jslm.data.loader` (grain) is imported by the verbs that train or evaluate.
"""

from jslm.data.documents import Document, read_documents
from jslm.data.token_file import TokenFile, open_tokens, read_meta, verify

__all__ = ["Document", "TokenFile", "open_tokens", "read_documents", "read_meta", "verify"]
