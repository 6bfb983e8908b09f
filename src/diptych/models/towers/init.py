"""Random starting values for weights, all from one generator."""

import math

from torch import Generator, Tensor, nn

# Standard deviation of a standard normal cut off at two: what is drawn is divided by it.
TRUNCATED_STD = 0.87962566103423978


class Initializer:
    """Fills tensors in place; the order of the calls and the generator's seed decide every value."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def normal(self, tensor: Tensor, std: float) -> None:
        """Draw from a normal distribution around zero."""
        tensor.normal_(0.0, std, generator=self.generator)

    def uniform(self, tensor: Tensor, bound: float) -> None:
        """Draw evenly from -bound to bound."""
        tensor.uniform_(-bound, bound, generator=self.generator)

    def default(self, module: nn.Linear | nn.Conv2d) -> None:
        """PyTorch's default, Kaiming-uniform with a = sqrt(5): U(+-fan_in^-0.5), the bias too."""
        bound = module.weight[0].numel() ** -0.5
        self.uniform(module.weight, bound)
        if module.bias is not None:
            self.uniform(module.bias, bound)

    def xavier(self, weight: Tensor) -> None:
        """Glorot and Bengio 2010, uniform: U(+-sqrt(6 / (fan_in + fan_out))) for a (D_out, D_in) weight."""
        self.uniform(weight, math.sqrt(6 / sum(weight.shape)))

    def lecun(self, module: nn.Linear | nn.Conv2d) -> None:
        """LeCun 1998 as Flax draws it: normal of deviation fan_in^-0.5, cut off at two; the bias is zero."""
        std = module.weight[0].numel() ** -0.5 / TRUNCATED_STD
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std, generator=self.generator)
        if module.bias is not None:
            module.bias.zero_()
