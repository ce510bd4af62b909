"""Actor-critic: the cart-pole against a plain twin, the network's gradient, returns by hand, bursts
that are the serial algorithm.
"""

from __future__ import annotations

import importlib.util
import math
import pickle
from typing import Any

import numpy as np
import pytest

from optex_core.async_sgd.models.actor_critic import ActorCritic
from optex_core.async_sgd.models.cartpole import LIMIT, SOLVED, Poles, accelerate, failed
from optex_core.async_sgd.models.policy_network import PolicyNetwork
from optex_core.async_sgd.models.policy_training import ActorBurst, train_policy
from optex_core.async_sgd.records import BurstContext
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.testing import check_gradient


def twin(state: list[float], action: int) -> list[float]:
    """The equations of motion solved as two linear equations for the accelerations, from the
    Lagrangian: no algebra shared with the fast code.
    """
    x, v, angle, spin = state
    M, m, half, g, dt = 1.0, 0.1, 0.5, 9.8, 0.02
    force = 10.0 if action else -10.0
    # (M + m) x'' + m l cos(th) th'' = F + m l th'^2 sin(th);   m l cos(th) x'' + (4/3) m l^2 th'' = m g l sin(th)
    A = np.array(
        [[M + m, m * half * math.cos(angle)], [m * half * math.cos(angle), 4 / 3 * m * half**2]]
    )
    b = np.array([force + m * half * spin**2 * math.sin(angle), m * g * half * math.sin(angle)])
    pushed, turned = np.linalg.solve(A, b)
    return [x + dt * v, v + dt * pushed, angle + dt * spin, spin + dt * turned]


class TestCartPole:
    def test_it_is_the_plain_twin(self) -> None:
        random = np.random.default_rng(0)
        states, actions = random.uniform(-2, 2, (200, 4)), random.integers(0, 2, 200)
        expected = [twin(list(s), a) for s, a in zip(states, actions, strict=True)]
        # A solve of two equations against the closed form.
        np.testing.assert_allclose(accelerate(states, actions), expected, rtol=1e-12, atol=1e-13)

    def test_where_it_fails(self) -> None:
        degree = math.pi / 180
        states = np.array(
            [
                [2.39, 0, 0, 0],
                [2.41, 0, 0, 0],
                [-2.41, 0, 0, 0],
                [0, 0, 11.99 * degree, 0],
                [0, 0, -12.01 * degree, 9],
            ]
        )
        assert failed(states).tolist() == [False, True, True, False, True]

    def test_episodes_end_and_begin_anew(self) -> None:
        random = np.random.default_rng(1)
        poles = Poles(
            np.array([[0.0, 0, 0, 0], [2.39, 5.0, 0, 0], [0.0, 0, 0, 0]]),
            np.array([3, 7, LIMIT - 1]),
        )
        after, outcome = poles.step(np.array([0, 1, 1]), random)
        assert outcome.failed.tolist() == [False, True, False]
        assert outcome.ended.tolist() == [False, True, True]
        assert outcome.lengths.tolist() == [4, 8, LIMIT]
        assert after.ages.tolist() == [4, 0, 0]
        assert np.abs(after.states[1:]).max() <= 0.05
        np.testing.assert_array_equal(outcome.states, accelerate(poles.states, np.array([0, 1, 1])))
        np.testing.assert_array_equal(after.states[0], outcome.states[0])
        assert poles.ages.tolist() == [3, 7, LIMIT - 1]  # the old one is as it was

    @pytest.mark.parametrize("actions", [[0, 2], [0], [0.5, 1.0], [[0, 1]]])
    def test_bad_actions(self, actions: Any) -> None:
        poles = Poles.fresh(2, np.random.default_rng(0))
        with pytest.raises(
            ArgumentError, match=r"actions must be 2 numbers, each 0 \(left\) or 1 \(right\)"
        ):
            poles.step(actions, np.random.default_rng(0))

    def test_it_is_that_of_gymnasium(self) -> None:
        if importlib.util.find_spec("gymnasium") is None:
            pytest.skip("gymnasium is not installed")
        import gymnasium

        env = gymnasium.make("CartPole-v1")
        assert env.spec.max_episode_steps == LIMIT
        assert env.spec.reward_threshold == SOLVED
        random = np.random.default_rng(0)
        for seed in range(20):
            env.reset(seed=seed)
            state, ended, steps = np.array(env.unwrapped.state, float), False, 0
            while not ended:
                action = int(random.integers(2)) if seed % 2 else int(state[2] + 0.3 * state[3] > 0)
                _, reward, fell, cut, _ = env.step(action)
                state, steps = accelerate(state[None], np.array([action]))[0], steps + 1
                assert reward == 1.0
                assert bool(failed(state[None])[0]) is fell
                np.testing.assert_allclose(env.unwrapped.state, state, rtol=1e-12, atol=1e-14)
                ended = fell or cut
                assert cut is (steps >= LIMIT)
        env.close()


