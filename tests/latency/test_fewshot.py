import numpy as np
import pytest

from edgenas.errors import SpecError
from edgenas.latency.fewshot import FewShot, Floats


def pool(n: int = 300, *, seed: int = 0, noise: float = 0.0) -> tuple[Floats, Floats]:
    """Features (counts of operators) and the latencies of five devices, additive in them."""
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 5, size=(n, 4)).astype(float)
    cost = rng.uniform(0.2, 2.0, size=(4, 5))
    known = (1 + features @ cost) * rng.uniform(0.5, 5, size=5)
    return features, known * np.exp(noise * rng.standard_normal(known.shape))


def error(found: Floats, truth: Floats) -> float:
    return float(np.median(np.abs(found / truth - 1)))


def test_a_mix_of_known_devices_is_recovered() -> None:
    features, known = pool()
    truth = known @ np.array([0.2, 0.0, 0.5, 0.0, 0.3])
    model = FewShot(known, features=[features])
    rows = model.choose(10)
    found = model.adapt(rows, truth[rows].tolist())
    assert float(np.max(np.abs(found.latency_ms / truth - 1))) < 0.02
    assert np.corrcoef(found.latency_ms, truth)[0, 1] > 0.9999


def test_a_copy_of_a_known_device_gets_its_weight() -> None:
    _, known = pool()
    model = FewShot(known)
    rows = model.choose(6)
    found = model.adapt(rows, (3 * known[rows, 2]).tolist())
    assert found.weights.argmax() == 2
    assert error(found.latency_ms, 3 * known[:, 2]) < 0.01


def test_everything_is_positive_even_from_absurd_measurements() -> None:
    features, known = pool()
    model = FewShot(known, features=[features])
    found = model.adapt([0, 1, 2, 3], [1e-3, 1e3, 1e-3, 1e3])
    for values in (found.low_ms, found.latency_ms, found.high_ms):
        assert np.isfinite(values).all()
        assert (values > 0).all()
    assert (found.low_ms <= found.latency_ms).all()
    assert (found.latency_ms <= found.high_ms).all()


def test_the_interval_shrinks_with_samples_and_covers() -> None:
    features, known = pool(400, noise=0.03)
    rng = np.random.default_rng(5)
    truth = (1 + features @ np.array([1.5, 0.3, 0.8, 1.0])) * np.exp(
        0.03 * rng.standard_normal(400)
    )
    model = FewShot(known, features=[features])
    widths = []
    for k in (4, 10, 60):
        rows = model.choose(k)
        found = model.adapt(rows, truth[rows].tolist())
        widths.append(float(np.median((found.high_ms - found.low_ms) / found.latency_ms)))
    assert widths[0] > widths[1] > widths[2]
    assert np.mean((found.low_ms <= truth) & (truth <= found.high_ms)) > 0.75


def test_order_of_networks_and_devices_does_not_matter() -> None:
    features, known = pool(noise=0.05)
    truth = known @ np.array([0.5, 0.1, 0.0, 0.4, 0.0])
    rng = np.random.default_rng(1)
    nets, devices = rng.permutation(len(known)), rng.permutation(known.shape[1])
    one = FewShot(known, features=[features])
    other = FewShot(known[nets][:, devices], features=[features[nets]])
    rows = one.choose(8)
    assert sorted(int(nets[row]) for row in other.choose(8)) == sorted(rows)
    first = one.adapt(rows, truth[rows].tolist())
    where = np.argsort(nets)[rows][::-1]
    second = other.adapt(where.tolist(), truth[nets][where].tolist())
    assert second.latency_ms == pytest.approx(first.latency_ms[nets], rel=1e-6)
    assert second.high_ms == pytest.approx(first.high_ms[nets], rel=1e-6)


def test_a_misleading_device_does_not_hurt_much() -> None:
    features, known = pool(noise=0.02)
    truth = known @ np.array([0.5, 0.1, 0.0, 0.4, 0.0])
    noise = np.exp(np.random.default_rng(3).standard_normal((len(known), 1)))
    errors = []
    for columns in (known, np.hstack([known, noise])):
        model = FewShot(columns, features=[features])
        rows = list(range(10))
        errors.append(error(model.adapt(rows, truth[rows].tolist()).latency_ms, truth))
    assert errors[1] < errors[0] + 0.03


def test_choosing_needs_no_measurement_and_repeats_itself() -> None:
    features, known = pool()
    model = FewShot(known, features=[features])
    rows = model.choose(5, among=range(0, 300, 7))
    assert len(set(rows)) == 5
    assert all(row % 7 == 0 for row in rows)
    assert model.choose(5, among=range(0, 300, 7)) == rows
    for k, among in ((0, None), (301, None), (3, [1, 2])):
        with pytest.raises(SpecError, match="cannot be chosen"):
            model.choose(k, among=among)


@pytest.mark.parametrize(
    "known", [[[1.0], [0.0]], [[1.0], [float("nan")]], [1.0, 2.0], [[1.0]], [[], []]]
)
def test_latencies_that_are_none(known: object) -> None:
    with pytest.raises(SpecError, match="known latenc"):
        FewShot(known)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    features, known = pool(20)
    with pytest.raises(SpecError, match="chips"):
        FewShot(known, chips=["a"])
    with pytest.raises(SpecError, match="features"):
        FewShot(known, features=[features[:5]])
    model = FewShot(known)
    with pytest.raises(SpecError, match="at least 3"):
        model.adapt([0, 1], [1.0, 2.0])
    with pytest.raises(SpecError, match="one latency each"):
        model.adapt([0, 1, 2], [1.0, 2.0])
    with pytest.raises(SpecError, match="outside"):
        model.adapt([0, 1, 20], [1.0, 2.0, 3.0])
    for bad in (0.0, float("nan"), -1.0):
        with pytest.raises(SpecError, match="positive"):
            model.adapt([0, 1, 2], [1.0, 2.0, bad])
