"""Demand: queued requests, and how long start and stop commands hold."""

from schemas.instances import InstanceState
from services.supervisor.scheduler.demand import START_EXPIRY_S, DemandTracker
from services.supervisor.scheduler.snapshot import unserved
from tests.unit.planning_worlds import instance

NONE: frozenset[str] = frozenset()


def test_a_model_waits_since_no_instance_is_ready() -> None:
    demand = DemandTracker()
    assert demand.update({"a": 2}, NONE, NONE, 10.0)["a"].since == 10.0
    assert demand.update({"a": 1}, NONE, NONE, 15.0)["a"].since == 10.0
    assert demand.update({"a": 1}, {"a"}, {"a"}, 20.0)["a"].since is None
    assert demand.update({"a": 1}, NONE, NONE, 25.0)["a"].since == 25.0
    assert demand.update({"a": 0}, NONE, NONE, 30.0) == {}


def test_a_start_command_ends_when_it_is_carried_out_or_expired() -> None:
    demand = DemandTracker()
    demand.request_start("a", 10.0)
    demand.request_start("b", 10.0)
    assert demand.update({}, NONE, NONE, 11.0).keys() == {"a", "b"}
    demand.complete({"a"})
    assert demand.start_requested == {"b"}
    assert demand.update({}, NONE, NONE, 11.0 + START_EXPIRY_S) == {}


def test_stop_holds_until_the_model_is_stopped_and_requested_again() -> None:
    demand = DemandTracker()
    demand.request_stop("a", 0.0)
    demand.update({"a": 1}, NONE, {"a"}, 1.0)
    assert demand.stop_requested == {"a"}, "requests in flight are no new demand"
    demand.update({}, NONE, NONE, 2.0)
    assert demand.stop_requested == {"a"}
    demand.update({"a": 1}, NONE, NONE, 3.0)
    assert demand.stop_requested == NONE
    demand.request_stop("a", 3.0)
    demand.request_start("a", 4.0)
    assert demand.stop_requested == NONE


def test_requests_that_a_stopping_instance_answers_need_no_start() -> None:
    stopping = instance("a", state=InstanceState.DRAINING, busy=2)
    staying = instance("b", busy=2)
    assert unserved({"a": 2, "b": 2}, (stopping, staying)) == {"a": 0, "b": 2}
    assert unserved({"a": 3}, (stopping,)) == {"a": 1}
    assert unserved({"a": 1}, (stopping,)) == {"a": 0}


def test_a_copy_leaves_the_demand_as_it_is() -> None:
    demand = DemandTracker()
    demand.request_start("a", 0.0)
    demand.request_stop("b", 0.0)
    demand.update({"b": 1}, NONE, {"b"}, 1.0)
    preview = demand.copy()
    preview.request_start("c", 2.0)
    preview.update({"b": 1, "d": 1}, NONE, NONE, START_EXPIRY_S + 2.0)
    assert (demand.start_requested, demand.stop_requested) == ({"a"}, {"b"})
    assert demand.update({"b": 1, "d": 1}, NONE, {"b"}, 3.0)["d"].since == 3.0
