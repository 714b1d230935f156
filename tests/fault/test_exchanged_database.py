"""A database that is exchanged for an older copy under a running hub, without any error."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.settings import HubSettings
from api.wiring.hub import OpenedHub, open_hub
from exchange.hub import background
from ledger.errors import LogBehind, LogDiverged
from ledger.log import append
from tests.fault.test_restored_backup import Hub, back_up, put_back, size_of
from tests.integration.test_log_keys import a_hub as a_hub_with_sm2
from tests.integration.test_wiring_hub import a_hub


@pytest.mark.parametrize("grown", [False, True])
def test_a_database_that_is_exchanged_between_two_rounds_is_noticed_without_any_error(
    tmp_path: Path, grown: bool
) -> None:
    """As when a replica that lags takes over: the pool connects anew, and nothing fails."""
    folder = tmp_path / "hub"
    settings = HubSettings.load(a_hub(folder))  # without witnesses, files or a chain
    hub = Hub(folder, [])

    def order(opened: OpenedHub) -> None:
        hub.say(opened)
        while background.order(opened.store, opened.operator, opened.keeping):
            pass

    opened = open_hub(settings)
    background.require_newest(opened.keeping)
    order(opened)
    back_up(folder, tmp_path / "backup")
    order(opened)
    opened.engine.dispose()  # what the pool does when it finds its connections dead
    put_back(tmp_path / "backup", folder)
    if grown:  # by a process that knows of nothing else
        other = open_hub(settings)
        for _ in range(3):
            order(other)
        other.close()
    before = size_of(folder)
    with pytest.raises(LogDiverged if grown else LogBehind, match="this process holds"):
        order(opened)
    opened.close()
    assert size_of(folder) == before


def test_the_database_that_was_compared_is_the_one_that_is_signed_from(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    settings = HubSettings.load(a_hub(folder))
    hub = Hub(folder, [])
    opened = open_hub(settings)
    back_up(folder, tmp_path / "backup")
    while background.order(opened.store, opened.operator, opened.keeping):
        pass
    opened.close()
    opened = open_hub(settings)
    background.require_newest(opened.keeping)
    opened.engine.dispose()
    put_back(tmp_path / "backup", folder)
    hub.say(opened)
    with pytest.raises(LogBehind):
        background.order(opened.store, opened.operator, opened.keeping)
    opened.close()


def test_of_a_database_that_was_exchanged_the_sm3_tree_is_not_signed_either(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "hub"
    settings = a_hub_with_sm2(folder, sm2=True)
    opened = open_hub(settings)
    back_up(folder, tmp_path / "backup")
    with opened.store.transaction() as tx:
        append(tx.log, b"what the copy lacks")
    while background.order(opened.store, opened.operator, opened.keeping):
        pass
    opened.engine.dispose()
    put_back(tmp_path / "backup", folder)
    other = open_hub(settings)
    while background.order(other.store, other.operator, other.keeping):
        pass
    with other.store.transaction() as tx:
        append(tx.log, b"another history")
    while background.order(other.store, other.operator, other.keeping):
        pass
    other.close()
    with pytest.raises(LogDiverged, match="this process holds"):
        background.follow_sm3(opened.store, opened.operator, opened.keeping)
    with opened.store.reading() as tx:
        assert tx.sm3.latest() is None
    opened.close()
