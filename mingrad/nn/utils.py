"""What PyTorch has in torch.nn.utils: clipping of gradients, from mingrad.optim."""

from ..optim import clip_grad_norm_, clip_grad_value_

__all__ = ["clip_grad_norm_", "clip_grad_value_"]
