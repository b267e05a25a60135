"""Raw files to clean documents: readers, cleaners, filters, deduplication, augmentation."""

from jslm.text.documents import Document, read_documents

__all__ = ["Document", "read_documents"]
