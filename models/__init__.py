"""Networks to train, in Flax NNX."""

from models.wide_resnet import WideResNet

__all__ = ['WideResNet']
