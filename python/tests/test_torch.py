"""Features of PyTorch networks: the same log-densities as torch.distributions, through hooks that leave them as they were."""

import numpy as np
import pytest
from reference import log_density

import ddu
from ddu import _gpu

torch = pytest.importorskip("torch", reason="no PyTorch here: its tests are skipped")
from networks import NETWORKS, labelled, made, pictures

import ddu.torch


@pytest.fixture(scope="module", params=NETWORKS)
def fitted(request):
    model, layer = made(request.param)
    moments = ddu.torch.fit(model, layer, labelled(4), classes=4)
    return request.param, model, layer, moments


def features_of(model, layer, images):
    seen = []
    hook = dict(model.named_modules())[layer].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(images)
    hook.remove()
    return seen[0]


def mixture(density, dtype):
    values = density.parameters().values()
    stacked = [torch.tensor(np.array([v[name] for v in values]), dtype=dtype) for name in ("mean", "covariance", "log_prior")]
    mean, covariance, prior = stacked
    normal = torch.distributions.MultivariateNormal(mean, covariance, validate_args=False)
    return lambda z: torch.logsumexp(normal.log_prob(z[:, None]) + prior, 1)


def test_equal_to_multivariate_normal(fitted, record_property):
    name, model, layer, moments = fitted
    density = moments.density()
    features = features_of(model, layer, pictures(7))
    channels = features.shape[1]
    rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
    expected = mixture(density, torch.float64)(rows.half().double()).numpy()
    found = density(features)
    assert found.shape == (1, *features.shape[2:])
    exact, bound = log_density(density, rows.numpy())
    np.testing.assert_allclose(exact, expected, rtol=1e-9, atol=1e-9)
    share = np.abs(found.ravel() - expected) / bound
    assert share.max() <= 1
    print(f"{name}: D = {channels}, |error| <= {np.abs(found.ravel() - expected).max():.1e} nats, {share.max():.3f} of its bound")
    assert np.array_equal(found, density(features.permute(0, 2, 3, 1), layout="NHWC"))
    for narrow in (features.half(), features.bfloat16()):
        assert np.array_equal(density(narrow), density(narrow.float()))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_what_lies_on_a_gpu_is_brought_to_the_form_of_its_kernels(dtype, layout):
    """By PyTorch alone, on any device of its: here on the CPU."""
    features = (100 * torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(1))).to(getattr(torch, dtype))
    for given, shape in ((features, (2, 6, 7)), (features[1], (6, 7)), (features[:, :, ::2], (2, 3, 7))):
        last = given.movedim(-3, -1)
        rows, found = _gpu.features(given if layout == "NCHW" else last, layout)
        assert (found, rows.dtype, rows.is_contiguous()) == (shape, torch.float16, True)
        assert np.array_equal(rows.numpy(), last.float().numpy().astype(np.float16))
        _gpu.require_finite(rows, 2)
    rows[1, 2, 4, 3] = float("nan")
    with pytest.raises(ddu.InvalidError, match=r"pixel 18 of image 1; non_finite=\"skip\""):
        _gpu.require_finite(rows, 2)


