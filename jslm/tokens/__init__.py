"""Token files to batches: windows, packing, labels, mixtures, the loader.

Only light names here: `jslm.tokens.loader` (grain) is imported by the verbs that train or evaluate.
"""

from jslm.tokens.token_file import TokenFile, open_tokens, read_meta, verify

__all__ = ["TokenFile", "open_tokens", "read_meta", "verify"]
