"""`latentlake doctor`: what would keep a job from running, found before it runs. One file per subject."""

from pipelines.doctor.examine import examine
from pipelines.doctor.findings import DO, NOT_CHECKED, OK, Finding

__all__ = ["DO", "NOT_CHECKED", "OK", "Finding", "examine"]
