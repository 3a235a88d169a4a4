"""Images of every kind in, maps out; what is no image is refused."""

import pickle
import threading

import numpy as np
import pytest

import ddu


@pytest.fixture(scope="module")
def image(scenes):
    PIL = pytest.importorskip("PIL.Image")
    return np.asarray(PIL.open(scenes / "JPEGImages" / "test-00000.png"))


@pytest.fixture(scope="module")
def maps(engine, image):
    return engine(image)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in ((a.label, b.label), (a.entropy, b.entropy), (a.density, b.density)))


def test_maps(maps, image, engine):
    assert maps.shape == image.shape[:2] == maps.label.shape
    assert maps.label.dtype == np.uint8
    assert maps.entropy.dtype == maps.density.dtype == np.float32
    classes = len(engine.model.classes)
    assert maps.label.max() < classes
    assert maps.entropy.min() >= 0
    assert maps.entropy.max() <= np.log(classes)
    assert np.isfinite(maps.density).all()
    assert maps.scores == ["entropy", "energy", "density", "relative"]
    assert "density" in repr(maps)


def test_arrays_own_their_memory_and_outlive_the_engine(scenes):
    engine = ddu.load(ddu.demo_model())
    maps = engine(np.zeros((32, 48, 3), np.uint8))
    entropy = maps.entropy
    kept = entropy.copy()
    assert maps.entropy is entropy
    engine(np.full((32, 48, 3), 200, np.uint8))
    del engine, maps
    assert np.array_equal(entropy, kept)


def test_ways_to_name_an_image(engine, maps, image, scenes):
    PIL = pytest.importorskip("PIL.Image")
    path = scenes / "JPEGImages" / "test-00000.png"
    read_only = image.copy()
    read_only.flags.writeable = False
    wide = np.zeros((image.shape[0], 2 * image.shape[1], 3), np.uint8)
    wide[:, ::2] = image
    backwards = np.ascontiguousarray(image[::-1])[::-1]
    first = np.ascontiguousarray(image.transpose(2, 0, 1))
    floats = [(image / 255).astype(kind) for kind in (np.float16, np.float32, np.float64, ">f4")]
    arrays = [read_only, wide[:, ::2], backwards, Exported(image), first, first.astype(np.float32) / 255, *floats]
    for given in (path, str(path), PIL.open(path), *arrays):
        assert same(engine(given), maps)
    for batch in (1, 2, 3):
        several = engine([path, image, read_only], batch=batch)
        assert len(several) == 3
        assert all(same(one, maps) for one in several)
    for stack in (np.stack([image, image]), np.stack([first, first])):
        assert all(same(one, maps) for one in engine(stack, batch=2))
    small = image[:40, :56]
    sizes = [one.shape for one in engine([image, small, image], batch=8)]
    assert sizes == [image.shape[:2], (40, 56), image.shape[:2]]
    assert engine([]) == []


class Exported:
    """An array that is known by DLPack alone."""

    def __init__(self, array):
        self.array = array
        self.dtype = array.dtype

    ndim = 3

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_three_rows_are_told_by_pil(engine):
    PIL = pytest.importorskip("PIL.Image")
    rows = np.random.default_rng(0).integers(0, 256, (3, 40, 3), np.uint8)
    assert engine(PIL.fromarray(rows)).shape == (3, 40)
    with pytest.raises(ddu.InvalidError, match="either"):
        engine(rows)


def test_features_and_resize(engine, image):
    features = engine.features(image)
    assert features.ndim == 3
    assert features.shape[2] == engine.model.channels
    assert features.dtype == np.float32
    with pytest.warns(ddu.DensityWarning, match="resize=None, this call has resize=96"):
        assert engine(image, resize=96).shape[0] == 96


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((8, 8), np.uint8), "repeat a gray image"),
        (np.zeros((3, 8, 3), np.uint8), "may be either; PIL"),
        (np.full((8, 8, 3), -0.5, np.float32), "found -0.5 to -0.5; give pictures before any normalisation"),
        (np.full((8, 8, 3), np.nan, np.float32), "found nan to nan"),
        (np.full((3, 8, 8), 255, np.float64), "found 255 to 255; give one of 0 to 255 as uint8"),
        (np.zeros((8, 8, 3), np.int64), "of int64"),
        (np.zeros((3, 0, 8), np.uint8), "at least 1"),
        (np.zeros((8, 8, 4), np.uint8), r"\[8, 8, 4\] of uint8"),
        (np.zeros((0, 8, 3), np.uint8), "at least 1"),
        (np.zeros(5, np.uint8), r"\[5\]"),
        (7, "found int"),
        (None, "found NoneType"),
        (object(), "found object"),
    ],
)
def test_what_is_no_image(engine, bad, says):
    with pytest.raises(ddu.InvalidError, match=says) as caught:
        engine(bad)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_what_is_no_file(engine, tmp_path):
    with pytest.raises(ddu.FileError, match="cannot read") as caught:
        engine(tmp_path / "none.png")
    assert isinstance(caught.value, OSError)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(ddu.InvalidError, match=r"text\.png"):
        engine(text)


def test_scores_and_devices_that_are_not_there(engine, maps, density):
    with pytest.raises(ddu.InvalidError, match="one of entropy"):
        maps.score("confidence")
    with pytest.raises(ddu.InvalidError, match=r"scores=\["):
        maps.score("clipped-entropy")
    with pytest.raises(ddu.InvalidError, match="a density for it"):
        ddu.load(ddu.demo_model(), scores=["density"])
    with pytest.raises(ddu.InvalidError, match="weighted moments"):
        ddu.load(ddu.demo_model(), density, scores=["weighted-density"])
    with pytest.raises(ddu.InvalidError, match="cuda:N"):
        ddu.load(ddu.demo_model(), device="gpu")
    with pytest.raises(ddu.Error, match="cuda:99"):
        ddu.load(ddu.demo_model(), device="cuda:99")
    with pytest.raises(ddu.InvalidError, match="precision fast"):
        ddu.load(ddu.demo_model(), density, precision="fast")


def test_a_density_of_another_model(density):
    moments = ddu.Moments(["a", "b"], density.channels)
    features = np.random.default_rng(0).normal(size=(400, density.channels)).astype(np.float32)
    other = moments.update(features, np.arange(400) % 2).density()
    with pytest.raises(ddu.InvalidError, match="a density of this model"):
        ddu.load(ddu.demo_model(), other)


def test_threads_share_an_engine(engine, image, maps):
    found = [None] * 4

    def work(i):
        found[i] = engine(image)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(same(one, maps) for one in found)


def test_pickles(density, image, maps, tmp_path):
    model = pickle.loads(pickle.dumps(ddu.demo_model()))
    again = pickle.loads(pickle.dumps(density))
    assert same(ddu.load(model, again)(image), maps)
    model.save(tmp_path / "model")
    density.save(tmp_path / "density")
    assert same(ddu.load(tmp_path / "model", tmp_path / "density")(image), maps)
