"""What ends in the threads of workers reaches the one that waits: all of it, once, in order, and together where it ends together."""

from __future__ import annotations

import threading
import time

import pytest

from optex_core.execution import arrivals
from optex_core.execution.arrivals import Arrivals
from optex_core.execution.fleet import Fleet, Ride, Worker


def test_what_is_there_comes_at_once_and_in_order():
    ended = Arrivals()
    for i in range(3):
        ended.put(i)
    assert ended.take(3, None) == [0, 1, 2]
    assert ended.take(1, 0.0) == []


def test_where_fewer_have_come_than_are_out_it_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(arrivals, "TOGETHER", 0.01)
    ended = Arrivals()
    ended.put("one")
    assert ended.take(2, None) == ["one"]


def test_those_that_end_together_come_together(monkeypatch):
    monkeypatch.setattr(arrivals, "TOGETHER", 60.0)
    ended, taken = Arrivals(), []
    reader = threading.Thread(target=lambda: taken.append(ended.take(4, None)))
    reader.start()
    for i in range(4):
        assert not taken
        ended.put(i)
    reader.join(30)
    assert taken == [[0, 1, 2, 3]]


def test_the_end_of_the_wait_counts_while_it_gathers(monkeypatch):
    monkeypatch.setattr(arrivals, "TOGETHER", 60.0)
    ended = Arrivals()
    ended.put(1)
    assert ended.take(2, 0.01) == [1]


@pytest.mark.parametrize("number", [1, 5, 10**6])
def test_nothing_is_lost_between_many_writers_and_a_reader(number, monkeypatch):
    monkeypatch.setattr(arrivals, "TOGETHER", 1e-4)
    ended, found = Arrivals(), []
    writers = [threading.Thread(target=lambda k=k: [ended.put((k, i)) for i in range(300)]) for k in range(5)]
    for writer in writers:
        writer.start()
    while len(found) < 1500:
        taken = ended.take(number, 30.0)
        assert taken
        found += taken
    assert sorted(found) == [(k, i) for k in range(5) for i in range(300)]
    assert all([i for j, i in found if j == k] == list(range(300)) for k in range(5))
    assert ended.take(1, 0.0) == []


class Still(Worker):
    """Notes what it is given."""

    def __init__(self, said):
        self.said = said

    def warm(self):
        up = Ride(())
        up.settle()
        return up

    def packed(self, args):
        self.said.append(("packed", *args))
        if args == ("bad",):
            raise ValueError("cannot be packed")
        return args

    def begin(self, ride, packed):
        self.said.append(("begun", *packed))
        ride.settle(result=packed)

    def end(self, *, wait=True):
        return True


def test_calls_that_are_sent_together_are_ready_before_the_first_begins():
    said = []
    fleet = Fleet(lambda: Still(said), 3)
    fleet.send("first").result(0)
    fleet.send("second")  # workers are made as they are needed
    with fleet.together():
        del said[:]
        rides = [fleet.send(i) for i in range(4)]
        assert not said
    assert sorted(ride.result(0) for ride in rides) == [(0,), (1,), (2,), (3,)]
    assert {what for what, *_ in said} == {"packed", "begun"}
    assert all(ride.since is not None and ride.since <= time.perf_counter() for ride in rides)
    fleet.close()


def test_a_call_that_cannot_be_packed_fails_alone():
    said = []
    fleet = Fleet(lambda: Still(said), 2)
    with fleet.together():
        rides = [fleet.send(word) for word in ("bad", "good", "bad", "fine")]
    assert [type(ride.exception(0)) for ride in rides] == [ValueError, type(None), ValueError, type(None)]
    assert fleet.send("later").result(0) == ("later",)
    fleet.close()
