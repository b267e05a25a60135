"""Files at addresses (`s3://bucket/run`, `gs://…`), through fsspec, and their copies on this machine.

A run or a model at an address is worked on in a folder of this machine's cache (`addresses.local_copy`) and mirrored,
so that everything else knows folders alone. Importing this package imports nothing heavy.
"""

from jslm.storage.addresses import is_address, local_copy, tidy
from jslm.storage.folders import DATA_LOCK, announce, data_folder, push_data
from jslm.storage.objects import Objects
from jslm.storage.stores import StorageError

__all__ = [
    "DATA_LOCK",
    "Objects",
    "StorageError",
    "announce",
    "data_folder",
    "is_address",
    "local_copy",
    "push_data",
    "tidy",
]
