"""Every error that ctxembed raises on purpose; each also inherits the builtin it refines.

A message states the offending value, the limit, and the way out. The command line turns the
class into its exit code and prints the message alone.
"""


class CtxEmbedError(Exception):
    """Base of all errors of this package."""

    exit_code = 1


class InvalidInputError(CtxEmbedError, ValueError):
    """A value, option or input text that cannot be used as given."""


class MissingInputError(CtxEmbedError, FileNotFoundError):
    """A path that does not exist."""


class MissingLibraryError(CtxEmbedError, ImportError):
    """An optional library that the requested feature needs is not installed."""


class DiskFullError(CtxEmbedError, OSError):
    """There is no room for a file: nothing half-written is left, and what was finished before is kept."""


class ArtifactError(CtxEmbedError, ValueError):
    """A model, vector folder or index that is damaged, or artefacts that do not belong together."""

    exit_code = 3
