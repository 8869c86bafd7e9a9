"""`python -m pipelines` is `latentlake`: what a Ray job's entrypoint calls."""

from pipelines.cli import main

main()
