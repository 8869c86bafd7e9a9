"""Any program on a Ray cluster, without LatentLake."""

from airflow.sdk import dag
from latentlake_airflow.operators import SubmitRayJobOperator


@dag(schedule=None, tags=["latentlake"])
def plain_ray_job():
    SubmitRayJobOperator(task_id="count", entrypoint="python count.py", working_dir="programs")


plain_ray_job()
