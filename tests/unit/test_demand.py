"""Who asks for what, and for how long a person's word holds."""

from schemas.instances import InstanceState
from services.supervisor.scheduling.demand import WISH_S, Demands
from services.supervisor.scheduling.scheduler import unbegun
from tests.unit.planning import instance

NONE: frozenset[str] = frozenset()


def test_the_time_of_waiting_begins_when_nobody_serves() -> None:
    demands = Demands()
    assert demands.look({"a": 2}, NONE, NONE, 10.0)["a"].since == 10.0
    assert demands.look({"a": 1}, NONE, NONE, 15.0)["a"].since == 10.0
    assert demands.look({"a": 1}, {"a"}, {"a"}, 20.0)["a"].since is None
    assert demands.look({"a": 1}, NONE, NONE, 25.0)["a"].since == 25.0
    assert demands.look({"a": 0}, NONE, NONE, 30.0) == {}


def test_a_wish_is_forgotten_when_it_is_fulfilled_or_too_old() -> None:
    demands = Demands()
    demands.wish("a", 10.0)
    demands.wish("b", 10.0)
    assert demands.look({}, NONE, NONE, 11.0).keys() == {"a", "b"}
    demands.fulfilled({"a"})
    assert demands.wanted == {"b"}
    assert demands.look({}, NONE, NONE, 11.0 + WISH_S) == {}


def test_a_stopped_model_stays_down_until_it_is_gone_and_asked_for() -> None:
    demands = Demands()
    demands.hold("a", 0.0)
    demands.look({"a": 1}, NONE, {"a"}, 1.0)
    assert demands.held == {"a"}, "what it still answers asks for nothing"
    demands.look({}, NONE, NONE, 2.0)
    assert demands.held == {"a"}
    demands.look({"a": 1}, NONE, NONE, 3.0)
    assert demands.held == NONE
    demands.hold("a", 3.0)
    demands.wish("a", 4.0)
    assert demands.held == NONE


def test_requests_that_a_leaving_instance_still_answers_do_not_wait() -> None:
    leaving = instance("a", state=InstanceState.DRAINING, busy=2)
    staying = instance("b", busy=2)
    assert unbegun({"a": 2, "b": 2}, (leaving, staying)) == {"a": 0, "b": 2}
    assert unbegun({"a": 3}, (leaving,)) == {"a": 1}
    assert unbegun({"a": 1}, (leaving,)) == {"a": 0}
