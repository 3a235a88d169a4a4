"""Three networks that ddu cannot import, with random weights: how each is called and where its features are."""

import pytest

torch = pytest.importorskip("torch", reason="no PyTorch here: its tests are skipped")


def lraspp():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    return model, "classifier.high_classifier", lambda images: (images,)


def unet():
    smp = pytest.importorskip("segmentation_models_pytorch")
    return smp.Unet("resnet18", encoder_weights=None, classes=5), "segmentation_head.0", lambda images: (images,)


def segformer():
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(num_labels=5)
    return (
        transformers.SegformerForSemanticSegmentation(config),
        "decode_head.classifier",
        lambda images: (images,),
    )


NETWORKS = {"LR-ASPP": lraspp, "U-Net": unet, "SegFormer": segformer}


def made(name, seed=0):
    """The network in evaluation mode, and the name of the layer whose input is the feature."""
    torch.manual_seed(seed)
    model, layer, _ = NETWORKS[name]()
    # Running statistics of pictures instead of 0 and 1, so that features have a network's spread.
    model.train()
    with torch.no_grad():
        for step in range(3):
            model(pictures(step, n=2))
    return model.eval(), layer


def pictures(seed, n=1, size=(96, 128)):
    """Normalised pictures `[N, 3, H, W]` of smooth noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, size[0] // 8, size[1] // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return smooth + 0.1 * torch.randn(n, 3, *size, generator=generator)


def labelled(count, size=(96, 128)):
    """(pictures, labels): the class of a pixel is a function of its colours."""
    for seed in range(count):
        images = pictures(100 + seed, n=2, size=size)
        labels = (images[:, 0] > 0).long() + 2 * (images[:, 1] > 0).long()
        labels[:, :4] = 255
        yield images, labels
