"""The parts of the studies: environments, step by step those of gymnasium, and gradients."""

from __future__ import annotations

import importlib.util

import _classic_control as control
import numpy as np
import pytest
from _q_network import QNetwork, evaluate

from optex_core import testing

ENVIRONMENTS = {
    "CartPole-v1": control.CartPole,
    "Acrobot-v1": control.Acrobot,
    "MountainCar-v0": control.MountainCar,
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_step_is_that_of_gymnasium(name):
    if importlib.util.find_spec("gymnasium") is None:
        pytest.skip("gymnasium is not installed")
    import gymnasium

    theirs, ours = gymnasium.make(name).unwrapped, ENVIRONMENTS[name]()
    assert theirs.action_space.n == ours.actions
    assert gymnasium.spec(name).max_episode_steps == ours.limit
    rng, over = np.random.default_rng(0), 0
    for episode in range(5):
        observation, _ = theirs.reset(seed=episode)
        for step in range(ours.limit):
            state = np.array(theirs.state, float)
            # now and then held in one direction, so that limits and goals are met
            action = 0 if step // 40 % 3 == 1 else int(rng.integers(ours.actions))
            if name == "MountainCar-v0" and episode:  # with the speed: it reaches the goal
                action = 2 if state[1] >= 0 else 0
            after, rewards, ended = ours.step(state[None], np.array([action]))
            observation, reward, terminated, *_ = theirs.step(action)
            np.testing.assert_allclose(after[0], np.array(theirs.state, float), rtol=1e-12,
                                       atol=1e-13)  # fmt: skip
            assert (rewards[0], ended[0]) == (reward, terminated)
            if name != "MountainCar-v0":  # whose speed ours shows in other units
                np.testing.assert_allclose(ours.observe(after)[0], observation, atol=1e-5)
            if terminated:
                over += 1
                break
    assert over or name == "Acrobot-v1"


def test_a_pole_left_alone_falls_and_one_pushed_back_stands():
    games = control.Games(control.CartPole(), 20, 0)
    ages = []
    for _ in range(200):
        *_, ended = games.step(np.zeros(20, int))
        ages.append(ended.any())
    assert any(ages[:15])
    games = control.Games(control.CartPole(), 20, 0)
    for _ in range(500):
        lean = games.states[:, 2] + 0.3 * games.states[:, 3] + 0.05 * games.states[:, 1]
        _, rewards, over, ended = games.step((lean > 0).astype(int))
        assert (rewards == 1.0).all()
        assert not over.any()
    assert ended.all()  # cut at 500, not over
    assert (games.ages == 0).all()


def test_an_acrobot_without_torque_keeps_its_energy():
    arm = control.Acrobot()
    states = np.random.default_rng(0).uniform(-1, 1, (8, 4))

    def energy(s):
        first, second, spin1, spin2 = s.T
        c2 = np.cos(second)
        kinetic = 0.5 * (0.25 + 1 + 0.25 + c2 + 2) * spin1**2
        kinetic += 0.5 * 1.25 * spin2**2 + (1.25 + 0.5 * c2) * spin1 * spin2
        # heights of the two centres of mass
        low = -0.5 * np.cos(first), -np.cos(first) - 0.5 * np.cos(first + second)
        return kinetic + 9.8 * (low[0] + low[1])

    before = energy(states)
    for _ in range(10):
        states, *_ = arm.step(states, np.ones(8, int))
    assert np.abs(energy(states) - before).max() < 0.05 * np.abs(before).max()


def test_a_car_that_pushes_with_its_speed_gets_up():
    games = control.Games(control.MountainCar(), 10, 1)
    reached = np.zeros(10, bool)
    for _ in range(199):
        _, rewards, over, _ = games.step(np.where(games.states[:, 1] >= 0, 2, 0))
        assert (rewards == -1.0).all()
        reached |= over
    assert reached.all()


def test_the_gradient_of_the_q_network():
    network, rng = QNetwork(3, 2), np.random.default_rng(0)
    batch = rng.standard_normal((16, 3)), rng.integers(2, size=16), rng.standard_normal(16)
    report = testing.check_gradient(lambda x: evaluate(network, x, batch), network.start(1))
    assert report, report


@pytest.mark.parametrize("name", ["digits", "characters"])
def test_the_gradients_of_the_networks(name):
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("scikit-learn is not installed")
    import networks

    one = networks.make(name, 0)
    report = testing.check_gradient(lambda x: one.fun(x, seed=3), one.x0)
    assert report, report
    assert one.fun(one.x0, seed=3)[0] != one.fun(one.x0, seed=4)[0]
    assert one.value(one.x0) == one.fun(one.x0, seed=None)[0]


def test_helices_and_subspaces_are_what_they_say():
    from estimation_error import AHEAD, NEW, D, drawn_rows

    X, G, new, true = drawn_rows(2, 0.0, 30, 0)
    assert np.linalg.matrix_rank(np.concatenate([X, new])) == 2
    assert X.shape == G.shape == (30, D)
    assert new.shape == true.shape == (NEW, D)
    X, _, new, _ = drawn_rows(0, 0.0, 128, 0)
    steps = np.linalg.norm(np.diff(np.concatenate([X, new]), axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    assert len(new) == AHEAD
    # new points are far from all rows but the last ones
    assert min(np.linalg.norm(X[:64] - x, axis=1).min() for x in new) > 1.0
