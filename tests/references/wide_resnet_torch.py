"""The Wide ResNet in PyTorch, a reference for ``models.WideResNet``.

Written from Zagoruyko and Komodakis, "Wide Residual Networks" (BMVC 2016),
section 2 and table 1, not from ``models``. Only the names of the layers are the
same, so that weights can be copied. Importing this file without PyTorch skips
the importing test.
"""

from flax import nnx
import numpy as np
import pytest

from tests.references import golden

torch = pytest.importorskip('torch')


class WideResNet(torch.nn.Module):
  """WRN-depth-widen_factor with blocks B(3, 3), images in NCHW."""

  def __init__(
    self, depth, widen_factor, num_classes, in_channels, dropout_rate=0.0
  ):
    super().__init__()
    self.stem = torch.nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
    widths = [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
    blocks = []
    for group in (1, 2, 3):
      for i in range((depth - 4) // 6):
        first = i == 0
        blocks.append(
          _Block(
            widths[group - 1] if first else widths[group],
            widths[group],
            2 if first and group > 1 else 1,
            dropout_rate,
          )
        )
    self.blocks = torch.nn.ModuleList(blocks)
    self.norm = torch.nn.BatchNorm2d(widths[3], eps=1e-5, momentum=0.1)
    self.head = torch.nn.Linear(widths[3], num_classes)

  def forward(self, images):
    x = self.stem(images)
    for block in self.blocks:
      x = block(x)
    x = torch.relu(self.norm(x))
    return self.head(x.mean(dim=(2, 3)))


class _Block(torch.nn.Module):
  """BN-ReLU-conv, BN-ReLU-dropout-conv, plus the shortcut."""

  def __init__(self, channels, out_channels, stride, dropout_rate):
    super().__init__()
    self.norm1 = torch.nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)
    self.conv1 = torch.nn.Conv2d(
      channels, out_channels, 3, stride=stride, padding=1, bias=False
    )
    self.norm2 = torch.nn.BatchNorm2d(out_channels, eps=1e-5, momentum=0.1)
    self.dropout = torch.nn.Dropout(dropout_rate)
    self.conv2 = torch.nn.Conv2d(
      out_channels, out_channels, 3, padding=1, bias=False
    )
    if channels != out_channels:
      self.projection = torch.nn.Conv2d(
        channels, out_channels, 1, stride=stride, bias=False
      )

  def forward(self, x):
    active = torch.relu(self.norm1(x))
    # The projection reads the pre-activation; an identity shortcut does not.
    shortcut = self.projection(active) if hasattr(self, 'projection') else x
    x = self.conv1(active)
    x = self.conv2(self.dropout(torch.relu(self.norm2(x))))
    return x + shortcut


def load_weights(model: torch.nn.Module, weights: golden.Arrays) -> None:
  """Sets every parameter and running statistic of a PyTorch model."""
  state = {
    name: torch.from_numpy(array.copy()) for name, array in weights.items()
  }
  missing, unexpected = model.load_state_dict(state, strict=False)
  assert not unexpected
  assert all(name.endswith('num_batches_tracked') for name in missing), missing


def copy_to_nnx(model: torch.nn.Module, nnx_model: nnx.Module) -> None:
  """Copies weights and statistics of a PyTorch model to an NNX model."""
  arrays = {
    name: tensor.detach().numpy()
    for name, tensor in model.state_dict().items()
    if not name.endswith('num_batches_tracked')
  }
  golden.copy_to_nnx(arrays, nnx_model)


def one_training_step(
  model: torch.nn.Module, images: np.ndarray, labels: np.ndarray
) -> golden.Arrays:
  """Evaluates, then runs the forward and backward pass of a training step.

  Args:
    model: Its running statistics change; its parameters do not.
    images: shape=(batch, height, width, channels).
    labels: shape=(batch,).

  Returns:
    ``eval_logits``; ``train_logits``; ``loss``; ``gradient/NAME`` of each
    parameter; ``statistic/NAME`` after the step; ``count/NAME``, the number of
    values in the statistics of a batch norm.
  """
  images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
  model.eval()
  with torch.no_grad():
    results = {'eval_logits': model(images)}

  model.train()
  counts = {}

  def count(module, args):
    counts[module] = args[0].numel() // args[0].shape[1]

  norms = {
    name: module
    for name, module in model.named_modules()
    if isinstance(module, torch.nn.BatchNorm2d)
  }
  hooks = [norm.register_forward_pre_hook(count) for norm in norms.values()]
  logits = model(images)
  for hook in hooks:
    hook.remove()
  loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
  model.zero_grad()
  loss.backward()

  results |= {'train_logits': logits, 'loss': loss}
  for name, parameter in model.named_parameters():
    results[f'gradient/{name}'] = parameter.grad
  for name, norm in norms.items():
    results[f'statistic/{name}.running_mean'] = norm.running_mean
    results[f'statistic/{name}.running_var'] = norm.running_var
    results[f'count/{name}'] = torch.tensor(counts[norm])
  return {name: tensor.detach().numpy() for name, tensor in results.items()}
