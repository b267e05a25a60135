"""The one exception for everything a user can mend."""

from __future__ import annotations


class JslmError(Exception):
    """Bad input, said in one line: the file or key, what was found, what was expected, what to do.

    The command line prints the message without a traceback and exits with status 2; `--debug` shows the traceback.
    """
