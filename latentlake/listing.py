"""Listing an object store: several stretches of its keys at once, given in the order of keys, with few pages in memory.

A store answers a thousand keys per request, and each request asks for what follows the last one. But it can be asked for what
follows any key, also one that does not exist. So whoever lists a stretch cuts it behind a prefix that the keys of its page
share, as folders and numbered or hashed names do, keeps the near part, and leaves the far one to another thread. Whatever the
place of a cut, no key is lost or given twice: what sorts up to it is of the near part.
"""

from __future__ import annotations

import string
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from obstore.exceptions import BaseError

from latentlake.retries import retried

Page = list[dict[str, Any]]  # what obstore says of each object

PAGE = 1000  # objects per request, at most
STRETCHES = 8  # that are listed at once
AHEAD = 8  # pages of a stretch that may wait for the reader, and of all but the one it reads,
WAITING = STRETCHES * AHEAD  # so many; further ones are not asked for
CUT_AT = sorted(string.digits + string.ascii_letters)  # last characters of a cut: a store's paths take them as they are


@dataclass
class Stretch:
    """Keys behind `after`, up to `until`; None: from the first, to the last. What follows it is `next`."""

    after: str | None = None
    until: str | None = None
    next: Stretch | None = None
    pages: deque[Page] = field(default_factory=deque)
    failure: Exception | None = None
    over: bool = False


def list_pages(store: Any, prefix: str, after: str | None = None, size: int = PAGE) -> Iterator[Page]:
    """Objects below a prefix, behind a key, `size` at a time. A page that broke off is asked for again."""
    import obstore

    pages, last = None, after

    @retried
    def next_page() -> Page:
        """The next objects; none behind the last."""
        nonlocal pages
        if pages is None:
            pages = iter(obstore.list(store, prefix=prefix or None, offset=last, chunk_size=size))
        try:
            return list(next(pages, ()))
        except BaseError:
            pages = None
            raise

    while page := next_page():
        last = page[-1]["path"]
        yield page


def list_ahead(store: Any, prefix: str, size: int = PAGE) -> Iterator[Page]:
    """What `list_pages` gives, in its order, asked for by several threads. For stores that can list from any key on."""
    listing = Listing(store, prefix, size)
    try:
        while (page := listing.next_page()) is not None:
            yield page
    finally:
        listing.close()


class Listing:
    """Stretches of the keys below a prefix, each listed by a thread of its own, and the one that is read now."""

    def __init__(self, store: Any, prefix: str, size: int) -> None:
        self._store, self._prefix, self._size = store, prefix, size
        self._changed = threading.Condition()
        self._at_work, self._waiting, self._closed = 0, 0, False  # threads, pages
        self._current: Stretch | None = Stretch()
        self._begin(self._current)

    def next_page(self) -> Page | None:
        """The next page, when it is there; None behind the last. Raises what its stretch failed with."""
        with self._changed:
            while (stretch := self._current) is not None:
                if stretch.pages:
                    self._waiting -= 1
                    self._changed.notify_all()
                    return stretch.pages.popleft()
                if stretch.failure is not None:
                    raise stretch.failure
                if stretch.over:
                    self._current = stretch.next
                    self._changed.notify_all()
                else:
                    self._changed.wait()
        return None

    def close(self) -> None:
        """Let the threads end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _begin(self, stretch: Stretch) -> None:
        self._at_work += 1
        threading.Thread(target=self._work, args=(stretch,), name="list", daemon=True).start()

    def _work(self, stretch: Stretch) -> None:
        """List a stretch to its end."""
        try:
            for page in list_pages(self._store, self._prefix, stretch.after, self._size):
                if not self._add(stretch, page):
                    break
        except Exception as failure:  # for `next_page`, when what is before has been read
            stretch.failure = failure
        finally:
            with self._changed:
                self._at_work -= 1
                stretch.over = True
                self._changed.notify_all()

    def _add(self, stretch: Stretch, page: Page) -> bool:
        """Add a page to a stretch when there is room, and leave what is far to another thread; whether the stretch has more."""
        with self._changed:
            while not self._closed and self._is_full(stretch):
                self._changed.wait()
            until = stretch.until
            near = page if until is None else list(takewhile(lambda item: item["path"] <= until, page))
            if near:
                stretch.pages.append(near)
                self._waiting += 1
                self._changed.notify_all()
            if self._closed or len(near) < len(page) or len(page) < self._size:
                return False
            if self._at_work < STRETCHES and (cut := find_cut(page, self._prefix, until)):
                stretch.next, stretch.until = Stretch(cut, until, stretch.next), cut
                self._begin(stretch.next)
            return True

    def _is_full(self, stretch: Stretch) -> bool:
        """Whether a stretch has to wait until pages are read."""
        return len(stretch.pages) >= AHEAD or (self._waiting >= WAITING and stretch is not self._current)


def find_cut(page: Page, prefix: str, until: str | None) -> str | None:
    """A key behind a full page, and before `until`, where another thread may begin; None if there is none.

    The page's keys share a prefix. Names with one character less of it, which may be ten times as many, are the first choice:
    the part that is kept should be some pages long. Then those with all of it; then those that share more with the last key.
    """
    first, last, root = page[0]["path"], page[-1]["path"], len(prefix) + bool(prefix)
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))))
    for length in (shared - 1, shared, shared + 1):
        cut = following(last[:length]) if root < length <= len(last) else None
        if cut is not None and last < cut and (until is None or cut < until):
            return cut
    return None


def following(name: str) -> str | None:
    """A name that sorts behind all that begin with `name`; None where its last character has no letter or digit behind it."""
    behind = next((character for character in CUT_AT if character > name[-1]), None)
    return None if behind is None else name[:-1] + behind
