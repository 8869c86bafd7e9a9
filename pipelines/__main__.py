"""`python -m pipelines` is `latentlake`: what a Ray job's entrypoint calls."""

from pipelines.cli.main import program

program()
