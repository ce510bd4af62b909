"""Actor-critic, an application of `async_sgd`: cart-poles, gradient, returns, bursts, training."""

from __future__ import annotations

import importlib.util
import math
import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
from actor_critic import (
    ActorBurst,
    ActorCritic,
    EnvironmentList,
    NumpyCartPoles,
    make_environments,
    train_policy,
)
from actor_critic.__main__ import main
from actor_critic.cartpole import LIMIT, SOLVED, accelerate, failed
from actor_critic.network import PolicyNetwork

from optex_core.async_sgd import BurstContext
from optex_core.async_sgd.state import burst_seed
from optex_core.testing import check_gradient


def reference_step(state: Any, action: int) -> list[float]:
    """The equations of motion as two linear equations for the accelerations, from the Lagrangian:
    no algebra shared with the application.
    """
    x, v, angle, spin = state
    M, m, half, g, dt = 1.0, 0.1, 0.5, 9.8, 0.02
    force, cosine, sine = 10.0 if action else -10.0, math.cos(angle), math.sin(angle)
    # (M + m) x'' + m l cos(th) th'' = F + m l th'^2 sin(th)
    # m l cos(th) x'' + (4/3) m l^2 th'' = m g l sin(th)
    A = np.array([[M + m, m * half * cosine], [m * half * cosine, 4 / 3 * m * half**2]])
    b = np.array([force + m * half * spin**2 * sine, m * g * half * sine])
    pushed, turned = np.linalg.solve(A, b)
    return [x + dt * v, v + dt * pushed, angle + dt * spin, spin + dt * turned]


class TestCartPole:
    def test_it_is_the_reference(self) -> None:
        random = np.random.default_rng(0)
        states, actions = random.uniform(-2, 2, (200, 4)), random.integers(0, 2, 200)
        expected = [reference_step(s, a) for s, a in zip(states, actions, strict=True)]
        # A solve of two equations against the closed form.
        np.testing.assert_allclose(accelerate(states, actions), expected, rtol=1e-12, atol=1e-13)

    def test_where_it_fails(self) -> None:
        degree = math.pi / 180
        x, angle = [2.39, 2.41, -2.41, 0, 0], [0, 0, 0, 11.99 * degree, -12.01 * degree]
        states = np.stack([x, np.zeros(5), angle, np.full(5, 9.0)], axis=1)
        assert failed(states).tolist() == [False, True, True, False, True]

    def test_episodes_end_and_begin_anew(self) -> None:
        poles = NumpyCartPoles(3, seed=1)
        start = np.array([[0.0, 0, 0, 0], [2.39, 5.0, 0, 0], [0.0, 0, 0, 0]])
        poles.states, poles.ages = start, np.array([3, 7, LIMIT - 1])
        result = poles.step(np.array([0, 1, 1]))
        assert result.terminated.tolist() == [False, True, False]
        assert result.ended.tolist() == [False, True, True]
        assert result.lengths.tolist() == [4, 8, LIMIT]
        assert poles.ages.tolist() == [4, 0, 0]
        assert np.abs(poles.states[1:]).max() <= 0.05
        np.testing.assert_array_equal(result.states, accelerate(start, np.array([0, 1, 1])))
        np.testing.assert_array_equal(poles.states[0], result.states[0])

    def test_that_of_gymnasium_is_the_same(self) -> None:
        gymnasium = pytest.importorskip("gymnasium")
        theirs = make_environments(partial(gymnasium.make, "CartPole-v1"), 20, 0)
        ours = make_environments("CartPole-v1", 20, 0)
        assert isinstance(theirs, EnvironmentList)
        assert isinstance(ours, NumpyCartPoles)
        random = np.random.default_rng(0)
        ended = 0
        for _ in range(LIMIT + 100):
            ours.states, ours.ages = theirs.states.copy(), theirs._lengths.copy()
            states = theirs.states
            actions = (states[:, 2] + 0.3 * states[:, 3] > 0).astype(int)
            actions[::2] = random.integers(0, 2, 10)
            one, other = theirs.step(actions), ours.step(actions)
            # gymnasium gives its states in float32.
            np.testing.assert_allclose(one.states, other.states, rtol=1e-5, atol=1e-6)
            for name in ("rewards", "terminated", "ended", "lengths", "returns"):
                assert getattr(one, name).tolist() == getattr(other, name).tolist()
            ended += int(one.ended.sum())
        assert ended > 20


