"""Runs whenever the nightly DAG has succeeded; the event says which version readers see, and whether it is a new one."""

from airflow.sdk import Asset, dag, task

PRODUCTS = Asset("s3://lake/embeddings/products")


@dag(schedule=[PRODUCTS], tags=["latentlake"])
def products_published():
    @task
    def tell(triggering_asset_events=None):
        for event in triggering_asset_events[PRODUCTS]:
            told = event.extra
            print(f"{told['table']}: version {told['version']}, tag {told['tag']}, {told['state']}")

    tell()


products_published()
