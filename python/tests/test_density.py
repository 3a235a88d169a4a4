"""Densities and moments of arrays, against numpy in float64."""

import pickle

import numpy as np
import pytest
from reference import log_density

import ddu

CLASSES, D = 3, 13


def draw(seed, n=2, h=17, w=11):
    """Correlated features `[N, D, H, W]` around a mean of each class, and labels with void and unknown ones."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, (n, h, w)).astype(np.uint8)
    mix = np.random.default_rng(99).normal(size=(CLASSES, D, D)) / 2
    z = random.normal(size=(n, h, w, D))
    z = np.einsum("nhwij,nhwj->nhwi", mix[labels], z) + labels[..., None]
    labels[:, 0, :3] = 255
    labels[:, 1, :2] = 77
    return np.ascontiguousarray(z.transpose(0, 3, 1, 2).astype(np.float32)), labels


@pytest.fixture(scope="module")
def moments():
    made = ddu.Moments(CLASSES, D)
    for seed in range(6):
        made.update(*draw(seed))
    return made


@pytest.fixture(scope="module")
def density(moments):
    return moments.density()


def test_moments_are_those_of_numpy(moments, density):
    drawn = [draw(seed) for seed in range(6)]
    z = np.concatenate([f.transpose(0, 2, 3, 1).reshape(-1, D) for f, _ in drawn])
    z = z.astype(np.float16).astype(np.float64)
    labels = np.concatenate([label.ravel() for _, label in drawn])
    assert moments.pixels == {
        "fitted": int((labels < CLASSES).sum()),
        "void": int((labels == 255).sum()),
        "non_finite": 0,
        "unknown": int((labels == 77).sum()),
    }
    for c, values in density.parameters().items():
        of_class = z[labels == c]
        assert moments.count[c] == len(of_class)
        # Sums of float16 in float32 blocks of at most 128, then float64: 128 units of 2^-24 of the sum of magnitudes.
        scale = np.abs(of_class).mean(0)
        assert (np.abs(values["mean"] - of_class.mean(0)) <= 128 * 2.0**-24 * scale).all()
        expected = np.cov(of_class.T) + values["eps"] * np.eye(D)
        spread = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert (np.abs(values["covariance"] - expected) <= 131 * 2.0**-24 * spread).all()
        assert values["log_prior"] == pytest.approx(np.log(len(of_class) / (labels < CLASSES).sum()), rel=1e-14)


def test_log_density_is_that_of_float64(density):
    features, _ = draw(7)
    flat = features.transpose(0, 2, 3, 1).reshape(-1, D)
    expected, bound = log_density(density, flat)
    found = density(features)
    assert found.shape == (2, 17, 11)
    assert (np.abs(found.ravel() - expected) <= bound).all()
    assert bound.max() < 0.02, "a bound that says something"
    far = density(features + 100)
    assert (far < found).all()


def test_every_layout_and_type_gives_the_same_bits(density):
    features, _ = draw(8)
    features = features.astype(np.float16).astype(np.float32)
    expected = density(features)
    last = np.ascontiguousarray(features.transpose(0, 2, 3, 1))
    ways = [
        (features.astype(np.float16), "NCHW"),
        (last, "NHWC"),
        (last.astype(np.float16), "NHWC"),
        (last.transpose(0, 3, 1, 2), "NCHW"),
        (np.asfortranarray(features), "NCHW"),
        (np.repeat(features, 2, axis=1)[:, ::2], "NCHW"),
        (np.repeat(features, 2, axis=3)[..., ::2], "NCHW"),
        (features[::-1, :, ::-1].copy()[::-1, :, ::-1], "NCHW"),
        (features.astype(">f4"), "NCHW"),
    ]
    for given, layout in ways:
        given.flags.writeable = False
        assert np.array_equal(density(given, layout=layout), expected)
    assert np.array_equal(density(features[1]), expected[1])
    assert np.array_equal(density(last.reshape(-1, D)), expected.ravel())


def test_relative_and_mahalanobis(density):
    features, _ = draw(9)
    flat = features.transpose(0, 2, 3, 1).reshape(-1, D).astype(np.float16).astype(np.float64)
    distances = []
    for values in density.parameters().values():
        x = flat - values["mean"]
        distances.append(np.sqrt(np.einsum("pi,ij,pj->p", x, np.linalg.inv(values["covariance"]), x)))
    nearest, distance = density.mahalanobis(features)
    expected = np.array(distances)
    assert np.array_equal(nearest.ravel(), expected.argmin(0))
    np.testing.assert_allclose(distance.ravel(), expected.min(0), rtol=1e-4)
    mean, whitening, peak = density._density.background()
    background = peak - 0.5 * (((flat - mean) @ whitening.T) ** 2).sum(1)
    np.testing.assert_allclose(density.relative(features).ravel(), density(features).ravel() - background, atol=1e-3, rtol=1e-5)


def test_batches_sums_pickles_and_files(moments, density, tmp_path):
    def content(made):
        return made._moments.to_bytes()

    by_image = ddu.Moments(CLASSES, D)
    for seed in range(6):
        features, labels = draw(seed)
        for image, mask in zip(features, labels, strict=True):
            by_image.update(image, mask)
    assert content(by_image) == content(moments)
    assert content(pickle.loads(pickle.dumps(moments))) == content(moments)
    moments.save(tmp_path / "moments")
    assert content(ddu.Moments.load(tmp_path / "moments")) == content(moments)
    parts = [ddu.Moments(CLASSES, D).update(*draw(seed)) for seed in range(6)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert (total.count == moments.count).all()
    features, _ = draw(10)
    # The order of float64 sums is another: 2^-53 against the 2^-24 of the evaluation.
    np.testing.assert_allclose(total.density()(features), density(features), rtol=1e-6)
    loaded = ddu.Density.load(tmp_path / "moments", covariance="tied", prior="uniform")
    again = pickle.loads(pickle.dumps(loaded))
    assert (again.covariance, again.prior) == ("tied", "uniform")
    assert np.array_equal(again(features), moments.density(covariance="tied", prior="uniform")(features))


def test_a_condition_is_kept(moments):
    before, after = moments.density().conditions[0]
    assert after <= 1e4 < before
    _, capped = moments.density(condition=3.0).conditions[0]
    assert capped <= 3.0
    with pytest.raises(ddu.InvalidError, match="at least 2"):
        moments.density(condition=1.5)


def test_features_that_are_not_finite(density):
    features, labels = draw(11)
    features[0, 3, 5, 6] = np.nan
    features[1, 0, 2, 2] = 7e4  # float16 ends at 65504
    found = density(features)
    assert np.isneginf(found[0, 5, 6])
    assert np.isneginf(found[1, 2, 2])
    assert np.isfinite(found).sum() == found.size - 2
    made = ddu.Moments(CLASSES, D)
    with pytest.raises(ddu.InvalidError, match=r"pixel 61 of image 0; non_finite=\"skip\""):
        made.update(features, labels)
    assert made.pixels["fitted"] == 0, "nothing was added"
    made.update(features, labels, non_finite="skip")
    assert made.pixels["non_finite"] == 2


GOOD = np.zeros((1, D, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (np.zeros(D, np.float32), "found"),
        (np.zeros((1, 1, D, 4, 4), np.float32), r"\[1, 1, 13, 4, 4\]"),
        (GOOD.astype(np.float64), "found float64"),
        (GOOD.astype(np.int32), "found int32"),
        (GOOD.astype(np.complex64), "found complex64"),
        (np.zeros((1, D + 1, 4, 4), np.float32), "13 channels, found 14"),
        (GOOD.transpose(0, 2, 3, 1), "13 channels, found 4"),
        (np.zeros((0, D, 4, 4), np.float32), "at least one"),
        (np.zeros((1, D, 0, 4), np.float32), "at least one"),
        ([[1.0] * D], "found list"),
        ("features", "found str"),
        (None, "found NoneType"),
    ],
)
def test_what_are_no_features(density, features, says):
    with pytest.raises(ddu.InvalidError, match=says) as caught:
        density(features)
    assert "\n" not in str(caught.value)
    with pytest.raises(ddu.InvalidError, match=f"{says}|labels"):
        ddu.Moments(CLASSES, D).update(features, np.zeros((1, 4, 4), np.uint8))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.zeros((1, 4, 5), np.uint8), r"expected \[1, 4, 4\].*sample_labels"),
        (np.zeros((4, 4), np.uint8), r"expected \[1, 4, 4\]"),
        (np.zeros((1, 4, 4), np.float32), "expected integers"),
        (np.full((1, 4, 4), -100), "-100 to -100; give void pixels the label 255"),
        (np.full((1, 4, 4), 300), "300 to 300"),
    ],
)
def test_what_are_no_labels(labels, says):
    with pytest.raises(ddu.InvalidError, match=says):
        ddu.Moments(CLASSES, D).update(GOOD, labels)


def test_other_refusals(moments, density, tmp_path):
    with pytest.raises(ddu.InvalidError, match="layout"):
        density(GOOD, layout="HWC")
    with pytest.raises(ddu.InvalidError, match="one of full, tied, diagonal"):
        moments.density(covariance="round")
    with pytest.raises(ddu.InvalidError, match="2 samples"):
        ddu.Moments(CLASSES, D).density()
    with pytest.raises(ddu.InvalidError, match="14 channels"):
        moments + ddu.Moments(CLASSES, D + 1)
    with pytest.raises(ddu.InvalidError, match="a, b, c"):
        moments + ddu.Moments(["a", "b", "c"], D)
    for classes, channels in ((0, 4), (256, 4), (4, 0)):
        with pytest.raises(ddu.InvalidError, match="expected 1 to"):
            ddu.Moments(classes, channels)
    (tmp_path / "text").write_text("no density")
    with pytest.raises(ddu.InvalidError, match="a density written by"):
        ddu.Density.load(tmp_path / "text")
    with pytest.raises(ddu.FileError, match="cannot read"):
        ddu.Moments.load(tmp_path / "none")
    with pytest.warns(ddu.DensityWarning, match="left out"):
        ddu.Moments(2, D).update(GOOD + np.arange(16, dtype=np.float32).reshape(4, 4), np.zeros((1, 4, 4), int)).density()


def test_sample_labels():
    mask = np.arange(16, dtype=np.int64).reshape(4, 4)
    assert ddu.sample_labels(mask, (2, 2)).tolist() == [[5, 7], [13, 15]]
    assert ddu.sample_labels(mask, (2, 2), align_corners=True).tolist() == [[0, 3], [12, 15]]
    assert np.array_equal(ddu.sample_labels(mask, (4, 4)), mask)
    with pytest.raises(ddu.InvalidError, match=r"\[H, W\]"):
        ddu.sample_labels(mask[None], (2, 2))
    with pytest.raises(ddu.InvalidError, match="at least 1"):
        ddu.sample_labels(mask, (0, 2))