class Corridor:
    """Five places in a row; action 3 goes left, 5 right, 4 stays. -1 a move, +10 at the right end;
    cut off after 20 moves.
    """

    class action_space:  # noqa: N801
        n, start = 3, 3

    class observation_space:  # noqa: N801
        shape = (1, 2)

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.place = self.moves = 0
        return self.state(), {}

    def state(self) -> np.ndarray:
        return np.array([[self.place / 4, 1.0]], np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place, self.moves = max(0, self.place + action - 4), self.moves + 1
        done = self.place == 4
        return self.state(), 9.0 if done else -1.0, done, self.moves == 20, {}


class TestEnvironments:
    def test_one_of_ones_own_by_hand(self) -> None:
        envs = make_environments(Corridor, 2, 0)
        assert (envs.inputs, envs.actions) == (2, 3)
        for _ in range(3):
            envs.step(np.array([2, 1]))
        result = envs.step(np.array([2, 0]))
        assert result.rewards.tolist() == [9.0, -1.0]
        assert result.returns.tolist() == [6.0, -4.0]
        assert result.terminated.tolist() == result.ended.tolist() == [True, False]
        assert result.states.tolist() == [[1.0, 1.0], [0.0, 1.0]]
        assert envs.states.tolist() == [[0.0, 1.0], [0.0, 1.0]]  # the first began anew
        for _ in range(16):
            result = envs.step(np.array([1, 1]))
        assert (result.terminated.any(), result.ended.tolist()) == (False, [False, True])
        assert result.lengths.tolist() == [16, 20]

    def test_it_is_learned(self) -> None:
        settings = ActorCritic(env=Corridor, steps=400)
        trained = train_policy(settings, parallelism=2, rng=0)
        assert trained.score(10) == 6.0
        assert settings.score(settings.start(0), 10, greedy=False).mean() < 0.0

    def test_what_cannot_be_played_is_refused(self) -> None:
        class Continuous(Corridor):
            class action_space:  # noqa: N801
                shape = (1,)

        with pytest.raises(ValueError, match="must have discrete actions"):
            ActorCritic(env=Continuous)
        with pytest.raises(ValueError, match="network must have inputs=2 and actions=3"):
            ActorCritic(env=Corridor, network=PolicyNetwork())
        if importlib.util.find_spec("gymnasium") is None:
            with pytest.raises(ImportError, match="env='Acrobot-v1' needs gymnasium"):
                ActorCritic(env="Acrobot-v1")

    def test_spaces_of_gymnasium(self) -> None:
        gymnasium = pytest.importorskip("gymnasium")
        make = partial(gymnasium.make, "FrozenLake-v1")
        envs = make_environments(make, 2, 0)
        assert (envs.inputs, envs.actions) == (16, 4)
        assert envs.states.tolist() == [[1.0] + 15 * [0.0]] * 2

    @pytest.mark.slow
    def test_acrobot_of_gymnasium(self) -> None:
        pytest.importorskip("gymnasium")
        trained = train_policy(ActorCritic(env="Acrobot-v1", steps=3000), parallelism=1, rng=0)
        assert trained.score() > -100.0  # counts as solved


class TestNetwork:
    @pytest.mark.parametrize(
        "options", [{"entropy": 0.0}, {"critic": 0.0}, {"actions": 5, "inputs": 3, "entropy": 0.1}]
    )
    def test_gradient(self, options: dict[str, Any]) -> None:
        network = PolicyNetwork(hidden=8, **options)
        random, n = np.random.default_rng(0), 20
        states = random.standard_normal((n, network.inputs))
        actions = random.integers(0, network.actions, n)
        returns, advantages = random.standard_normal((2, n))
        theta = network.start(1) + 0.3 * random.standard_normal(network.d)
        report = check_gradient(
            lambda x: network.loss(x, states, actions, returns, advantages), theta
        )
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
        expected = 3.0 * 0.25 + 0.1 * 0.25 * (math.log(0.25) + H)
        assert gradient[-3] == pytest.approx(expected, rel=1e-13)

    def test_it_begins_undecided(self) -> None:
        network = PolicyNetwork()
        states = np.random.default_rng(0).standard_normal((50, 4))
        logits, values = network.forward(network.unpack(network.start(0)), states)
        assert (logits.shape, values.shape) == ((50, 2), (50,))
        assert np.abs(logits).max() < 0.1
        with pytest.raises(ValueError, match="this network has 4675 parameters, got shape"):
            network.unpack(np.zeros(7))


class Recording(PolicyNetwork):
    """Remembers the arguments of its loss."""

    batches: list[Any] = []

    def loss(self, theta: Any, *batch: Any) -> Any:
        self.batches.append(batch)
        return super().loss(theta, *batch)


class TestReturns:
    def test_by_hand(self) -> None:
        # Three games: one goes on, one falls at its second step, one is cut off by the limit at its
        # first.
        settings = ActorCritic(network=Recording(hidden=4), envs=3, horizon=3, discount=0.9)
        theta = settings.network.start(3) + 0.2
        poles = NumpyCartPoles(3, seed=0)
        poles.states = np.array([[0.0, 0, 0, 0], [2.36, 1.9, 0, 0], [0.0, 0, 0, 0]])
        poles.ages = np.array([0, 0, LIMIT - 1])
        _, scores = settings.gradient(theta, poles, np.random.default_rng(0), t=1500)
        states, actions, returns, advantages, entropy = Recording.batches[-1]
        assert entropy == pytest.approx(0.75 * settings.network.entropy, rel=1e-15)
        values = settings.network.forward(settings.network.unpack(theta), states)[1]
        np.testing.assert_allclose(advantages, returns - values, rtol=1e-12)
        states, actions, returns = (a.reshape(3, 3, -1) for a in (states, actions, returns))
        layers = settings.network.unpack(theta)

        def value(state: np.ndarray) -> float:
            return float(settings.network.forward(layers, state[None])[1][0])

        end = [accelerate(states[2][[i]], actions[2][i])[0] for i in range(3)]
        # r = 0.1, the mean of rewards of 1 from now on with discount 0.9
        expected = 0.1 * (1 + 0.9 + 0.81) + 0.729 * value(end[0])
        assert returns[0, 0] == pytest.approx(expected, rel=1e-12)
        assert (returns[0, 1], returns[1, 1]) == pytest.approx((0.19, 0.1), rel=1e-12)
        assert returns[2, 1] == pytest.approx(0.1 + 0.9 * value(end[1]), rel=1e-12)
        cut = accelerate(states[0][[2]], actions[0][2])[0]
        assert returns[0, 2] == pytest.approx(0.1 + 0.9 * value(cut), rel=1e-12)
        assert returns[1, 2] == pytest.approx(0.19 + 0.81 * value(end[2]), rel=1e-12)
        assert scores == [LIMIT, 2.0]
        assert poles.ages.tolist() == [3, 1, 2]

    def test_long_gradients_are_clipped(self) -> None:
        settings = ActorCritic(clip=1e-3)
        theta, poles = settings.network.start(0), NumpyCartPoles(8, seed=0)
        g, _ = settings.gradient(theta, poles, np.random.default_rng(0))
        assert np.linalg.norm(g) == pytest.approx(1e-3, rel=1e-12)


SHORT = ActorCritic(network=PolicyNetwork(hidden=8), steps=24)


def serial(settings: ActorCritic, seed: int, spawned: int) -> np.ndarray:
    """The algorithm without master or workers."""
    theta, squares = np.split(settings.start(seed), 2)
    random = np.random.default_rng([spawned, 0])
    poles = NumpyCartPoles(settings.envs, int(random.integers(2**31)))
    for t in range(settings.steps):
        g, _ = settings.gradient(theta, poles, random, t)
        squares = settings.decay * squares + (1.0 - settings.decay) * g * g
        theta = theta - settings.rate_at(t) * g / (np.sqrt(squares) + settings.epsilon)
    return np.concatenate([theta, squares])


def context(number: int) -> BurstContext:
    return BurstContext(number, 0, 1, number, part=number)


class TestBurst:
    def test_one_worker_is_the_serial_algorithm(self) -> None:
        trained = train_policy(SHORT, parallelism=1, rng=5)
        np.testing.assert_array_equal(trained.x, serial(SHORT, 5, burst_seed(5, 0)))
        assert trained.report.deterministic

    def test_a_burst_composes_its_steps(self) -> None:
        # One worker: bursts of six steps end where single ones do, up to rounding.
        whole = train_policy(SHORT, parallelism=1, inner_steps=6, rng=5)
        single = train_policy(SHORT, parallelism=1, rng=5)
        np.testing.assert_allclose(whole.x, single.x, rtol=1e-9, atol=1e-12)
        assert (whole.master.version, single.master.version) == (4, 24)

    @pytest.mark.parametrize(
        "options",
        [
            {"parallelism": 4},
            {"parallelism": 3, "inner_steps": 4, "cores": 2},
            {"parallelism": 2, "inner_steps": 4, "cores": 2, "workers": 2},
        ],
    )
    def test_mean_squares_stay_positive(self, options: dict[str, Any]) -> None:
        trained = train_policy(SHORT, rng=2, **options)
        theta, squares = np.split(trained.x, 2)
        assert squares.min() >= 0.0
        assert squares.max() > 0.0
        assert np.isfinite(theta).all()
        assert trained.master.counts["gradients"] == 24

    def test_workers_play_their_own_games(self) -> None:
        burst = pickle.loads(pickle.dumps(ActorBurst(SHORT)))
        v = SHORT.start(0)
        one, other, again = burst.spawn(0, 11), burst.spawn(1, 12), burst.spawn(2, 11)
        first = one(v, context(0)).b
        assert not np.array_equal(first, other(v, context(0)).b)
        np.testing.assert_array_equal(first, again(v, context(0)).b)
        assert not np.array_equal(first, one(v, context(0)).b)  # the games have gone on

    def test_the_rate_falls_to_nothing(self) -> None:
        settings = ActorCritic(rate=0.1, steps=10)
        assert [settings.rate_at(t) for t in (0, 5, 10, 11)] == [0.1, 0.05, 0.0, 0.0]


class TestTraining:
    def test_it_learns(self) -> None:
        # 600 of 6,000 steps: from some 20 steps to well above 100 for every seed that was tried.
        settings = ActorCritic(steps=600, rate=5e-3)
        trained = train_policy(settings, parallelism=4, inner_steps=2, rng=0)
        assert trained.score() > 3 * settings.score(settings.start(0), 100).mean()

    def test_score(self) -> None:
        # Always to the left: the pole falls over within a dozen steps.
        settings = ActorCritic(network=PolicyNetwork(hidden=2))
        v = np.zeros(2 * settings.network.d)
        lengths = settings.score(v, 30, rng=1)
        assert 7 <= lengths.min() <= lengths.max() <= 12
        np.testing.assert_array_equal(lengths, settings.score(v, 30, rng=1))
        assert settings.score(v, 30, rng=1, greedy=False).mean() > lengths.mean()

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="discount must be at least 0 and below 1, got 1"):
            ActorCritic(discount=1)
        for name in ("envs", "rate", "clip"):
            with pytest.raises(ValueError, match=f"{name} must be above 0, got 0"):
                ActorCritic(**{name: 0})
        with pytest.raises(ValueError, match="cores must be from 1 to inner_steps=1, got 2"):
            train_policy(cores=2)
        master = train_policy(SHORT, rng=1).master
        with pytest.raises(ValueError, match="master is of another run"):
            train_policy(SHORT, rng=2, master=master)

    def test_the_script_runs(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(["--quick"])
        assert "mean return of 100 new episodes" in capsys.readouterr().out

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "options",
        [
            {"parallelism": 1},
            {"parallelism": 4, "cores": 2, "inner_steps": 4, "workers": 4, "max_delay": 8},
        ],
    )
    def test_poles_are_balanced(self, options: dict[str, Any]) -> None:
        trained = train_policy(rng=0, on_late="wait", **options)
        assert trained.score() >= SOLVED
        assert trained.score(greedy=False) >= SOLVED
