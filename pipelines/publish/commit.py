"""The Lance sink: fragments and the shard's record are written in tasks, one commit on the driver. See ADR 3."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import lance
import pyarrow as pa
from lance import LanceDataset, LanceOperation, Transaction
from lance.commit import CommitConflictError
from lance.file import LanceFileReader

from latentlake.keys import LOOK_UP_BLOCK
from latentlake.opening import read_transaction
from latentlake.retries import is_transient
from latentlake.storage import Storage
from latentlake.table import SUMMARY
from operators.errors import AccountingError, LatentLakeError, WriterConflict
from pipelines.flow.columns import merge_deletions, read_merged
from pipelines.planning.plan import Plan
from pipelines.planning.work import GONE, read_ids
from pipelines.publish.deletion import delete_objects
from pipelines.publish.tally import Tally
from pipelines.state.lease import Lease
from pipelines.state.ledger import open_dataset

log = logging.getLogger(__name__)

COMMIT_ATTEMPTS = 5


def prepare_table(plan: Plan) -> int | None:
    """Make the table what the run's fragments are written for; that version. None: there is no table yet.

    A version that readers were taken back to becomes the newest again, and columns that the job adds are there, all null.
    Commits of their own, which no tag follows: a run that dies after them leaves nothing that the next one cannot use.
    """
    if plan.base_version is None:
        return None
    table = table_of(plan)
    if plan.restores:
        table.checkout_version(plan.base_version).restore()
        table = table_of(plan)
        log.info("version %d is the newest again, as %d", plan.base_version, table.version)
    elif table.version != plan.base_version:
        raise conflict(plan, f"is at version {table.version}; this run was planned on {plan.base_version}")
    if plan.new_fields:
        table.add_columns(pa.schema(plan.new_fields))
        log.info("added columns %s", ", ".join(field.name for field in plan.new_fields))
    return int(table.version)


def table_of(plan: Plan) -> LanceDataset:
    """The table at its newest version. Raises `WriterConflict` where it is gone."""
    table = open_dataset(plan.spec.table.lake, plan.spec.table.name)
    if table is None:
        raise conflict(plan, "is gone")
    return table


def conflict(plan: Plan, what: str) -> WriterConflict:
    """The error for a table that another writer has changed since the run was planned."""
    return WriterConflict(
        f"table '{plan.spec.table.name}' {what}. A writer that does not hold the table's lease changed it meanwhile, and "
        "nothing of this run was published.\n  Run the job again: it builds on what is there now."
    )


def find_commit(table: LanceDataset | None, run_id: str, after: int) -> int | None:
    """The version that a run committed, looked for from the newest down to `after`; None where it has not.

    A version that a later one has gone back behind does not count.
    """
    version = after if table is None else int(table.version)
    while table is not None and version > after:
        transaction = read_transaction(table, version)
        if transaction is not None and (transaction.transaction_properties or {}).get("run_id") == run_id:
            return version
        restored = transaction is not None and isinstance(transaction.operation, LanceOperation.Restore)
        version = transaction.operation.version if restored else version - 1
    return None


def commit(plan: Plan, version: int | None, tally: Tally, summary: dict[str, Any], lease: Lease) -> int | None:
    """Make the run's fragments the table's, and delete the rows that they replace, in one commit; the new version.

    `version` is the table's as the fragments were written. None, and no commit, where there is nothing to change. A commit
    of this run that landed before is found, not repeated. Where a writer without the lease changed the table, this run
    goes on top: its objects' rows replace theirs. Raises `WriterConflict` where that cannot be, or where the lease is
    lost; `AccountingError` where the rows do not add up.
    """
    lake, name = plan.spec.table.lake, plan.spec.table.name
    found = find_commit(open_dataset(lake, name), plan.run_id, plan.base_version or 0)
    if found is not None:
        log.info("version %d was committed before", found)
        return found
    if not plan.replaces_all and not (tally.fragments or tally.replaced or tally.patches or plan.removes):
        return None
    check_files(plan, tally)
    properties = {"run_id": plan.run_id, "summary": SUMMARY.write(summary)}
    for _ in range(COMMIT_ATTEMPTS):
        lease.check()
        table = open_dataset(lake, name, block_size=LOOK_UP_BLOCK)
        if (table is None) != (version is None):
            raise conflict(plan, "was made" if version is None else "is gone")
        operation, expected = make_operation(plan, table, version, tally)
        read = 0 if table is None else int(table.version)
        transaction = Transaction(read, operation, transaction_properties={**properties, "fence": str(lease.fence)})
        target = f"{lake.lance_uri}/{name}.lance" if table is None else table
        try:
            done = LanceDataset.commit(target, transaction, storage_options=lake.lance_options, max_retries=0)
        except CommitConflictError:
            continue
        except OSError as failure:  # of a store whose answer was lost, say: Lance does not try the last step again
            if not is_transient(failure):
                raise
            landed = find_commit(open_dataset(lake, name), plan.run_id, read)
            if landed is None:
                continue
            done = table_of(plan).checkout_version(landed)
        if done.version == read + 1:
            check_rows(done, expected)
            return int(done.version)
        take_back(plan, int(done.version))
    raise conflict(plan, f"is changed all the time ({COMMIT_ATTEMPTS} attempts)")


def make_operation(
    plan: Plan, table: LanceDataset | None, version: int | None, tally: Tally
) -> tuple[LanceOperation.BaseOperation, int]:
    """What to commit to `table`, and how many rows it will then have."""
    fragments = [lance.FragmentMetadata.from_json(text) for text in tally.fragments]
    if table is None or plan.replaces_all:
        return LanceOperation.Overwrite(plan.schema, fragments), tally.rows
    before, merged = table.count_rows(), read_merged(plan.place) if tally.patches else []
    keys, number = replaced_keys(plan, tally), tally.replaced + plan.removes
    if table.version != version:
        check_schema(plan, table, table.checkout_version(version), merged)
        written = {name for piece in written_ids(plan, tally) for name in piece["object_id"].to_pylist()}
        others = {name for piece in keys for name in piece["object_id"].to_pylist()}
        keys = iter([pa.table({"object_id": pa.array(sorted(written | others), pa.string())})])
        number = len(written | others)
    elif not tally.replaced and not plan.removes and not merged:
        return LanceOperation.Append(fragments), before + tally.rows
    deletion = delete_objects(table, keys, number)
    operation = LanceOperation.Update(
        removed_fragment_ids=deletion.removed,
        updated_fragments=merge_deletions(merged, deletion.removed, deletion.updated),
        new_fragments=fragments,
        fields_modified=sorted({field for record in merged for field in record["fields"]}),
        update_mode="rewrite_columns" if merged else "",
    )
    return operation, before - deletion.rows + tally.rows


def replaced_keys(plan: Plan, tally: Tally) -> Iterator[pa.Table]:
    """Objects whose rows leave the table, each once, in pieces."""
    yield from tally.replaced_ids()
    if plan.removes:
        yield from read_ids(plan.place, GONE)


def written_ids(plan: Plan, tally: Tally) -> Iterator[pa.Table]:
    """Objects whose rows the run's fragments hold, in pieces."""
    data = plan.spec.table.lake.child(f"{plan.spec.table.name}.lance", "data")
    for text in tally.fragments:
        for file in json.loads(text)["files"]:
            uri = f"{data.lance_uri}/{file['path']}"
            for batch in LanceFileReader(uri, columns=["object_id"], **data.lance_arguments).read_all().to_batches():
                yield pa.Table.from_batches([batch])


