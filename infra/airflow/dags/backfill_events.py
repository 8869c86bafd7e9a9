"""One run per day, each with the folder of its day. For days that are past:

airflow backfill create --dag-id backfill_events --from-date 2026-11-01 --to-date 2026-11-26 --max-active-runs 1
"""

from datetime import datetime

from airflow.sdk import dag
from latentlake_airflow.latentlake import SubmitEmbeddingJobOperator


# A table has one writer: one run at a time. A backfill has a limit of its own.
@dag(schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["latentlake"])
def backfill_events():
    SubmitEmbeddingJobOperator(
        task_id="embed_day",
        job_file="jobs/events.yaml",
        overrides={"source.uri": "s3://lake/events/day={{ ds }}/"},
        slot="{{ ds }}",
    )


backfill_events()
