"""A new model, started by hand: embed all again under the tag `candidate`, ask a person, and give it to the readers of `prod`."""

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import dag
from latentlake_airflow.latentlake import RollbackTableOperator, SubmitEmbeddingJobOperator


@dag(schedule=None, max_active_runs=1, tags=["latentlake"])
def gated_upgrade():
    candidate = SubmitEmbeddingJobOperator(
        task_id="candidate",
        job_file="jobs/products_upgrade.yaml",
        overrides={"publish.tag": "candidate"},
    )
    approve = ApprovalOperator(
        task_id="approve",
        subject="Publish version {{ ti.xcom_pull('candidate')['version'] }} of products?",
        body="It is tagged `candidate`. {{ ti.xcom_pull('candidate')['rows_written'] }} rows were embedded.",
    )
    # It moves the tag to the version that was approved, and to no later one. Rejected, it is skipped.
    promote = RollbackTableOperator(
        task_id="promote",
        lake="s3://lake/embeddings",
        table="products",
        to="{{ ti.xcom_pull('candidate')['version'] }}",
    )
    candidate >> approve >> promote


gated_upgrade()
