"""Transactions of user programs (CreateTransaction and its relatives)."""

from __future__ import annotations

from kemu.nt.status import NTSTATUS
from kemu.nt.transaction import KTRANSACTION, commit, roll_back


class UserTransaction:
    """A transaction, as a program has it: files are opened in it, and it ends with one of these."""

    def __init__(self, label: str) -> None:
        self.object = KTRANSACTION(label)

    async def commit(self) -> NTSTATUS:
        """CommitTransaction; STATUS_TRANSACTION_ABORTED if a driver wanted a rollback.

        Drivers that only want to know the outcome are told by a thread of the system, maybe later.
        """
        return await commit(self.object)

    async def rollback(self) -> NTSTATUS:
        """RollbackTransaction."""
        return await roll_back(self.object)
