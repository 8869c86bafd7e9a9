"""Every Sunday: compact the table, merge its indexes, remove old versions."""

from datetime import datetime

from airflow.sdk import dag
from latentlake_airflow.latentlake import MaintainTableOperator


@dag(schedule="0 5 * * 0", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["latentlake"])
def weekly_upkeep():
    MaintainTableOperator(task_id="maintain", lake="s3://lake/embeddings", table="products", keep_days=14)


weekly_upkeep()
