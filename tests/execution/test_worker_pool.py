"""Calls that go to workers together: all are ready before the first begins, and one that cannot go stops no other."""

from __future__ import annotations

import time

from optex_core.execution.workers.pool import Fleet, Ride, Worker


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
