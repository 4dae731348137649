"""Pure array mathematics under the classes: masks, affine integers, codebooks, factors, entropy coding."""
