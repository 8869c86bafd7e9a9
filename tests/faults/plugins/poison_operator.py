"""An operator of a third party that raises, kills its process, or hangs, on marked texts."""

from __future__ import annotations

import ctypes
import re
import time

from operators.batch import Batch
from operators.preprocess import operator


@operator("text")
def poison_text(batch: Batch) -> Batch:
    """The batch as it is, unless a text is marked."""
    for text in batch["text"]:
        if text is not None and "poisonoperator" in text:
            raise RuntimeError("the operator does not like this")
        if text is not None and "poisonreader" in text:
            ctypes.string_at(0)
        if text is not None and "poisonsleepoperator" in text:
            time.sleep(3600)
        if text is not None and "poisonlockoperator" in text:
            re.match(r"(a+)+$", "a" * 60 + "b")  # holds the interpreter's lock, and never ends
    return batch
