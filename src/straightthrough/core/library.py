"""The namespace of all torch operators of this package, `torch.ops.straightthrough`."""

import torch

library = torch.library.Library("straightthrough", "FRAGMENT")