class TestNetwork:
    @pytest.mark.parametrize(
        "options",
        [{}, {"entropy": 0.0}, {"critic": 0.0}, {"actions": 5, "inputs": 3, "entropy": 0.1}],
    )
    def test_gradient(self, options: dict[str, Any]) -> None:
        network = PolicyNetwork(hidden=8, **options)
        random = np.random.default_rng(0)
        n = 20
        batch = (
            random.standard_normal((n, network.inputs)),
            random.integers(0, network.actions, n),
            random.standard_normal(n),
            random.standard_normal(n),
        )
        theta = network.start(1) + 0.3 * random.standard_normal(network.d)
        report = check_gradient(lambda x: network.loss(x, *batch), theta)
        assert report.ok, str(report)

    def test_loss_by_hand(self) -> None:
        # All parameters zero but the biases of the heads: probabilities 1/4 and 3/4, value 2.
        network = PolicyNetwork(hidden=3, entropy=0.1, critic=0.5)
        theta = np.zeros(network.d)
        theta[-3:] = 0.0, math.log(3.0), 2.0
        value, gradient = network.loss(
            theta, np.ones((1, 4)), np.array([1]), np.array([5.0]), np.array([3.0])
        )
        H = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
        assert value == pytest.approx(-3.0 * math.log(0.75) - 0.1 * H + 0.25 * 9.0, rel=1e-14)
        assert gradient[-1] == pytest.approx(0.5 * (2.0 - 5.0), rel=1e-14)
        assert gradient[-3] == pytest.approx(
            3.0 * 0.25 + 0.1 * 0.25 * (math.log(0.25) + H), rel=1e-13
        )

    def test_it_begins_undecided(self) -> None:
        network = PolicyNetwork()
        logits, values = network.forward(
            network.unpack(network.start(0)), np.random.default_rng(0).standard_normal((50, 4))
        )
        assert logits.shape == (50, 2)
        assert values.shape == (50,)
        assert np.abs(logits).max() < 0.1

    def test_bad_input(self) -> None:
        with pytest.raises(
            ArgumentError, match="this network has 4675 parameters, got an array of shape"
        ):
            PolicyNetwork().unpack(np.zeros(7))
        with pytest.raises(ArgumentError, match="actions must be an integer >= 2"):
            PolicyNetwork(actions=1)
        with pytest.raises(
            ArgumentTypeError, match="unknown option 'hiden'; did you mean 'hidden'"
        ):
            PolicyNetwork(hiden=3)  # type: ignore[call-arg]


class Scripted(PolicyNetwork):
    """Remembers what its loss was asked."""

    asked: list[Any] = []

    def loss(self, theta: Any, *batch: Any) -> Any:
        self.asked.append(batch)
        return super().loss(theta, *batch)