def check_schema(
    plan: Plan, table: LanceDataset, written_for: LanceDataset, merged: Sequence[Mapping[str, Any]]
) -> None:
    """Raise `WriterConflict` unless what was written fits the table as another writer has left it.

    Its columns are those that were written for, and perhaps others; fragments that new columns were merged into are as
    they were.
    """
    now = {(field.name(), field.id()) for field in table.lance_schema.fields()}
    if not {(field.name(), field.id()) for field in written_for.lance_schema.fields()} <= now:
        raise conflict(plan, f"has other columns at version {table.version}")
    known = written_for.schema.names
    if required := [field.name for field in table.schema if field.name not in known and not field.nullable]:
        raise conflict(plan, f"has a column '{required[0]}' at version {table.version} that no row may lack")
    for record in merged:
        number = lance.FragmentMetadata.from_json(record["fragment"]).id
        found = table.get_fragment(number)
        if found is None or found.metadata != written_for.get_fragment(number).metadata:
            raise conflict(plan, f"has other rows at version {table.version}")


def check_files(plan: Plan, tally: Tally) -> None:
    """Raise `LatentLakeError` where a file of the run's fragments is gone: the commit would land, and break the table."""
    written = [*tally.fragments, *(record["fragment"] for record in read_merged(plan.place))]
    missing = named_files(written) - data_files(plan.spec.table.lake, plan.spec.table.name)
    if missing:
        raise LatentLakeError(
            f"{len(missing)} files that this run wrote are gone, the first is {sorted(missing)[0]}: was the table cleaned up? "
            "Nothing was committed.\n  Run the job again: it writes them again."
        )


def named_files(fragments: Iterable[str]) -> set[str]:
    """Data files that fragments (JSON) name."""
    return {file["path"] for text in fragments for file in json.loads(text)["files"]}


def data_files(lake: Storage, name: str) -> set[str]:
    """Data files that are there, of a table or on their way into it."""
    return set(lake.child(f"{name}.lance", "data").list_names())


def take_back(plan: Plan, version: int) -> None:
    """Bring back the version before ours, because another writer's commit came between our look at the table and ours."""
    table = table_of(plan)
    if table.version != version:
        raise conflict(
            plan, f"was changed before and after version {version}, which this run committed and no tag marks"
        )
    log.warning("another writer committed beside version %d; doing it again on top", version)
    table.checkout_version(version - 1).restore()


def check_rows(done: LanceDataset, expected: int) -> None:
    """Raise `AccountingError` unless the table holds as many rows as were kept and written."""
    rows = done.count_rows()
    if rows != expected:
        raise AccountingError(
            f"version {done.version} holds {rows} rows, {expected} are accounted for. The tag was not moved."
        )