def test_images_and_labels_on_a_gpu_too():
    image = torch.randint(0, 256, (9, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    first = image.permute(2, 0, 1)
    for given in (image, first, first / 255, (image / 255).half(), (image.double() / 255)):
        found = _gpu.rgb(given)
        assert found.is_contiguous()
        assert torch.equal(found, image)
    for bad, says in (
        (image.float(), "as uint8"),
        (image / 255 - 0.5, "before any normalisation"),
        (image * torch.nan, "found nan"),
        (first[:, :, :3], "may be either"),
    ):
        with pytest.raises(ddu.InvalidError, match=says):
            _gpu.rgb(bad)
    labels = torch.tensor([[0, 3], [255, 7]])
    assert torch.equal(_gpu.labels(labels), labels.to(torch.uint8))
    for bad, says in ((labels - 100, "-100 to 155"), (labels.float(), "expected integers")):
        with pytest.raises(ddu.InvalidError, match=says):
            _gpu.labels(bad)
    with pytest.raises(ddu.Error):
        ddu.torch.fit(torch.nn.Conv2d(3, 16, 1), "", [(torch.zeros(1, 3, 4, 4), labels[None])], classes=4, device="cuda:99")


def test_uncertain_leaves_the_network_as_it_was(fitted):
    _, model, layer, moments = fitted
    density = moments.density()
    images = pictures(8, n=2)

    def logits(output):
        if isinstance(output, dict):  # torchvision's, and transformers' ModelOutput
            return output["out"] if "out" in output else output["logits"]
        return output

    with torch.no_grad():
        expected = logits(model(images))
        uncertain = ddu.torch.Uncertain(model, layer, density)
        output, score = uncertain(images)
    assert torch.equal(logits(output), expected)
    features = features_of(model, layer, images)
    assert score.shape == (2, *features.shape[2:])
    assert np.array_equal(score.numpy(), density(features))
    relative = ddu.torch.Uncertain(model, dict(model.named_modules())[layer], density, score="relative")
    assert np.array_equal(relative(images).score.numpy(), density.relative(features))
    assert not dict(model.named_modules())[layer]._forward_pre_hooks


def test_gradients_pass_the_network(fitted):
    _, model, layer, moments = fitted
    output, score = ddu.torch.Uncertain(model, layer, moments.density())(pictures(9).requires_grad_())
    assert not score.requires_grad
    tensor = output if isinstance(output, torch.Tensor) else next(iter(output.values()))
    assert tensor.requires_grad


def test_refusals():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 1), torch.nn.Conv2d(6, 2, 1))
    moments = ddu.torch.fit(model, "1", labelled(2), classes=4)
    density = moments.density()
    with pytest.raises(ddu.InvalidError, match="a module of the network, found 'head'"):
        ddu.torch.Uncertain(model, "head", density)
    with pytest.raises(ddu.InvalidError, match="found another"):
        ddu.torch.Uncertain(model, torch.nn.Conv2d(6, 2, 1), density)
    with pytest.raises(ddu.InvalidError, match="found 'entropy'"):
        ddu.torch.Uncertain(model, "1", density, score="entropy")
    with pytest.raises(ddu.InvalidError, match="6 channels, found 3"):
        ddu.torch.Uncertain(model, "0", density)(pictures(1))
    with pytest.raises(ddu.InvalidError, match="found none"):
        ddu.torch.fit(model, "1", [], classes=4)
    with pytest.raises(ddu.InvalidError, match="features"):
        density(torch.zeros(1, 6, 2, 2, device="meta"))
    with pytest.raises(ddu.InvalidError, match="features"):
        density(torch.zeros(6, 6).to_sparse())
    with pytest.raises(ddu.InvalidError, match="found float64"):
        density(torch.zeros(1, 6, 2, 2, dtype=torch.float64))
    twice = torch.nn.Conv2d(3, 3, 1)
    with pytest.raises(ddu.InvalidError, match="found 2 runs"):
        ddu.torch.fit(torch.nn.Sequential(twice, twice), twice, labelled(1), classes=4)


def test_tensors_as_images():
    engine = ddu.load(ddu.demo_model())
    image = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8)
    assert np.array_equal(engine(image).entropy, engine(image.numpy()).entropy)
    assert len(engine(torch.stack([image, image]))) == 2
    expected = engine(image).entropy
    for given in (image.permute(2, 0, 1), image / 255, image.permute(2, 0, 1).contiguous() / 255):
        assert np.array_equal(engine(given).entropy, expected)
    for bad in (image.float(), (image / 255).bfloat16()):
        with pytest.raises(ddu.InvalidError, match="from 0 to 1"):
            engine(bad)
