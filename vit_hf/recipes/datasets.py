# SPDX-License-Identifier: Apache-2.0
"""The data sets that recipes were made for, with the numbers that steps and costs follow from."""

from .recipe import Dataset

JFT_300M = Dataset(
    name="JFT-300M",
    num_images=303_000_000,
    num_classes=18_291,
    source="Dosovitskiy et al. 2020, section 4.1 (303 M images, 18k classes); Sun et al. 2017 "
    "(arXiv 1707.02968) for 18,291; not public",
)
IMAGENET_21K = Dataset(
    name="ImageNet-21k",
    num_images=14_197_122,
    num_classes=21_843,
    source="Dosovitskiy et al. 2020, section 4.1 (14 M images); image-net.org for the count; "
    "21,843 outputs in the authors' checkpoints",
)
IMAGENET = Dataset(
    name="ImageNet",
    num_images=1_281_167,
    num_classes=1000,
    source="ILSVRC 2012, training set",
    hub_id="ILSVRC/imagenet-1k",
)
CIFAR_10 = Dataset(
    name="CIFAR-10",
    num_images=50_000,
    num_classes=10,
    source="Krizhevsky 2009, training set",
    hub_id="uoft-cs/cifar10",
)
CIFAR_100 = Dataset(
    name="CIFAR-100",
    num_images=50_000,
    num_classes=100,
    source="Krizhevsky 2009, training set, fine labels",
    hub_id="uoft-cs/cifar100",
)
PETS = Dataset(
    name="Oxford-IIIT Pets",
    num_images=3680,
    num_classes=37,
    source="Parkhi et al. 2012, trainval",
    hub_id="timm/oxford-iiit-pet",
)
FLOWERS = Dataset(
    name="Oxford Flowers-102",
    num_images=1020,
    num_classes=102,
    source="Nilsback and Zisserman 2008, training set",
)
VTAB = Dataset(
    name="VTAB-1k",
    num_images=1000,
    num_classes=None,
    source="Dosovitskiy et al. 2020, section 4.1: 19 tasks of 1,000 training images",
)
