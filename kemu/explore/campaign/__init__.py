"""Exploration in batches: on several cores, in shards, on several machines, and with a directory to go on from.

- ``batch``      runs as data, and what comes of them as data: `run_batch` is all that a worker does
- ``source``     which batches there are: numbers of runs, or pieces of a search
- ``tree``       those of a reduced search, with samplers besides; ``frontier`` is what is left of the search
- ``crew``       who makes them: this process; ``processes`` of this machine; a ``cluster``
- ``total``      results added up
- ``conductor``  batches out, results in: `explore_in_batches`
- ``journal``    a campaign's directory

Whatever the crew, batches and their order are the same, and so is what comes of them.
"""

from __future__ import annotations

from kemu.explore.campaign.batch import Batch, BatchResult, Loader, Recipe, Sighting, Task, run_batch
from kemu.explore.campaign.conductor import explore_in_batches
from kemu.explore.campaign.crew import Alone, Crew
from kemu.explore.campaign.journal import Campaign, Entry, Journal, Manifest, open_campaign, read_campaign
from kemu.explore.campaign.processes import Processes
from kemu.explore.campaign.source import Shard

__all__ = [
    "Alone",
    "Batch",
    "BatchResult",
    "Campaign",
    "Crew",
    "Entry",
    "Journal",
    "Loader",
    "Manifest",
    "Processes",
    "Recipe",
    "Shard",
    "Sighting",
    "Task",
    "explore_in_batches",
    "open_campaign",
    "read_campaign",
    "run_batch",
]