class TestReturns:
    def test_by_hand(self) -> None:
        # Three games: one goes on, one falls at its second step, one is cut off by the limit at its
        # first.
        settings = ActorCritic(network=Scripted(hidden=4), envs=3, steps=3, discount=0.9)
        theta = settings.network.start(3) + 0.2
        poles = Poles(
            np.array([[0.0, 0, 0, 0], [2.36, 1.9, 0, 0], [0.0, 0, 0, 0]]),
            np.array([0, 0, LIMIT - 1]),
        )
        _, after, lengths = settings.gradient(theta, poles, np.random.default_rng(0))
        states, actions, returns, advantages = Scripted.asked[-1]
        states, actions, returns = (
            states.reshape(3, 3, 4),
            actions.reshape(3, 3),
            returns.reshape(3, 3),
        )
        layers = settings.network.unpack(theta)

        def value(state: np.ndarray) -> float:
            return float(settings.network.forward(layers, state[None])[1][0])

        end = [accelerate(states[2][[i]], actions[2][[i]])[0] for i in range(3)]
        assert returns[0, 0] == pytest.approx(1 + 0.9 + 0.81 + 0.729 * value(end[0]), rel=1e-12)
        assert (returns[0, 1], returns[1, 1]) == pytest.approx((1.9, 1.0), rel=1e-12)
        assert returns[2, 1] == pytest.approx(1 + 0.9 * value(end[1]), rel=1e-12)
        cut = accelerate(states[0][[2]], actions[0][[2]])[0]
        assert returns[0, 2] == pytest.approx(1 + 0.9 * value(cut), rel=1e-12)
        assert returns[1, 2] == pytest.approx(1.9 + 0.81 * value(end[2]), rel=1e-12)
        np.testing.assert_allclose(
            advantages,
            returns.ravel() - settings.network.forward(layers, states.reshape(-1, 4))[1],
            rtol=1e-12,
        )
        assert lengths == [LIMIT, 2]
        assert after.ages.tolist() == [3, 1, 2]

    def test_long_gradients_are_clipped(self) -> None:
        settings = ActorCritic(clip=1e-3)
        g, _, _ = settings.gradient(
            settings.network.start(0),
            Poles.fresh(8, np.random.default_rng(0)),
            np.random.default_rng(0),
        )
        assert np.linalg.norm(g) == pytest.approx(1e-3, rel=1e-12)


def serial(settings: ActorCritic, seed: int, spawned: int) -> np.ndarray:
    """The algorithm without master or workers."""
    d = settings.network.d
    theta, squares = np.split(settings.start(seed), 2)
    random = np.random.default_rng([spawned, 0])
    poles = Poles.fresh(settings.envs, random)
    for t in range(settings.updates):
        g, poles, _ = settings.gradient(theta, poles, random)
        squares = settings.decay * squares + (1.0 - settings.decay) * g * g
        theta = theta - settings.rate_at(t) * g / (np.sqrt(squares) + settings.epsilon)
    assert theta.shape == (d,)
    return np.concatenate([theta, squares])


def context(number: int) -> BurstContext:
    return BurstContext(number, 0, 1, number)


