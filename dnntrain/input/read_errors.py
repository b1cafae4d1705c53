"""Report files of a data set that the system does not let this user read. Imports no torch."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from dnntrain.errors import DataError, DnntrainError
from dnntrain.utils.explain_error import explain_lack_of_resources


@contextmanager
def explain_unreadable_data() -> Iterator[None]:
    """Raise DataError, which names the file, if the body cannot open or list one."""
    try:
        yield
    except DnntrainError:
        raise
    except OSError as error:
        if error.filename is None or error.errno == errno.ENAMETOOLONG or explain_lack_of_resources(error):
            raise
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}",
            "check the permissions; each folder needs x besides r, as in: chmod -R u+rX FOLDER",
        ) from None
