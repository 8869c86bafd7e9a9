"""What the SDK's messages say in Python, in the words of the command line."""

from __future__ import annotations

import re

# Patterns of what a message of `latentlake` or `operators` may say, and what a user of the command line is to do instead.
WORDS = (
    (r"Give a str \(text\), a pathlib\.Path \(a file\), .*", "Give a text, --file FILE or --id ROW."),
    (r"A str is always text: wrap a file's name in pathlib\.Path\.", "Give a file with --file FILE."),
    (r"give a query or `id=`, and not both", "give one of: a query, --file, --id"),
    (r"give `version` or `tag`, not both", "give --version or --tag, not both"),
    (r"a str, or a file of text as a Path", "as it is"),
    (r": a Path, or a PIL image", ": --file FILE"),
    (r"Or search with a vector, or with `id=`", "Or search with --id"),
    (r"name one with `column=`:", "name one with --column:"),
    (r"connect\(uri, models=\{'([^']*)': PATH\}\)", r"--model \1=PATH"),
    (r"connect\(uri, allow_hosts=\{'([^']*)'\}\)", r"--allow-host \1"),
    (r"connect\(uri, allow_models=\{'([^']*)'\}\)", r"--allow-model \1"),
    (r"connect\(uri, trust_remote_code=True\)", "--trust-remote-code"),
    (r"(?:connect\(uri, )?`?allow_downloads=True`?\)?", "--allow-downloads"),
    (r"`versions\(\)` lists them", "`latentlake versions URI TABLE` lists them"),
    (r"`rejects\(\)` may say why", "`latentlake rejects URI TABLE` may say why"),
    (r"`storage_options`", "--option"),
    (r"\bk is (\S+); it must", r"-k is \1; it must"),
    (r"\bwhere = ", "--where "),
    (r"evaluate with `record=False`", "evaluate with --no-record"),
    (r"`id=`", "--id"),
    (r"`column=`", "--column"),
)


def as_command(message: str) -> str:
    """A message without the SDK's words."""
    for pattern, words in WORDS:
        message = re.sub(pattern, words, message)
    return message