class TestBurst:
    SHORT = ActorCritic(network=PolicyNetwork(hidden=8), updates=24)

    def test_one_worker_is_the_serial_algorithm(self) -> None:
        trained = train_policy(self.SHORT, parallelism=1, rng=5)
        from optex_core.async_sgd.master import burst_seed

        expected = serial(self.SHORT, 5, burst_seed(5, 0))
        np.testing.assert_array_equal(trained.x, expected)
        assert trained.report.deterministic

    def test_a_burst_composes_its_updates(self) -> None:
        # One worker: bursts of six updates end where single ones do, up to rounding.
        whole = train_policy(self.SHORT, parallelism=1, inner_steps=6, rng=5)
        single = train_policy(self.SHORT, parallelism=1, rng=5)
        np.testing.assert_allclose(whole.x, single.x, rtol=1e-9, atol=1e-12)
        assert (whole.master.version, single.master.version) == (4, 24)

    @pytest.mark.parametrize(
        "options",
        [
            {"parallelism": 4},
            {"parallelism": 3, "inner_steps": 4, "cores": 2},
            {"workers": "threads"},
        ],
    )
    def test_mean_squares_stay_positive(self, options: dict[str, Any]) -> None:
        trained = train_policy(self.SHORT, rng=2, **options)
        theta, squares = np.split(trained.x, 2)
        assert squares.min() >= 0.0
        assert squares.max() > 0.0
        assert np.isfinite(theta).all()
        assert trained.master.counts["gradients"] == 24

    def test_workers_play_their_own_games(self) -> None:
        burst = ActorBurst(self.SHORT)
        v = self.SHORT.start(0)
        one, other, again = burst.spawn(0, 11), burst.spawn(1, 12), burst.spawn(2, 11)
        first = one(v, 0, 0, context(0)).b
        assert not np.array_equal(first, other(v, 0, 0, context(0)).b)
        np.testing.assert_array_equal(first, again(v, 0, 0, context(0)).b)
        assert not np.array_equal(first, one(v, 0, 0, context(0)).b)  # the games have gone on

    def test_it_survives_pickling(self) -> None:
        burst = pickle.loads(pickle.dumps(ActorBurst(self.SHORT)))
        assert burst.spawn(0, 3)(self.SHORT.start(0), 0, 0, context(0)).gradients == 1

    def test_the_rate_falls_to_nothing(self) -> None:
        settings = ActorCritic(rate=0.1, updates=10)
        assert [settings.rate_at(t) for t in (0, 5, 10, 11)] == [0.1, 0.05, 0.0, 0.0]


class TestTraining:
    def test_it_learns(self) -> None:
        # 600 of 6,000 updates: from some 20 steps to well above 100 for every seed that was tried.
        settings = ActorCritic(updates=600, rate=5e-3)
        trained = train_policy(settings, parallelism=4, inner_steps=2, rng=0)
        assert trained.score() > 3 * settings.score(settings.start(0)).mean()
        assert trained.curve.shape[1] == 3
        assert trained.curve[-1, 2] > 3 * trained.curve[0, 2]

    def test_score(self) -> None:
        # Always to the left: the pole falls over within a dozen steps. Nothing depends on the seed
        # of the policy.
        settings = ActorCritic(network=PolicyNetwork(hidden=2))
        v = np.zeros(settings.d)
        lengths = settings.score(v, 30, rng=1)
        assert lengths.shape == (30,)
        assert 7 <= lengths.min() <= lengths.max() <= 12
        np.testing.assert_array_equal(lengths, settings.score(v, 30, rng=1))
        assert settings.score(v, 30, rng=1, greedy=False).mean() > lengths.mean()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"envs": 0}, "envs must be an integer >= 1"),
            ({"rate": 0.0}, "rate must be a number > 0"),
            ({"discount": 1.0}, "discount must be a number >= 0 and < 1"),
            ({"learning_rate": 0.1}, "unknown option 'learning_rate'"),
            ({"network": 64}, "network must be a PolicyNetwork, got 64"),
            (
                {"network": PolicyNetwork(inputs=3)},
                "a cart-pole has 4 numbers and 2 actions, the network 3 and 2",
            ),
        ],
    )
    def test_bad_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
            ActorCritic(**settings)

    def test_bad_input(self) -> None:
        with pytest.raises(ArgumentTypeError, match="settings must be an ActorCritic, got 7"):
            train_policy(7)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="cores must be at most inner_steps, got 2 and 1"):
            train_policy(cores=2)
        with pytest.raises(
            ArgumentTypeError, match="unknown option 'inner_step'; did you mean 'inner_steps'"
        ):
            train_policy(inner_step=2)
