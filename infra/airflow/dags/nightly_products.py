"""Every night: embed what is new or has changed. Readers of the tag `prod` see it once the gates have passed."""

from datetime import datetime, timedelta

from airflow.sdk import Asset, dag
from latentlake_airflow.latentlake import SubmitEmbeddingJobOperator

PRODUCTS = Asset("s3://lake/embeddings/products")


@dag(schedule="0 3 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["latentlake"])
def nightly_products():
    SubmitEmbeddingJobOperator(
        task_id="embed",
        job_file="jobs/products.yaml",
        outlets=[PRODUCTS],
        execution_timeout=timedelta(hours=6),
    )


nightly_products()
